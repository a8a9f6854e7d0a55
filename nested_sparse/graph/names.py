"""check_names: the bound on the names in a graph, which errors and profiles repeat."""

from __future__ import annotations

from collections.abc import Sequence

from ..excerpt import excerpt
from ..metadata import MAX_NAME_NBYTES
from ..wire import WireError


def check_names(names: Sequence[str]) -> None:
    """Raises WireError where a name has more than MAX_NAME_NBYTES bytes in UTF-8."""
    for name in names:
        if len(name.encode(errors="replace")) > MAX_NAME_NBYTES:
            raise WireError(f"has a name of more than {MAX_NAME_NBYTES} bytes: {excerpt(name, 60)!r}")
