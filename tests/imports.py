"""Imports: the import statements of each Python file of the repository, read from its source without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

PACKAGE = "nested_sparse"
FOLDERS = ("kernels", "runtime", "trainer", "serving", "proto")
"""Top-level folders that are installed as subpackages of `nested_sparse`; what lies in nested_sparse/ is "core"."""
OUTSIDE = ("tests", "tools")
"""Folders that are not installed."""

Sources = Mapping[str, str]
"""Source text by path from the repository's root, e.g. "runtime/session/session.py"."""


@dataclass(frozen=True, slots=True)
class Import:
    """One name, or one module, that a file imports.

    path, line: place of the statement.
    importer: dotted name of the importing module; tests and tools have their path for one.
    target: dotted name of the imported module, relative imports resolved; a submodule that is imported by name from its
        package is the target itself, unless the package's `__all__` has that name.
    name: name imported from `target`, "" where the module itself is imported.
    relative: whether the statement begins with a dot.
    deferred: whether loading the importer leaves the statement out: it is in a function, or for type checkers alone.
    """

    path: str
    line: int
    importer: str
    target: str
    name: str
    relative: bool
    deferred: bool

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.importer} imports {self.target}" + (f".{self.name}" * bool(self.name))


def repository_sources(root: Path) -> dict[str, str]:
    """Every Python file below the folders of the repository at `root`."""
    paths = [path for folder in (PACKAGE, *FOLDERS, *OUTSIDE) for path in sorted((root / folder).rglob("*.py"))]
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in paths}


@cache
def parsed(source: str) -> ast.Module:
    """The tree of a source; each is read several times, by several rules."""
    return ast.parse(source)


def module_name(path: str) -> str:
    """Dotted name that the file at `path` is imported by."""
    parts = PurePosixPath(path).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts if parts[0] not in FOLDERS else (PACKAGE, *parts))


def folder_of(module: str) -> str:
    """Top-level folder of a module of ours: "core" for nested_sparse/ itself; "" for any other module."""
    parts = module.split(".")
    if parts[0] != PACKAGE:
        return parts[0] if parts[0] in OUTSIDE else ""
    return parts[1] if len(parts) > 1 and parts[1] in FOLDERS else "core"


def room_of(module: str) -> str:
    """Subfolder of runtime/ that a module lies in; "" for any other module."""
    parts = module.split(".")
    return parts[2] if parts[:2] == [PACKAGE, "runtime"] and len(parts) > 2 else ""


def packages_around(module: str) -> list[str]:
    """`module`, and every package around it, innermost first: all that importing it loads."""
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]


def read_imports(sources: Sources) -> list[Import]:
    """All imports of all sources, in order."""
    names = {f"{package}.{name}" for package, names in offered(sources).items() for name in names}
    modules = {module_name(path) for path in sources} - names
    return [each for path, source in sources.items() for each in _of_file(path, source, modules)]


def offered(sources: Sources) -> dict[str, list[str]]:
    """`__all__` of each package that has one, by the package's dotted name."""
    found = {}
    for path, source in sources.items():
        for node in parsed(source).body if path.endswith("__init__.py") else ():
            if isinstance(node, ast.Assign) and [ast.unparse(each) for each in node.targets] == ["__all__"]:
                found[module_name(path)] = list(ast.literal_eval(node.value))
    return found


def _of_file(path: str, source: str, modules: set[str]) -> Iterator[Import]:
    importer = module_name(path)
    package = importer if path.endswith("__init__.py") else importer.rpartition(".")[0]
    for node, deferred in _statements(parsed(source).body, False):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(path, node.lineno, importer, alias.name, "", False, deferred)
            continue
        base = _absolute(package, node)
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            target, name = (inner, "") if inner in modules else (base, alias.name)
            yield Import(path, node.lineno, importer, target, name, node.level > 0, deferred)


def _absolute(package: str, node: ast.ImportFrom) -> str:
    """Dotted name of the module that `node` imports from."""
    around = packages_around(package)[node.level - 1 : node.level] if node.level else []
    return ".".join([*around, *([node.module] if node.module else [])])


def _statements(body: Sequence[ast.AST], deferred: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Import statements at any depth, and whether loading the file leaves them out."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, deferred
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _statements(node.body, True)
            yield from _statements(node.orelse, deferred)
        else:
            within = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _statements(list(ast.iter_child_nodes(node)), deferred or within)
