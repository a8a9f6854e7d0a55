"""LayerNames: layers chosen by their dotted names, or by fnmatch patterns of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from nested_sparse.errors import NestedSparseError


def chosen_layers(
    option: str, patterns: Sequence[str], layers: Iterable[str], error: type[NestedSparseError]
) -> set[str]:
    """The names among `layers` that match. Raises `error`, which names the option, for a pattern that matches none."""
    names, chosen = list(layers), set[str]()
    for pattern in patterns:
        hits = {name for name in names if fnmatchcase(name, pattern)}
        if not hits:
            raise error(f"{option}: no layer matches {pattern!r}; the layers are: {', '.join(names)}")
        chosen |= hits
    return chosen
