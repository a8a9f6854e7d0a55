"""Installed size: the bytes of the package and of everything that it needs without extras."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import cache_from_source
from pathlib import Path

from ..reach import Reach
from ..serving.figure import Figure

PACKAGE, PIP = "nested-sparse", "pip"
NAMED_MB = 1.0
"""Smaller packages are summed up in the note."""
REQUIREMENT = re.compile(r"\s*([\w.-]+)([^;]*)(?:;(.*))?")


def installed_figure() -> Figure:
    """The sum, pip with it, since it is in every new environment; the note has each package."""
    sizes_mb = {name: size / 1e6 for name, size in installed_bytes().items()}
    total_mb = sum(sizes_mb.values())
    large = sorted(((mb, name) for name, mb in sizes_mb.items() if mb >= NAMED_MB), reverse=True)
    rest_mb = total_mb - sum(mb for mb, _ in large)
    note = ", ".join(
        [f"{name} {mb:.1f}" for mb, name in large] + [f"{len(sizes_mb) - len(large)} others {rest_mb:.1f}"]
    )
    return Figure(
        "installed size without extras", "MB", Reach("<=", 200.0), round(total_mb, 1), note, details={"mb": sizes_mb}
    )


def installed_bytes() -> dict[str, int]:
    """Bytes on disk by distribution: the package's, those that it requires without extras, theirs, and pip's.

    They are the files that the installer recorded, and the byte code that Python has written since.
    A package that is not installed is left out.
    """
    sizes: dict[str, int] = {}
    open_names = [PACKAGE, PIP]
    while open_names:
        name = re.sub(r"[-_.]+", "-", open_names.pop()).lower()
        if name in sizes:
            continue
        try:
            found = distribution(name)
        except PackageNotFoundError:  # another system's, as colorama
            continue
        sizes[name] = _bytes(found)
        open_names += _required(found)
    return sizes


def _required(found: Distribution) -> Iterator[str]:
    """Names of its requirements but those of an extra. Markers of systems are not looked at: see installed_bytes()."""
    for text in found.requires or ():
        match = REQUIREMENT.match(text)
        if match is not None and "extra" not in (match[3] or ""):
            yield match[1]


def _bytes(found: Distribution) -> int:
    paths = {Path(str(found.locate_file(path))) for path in found.files or ()}
    paths |= {Path(cache_from_source(str(path))) for path in paths if path.suffix == ".py"}
    return sum(path.stat().st_size for path in paths if path.is_file())
