"""Plain English: rules for the first words of sentences in docstrings and comments, so that the subject is named.

The rules catch only the commonest riddles. `python tests/test_plain_english.py` prints the faults of all folders.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from support import ROOT

FOLDERS = ("nested_sparse", "kernels", "runtime", "trainer", "serving", "proto", "tests", "tools")
"""Top-level folders with code of our own. They must have no faults."""

GENERATED = ("_pb2.py", "_pb2_grpc.py")
"""Ends of the names of generated files, which are not read."""

Text = tuple[int, str]
"""A line number, from 1, and the docstring or comment that begins there."""

SENTENCE_END = re.compile(r"(?<=[.;:!?])\s+|\n\s*\n")
RIDDLE = re.compile(r"(?:Who|What|Whoever|Whatever|Nobody)\s|.*\b[Nn]obody\b")
NOUN_FIRST = re.compile(r"[^\s.:?!][^.:?!\n]{0,70}: (?!(?:who|what|how|why|which|where)\b)\S", re.IGNORECASE)


def sentences(text: str) -> Iterator[str]:
    """The sentences of `text`, also those that end at a colon or a semicolon, each on one line."""
    return (" ".join(sentence.split()) for sentence in SENTENCE_END.split(text))


def joined(comments: list[Text]) -> Iterator[Text]:
    """`comments` with those on successive lines joined into one."""
    first, text = 0, ""
    for (line, comment), (following, _) in pairwise([*comments, (0, "")]):
        first, text = first or line, f"{text} {comment}"
        if following != line + 1:
            yield first, text.strip()
            first, text = 0, ""


def python_texts(source: str) -> Iterator[Text]:
    """Docstrings of modules, classes, functions and fields, and comments, of Python code."""
    blocks = (getattr(node, "body", None) for node in ast.walk(ast.parse(source)))
    for statement in (each for block in blocks if isinstance(block, list) for each in block):
        value = getattr(getattr(statement, "value", None), "value", None) if isinstance(statement, ast.Expr) else None
        if isinstance(value, str):
            yield statement.lineno, value
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [token for token in tokens if token.type == tokenize.COMMENT]
    yield from joined([(comment.start[0], comment.string.lstrip("# ")) for comment in comments])


def cpp_texts(source: str) -> Iterator[Text]:
    """Comments of C++ code that begin with `//`."""
    lines = enumerate(source.splitlines(), 1)
    found = ((number, re.search(r"(?:^|\s)//+\s?(.*)", line)) for number, line in lines)
    return joined([(number, match[1]) for number, match in found if match])


READERS = {".py": python_texts, ".cc": cpp_texts, ".h": cpp_texts, ".inc": cpp_texts}


def faults(name: str, source: str) -> Iterator[str]:
    """A line for each sentence of the file `name` that breaks a rule."""
    path = Path(name)
    for line, text in READERS[path.suffix](source):
        for sentence in sentences(text):
            if RIDDLE.match(sentence):
                yield f"{name}:{line}: expected a noun as the subject, got {sentence[:80]!r}; name it"
    if path.suffix == ".py" and path.name != "__init__.py":
        docstring = ast.get_docstring(ast.parse(source)) or ""
        if not NOUN_FIRST.match(docstring):
            yield f"{name}:1: expected a module docstring 'Noun: noun phrase.', got {docstring[:80]!r}"


def faults_in(folder: str) -> list[str]:
    """The faults of all files in `folder`, a path below the root of the repository."""
    paths = sorted(path for path in (ROOT / folder).rglob("*") if path.suffix in READERS)
    names = [str(path.relative_to(ROOT)) for path in paths if not path.name.endswith(GENERATED)]
    return [fault for name in names for fault in faults(name, (ROOT / name).read_text(encoding="utf-8"))]


@pytest.mark.parametrize("folder", FOLDERS)
def test_sentences_name_their_subjects(folder: str) -> None:
    """No docstring or comment of the folder breaks a rule."""
    assert (ROOT / folder).is_dir()
    assert faults_in(folder) == []


@pytest.mark.parametrize(
    ("name", "source", "line"),
    [
        ("x.py", '"""What runs."""', 1),
        ("x.py", '"""Noun: what it is."""', 1),
        ("x.py", '"""Noun without a description."""', 1),
        ("x.py", '"""Noun: it is here. Whoever reads it, knows."""', 1),
        ("x.py", '"""Noun: a thing."""\n\n\ndef _f():\n    """Who asks, waits."""', 5),
        ("x.py", '"""Noun: a thing."""\nclass A:\n    b: int\n    """What is left."""', 4),
        ("x.py", '"""Noun: a thing."""\nx = 1  # read by nobody', 2),
        ("x.py", '"""Noun: a thing."""\n# a comment.\n# What is left stays', 2),
        ("x.cc", "int a;  // Nobody reads it\n", 1),
        ("x.h", "// A kernel. What it\n// skips is zero.\n", 1),
    ],
)
def test_a_fault_is_found(name: str, source: str, line: int) -> None:
    """Each of these sources breaks a rule, at that line."""
    assert any(fault.startswith(f"{name}:{line}: ") for fault in faults(name, source))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        (
            "x.py",
            '"""Noun: a thing."""\n\n\ndef f():\n    """The result, and what it costs."""\n    return "Who? What "',
        ),
        ("a/__init__.py", '"""All things of the folder."""'),
        ("x.cc", "// The kernel.\nint a;  // its result\n"),
    ],
)
def test_a_named_subject_is_no_fault(name: str, source: str) -> None:
    """These sources keep the rules; strings are not read."""
    assert list(faults(name, source)) == []


if __name__ == "__main__":
    for folder in FOLDERS:
        found = faults_in(folder)
        print(*found, f"{folder}: {len(found)} faults", sep="\n")
