"""Regions: the shared memory that clients have registered."""

from __future__ import annotations

from pathlib import Path

from nested_sparse.errors import ExistsError, InputError, NotFoundError, TooLargeError
from nested_sparse.excerpt import excerpt

from .region import FOLDER, Place, Region

MOST_REGIONS = 256
"""Each holds an open file."""
MAX_NAME_CHARACTERS = 256


class Regions:
    """Regions by name. Belongs to one event loop; regions that were taken out of it serve the requests that hold them.

    limit_bytes: most bytes of a place: the server reads it into its own memory. folder: where the system shows objects.
    """

    def __init__(self, limit_bytes: int, folder: Path = FOLDER) -> None:
        self.limit_bytes = limit_bytes
        self._folder = folder
        self._regions: dict[str, Region] = {}

    def register(self, name: str, key: str, offset: int, nbytes: int) -> None:
        """Open a region. Raises ExistsError, TooLargeError for too many, and what Region raises."""
        if not 0 < len(name) <= MAX_NAME_CHARACTERS:
            raise InputError(f"shared memory: expected a name of 1 to {MAX_NAME_CHARACTERS} characters")
        if name in self._regions:
            raise ExistsError(f"shared memory region '{excerpt(name)}' is registered already; unregister it first")
        if len(self._regions) >= MOST_REGIONS:
            raise TooLargeError(f"shared memory: {MOST_REGIONS} regions are registered; unregister one of them first")
        self._regions[name] = Region(name, key, offset, nbytes, self._folder)

    def unregister(self, name: str) -> None:
        """Forget a region; "" stands for all. An unknown name is no error."""
        if name:
            self._regions.pop(name, None)
        else:
            self._regions.clear()

    def named(self, name: str) -> list[Region]:
        """The region called `name`; all where it is "". Raises NotFoundError."""
        return [self._find(name)] if name else list(self._regions.values())

    def place(self, name: str, offset: int, nbytes: int) -> Place:
        """A part of the region called `name`. Raises NotFoundError, InputError for bounds outside of the region."""
        region = self._find(name)
        if nbytes < 1 or offset < 0 or offset + nbytes > region.nbytes:
            raise InputError(
                f"{region}: expected bytes within its {region.nbytes}, got {nbytes} bytes from offset {offset}"
            )
        return Place(region, offset, nbytes)

    def _find(self, name: str) -> Region:
        region = self._regions.get(name)
        if region is None:
            raise NotFoundError(f"There is no shared memory region '{excerpt(name)}'; register it first.")
        return region
