"""FetchedFolder: the folder of fetched models, and a model directory beside it, as one for a Repository."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from nested_sparse.errors import NotFoundError
from nested_sparse.excerpt import excerpt

from ..repository.folder import ModelFolder
from ..repository.version_policy import LATEST, VersionPolicy


class FetchedFolder(ModelFolder):
    """The models `names` below `root`, of which the latest version is served, and those of `beside`.

    Other models below `root`, which other servers fetched, are not there for this one. names() are those that have a
    version. Raises as ModelFolder does.
    """

    def __init__(self, root: Path, names: Collection[str], beside: ModelFolder | None = None) -> None:
        super().__init__(root)
        self._names, self._beside = frozenset(names), beside

    def names(self) -> list[str]:
        """As ModelFolder's."""
        others = [] if self._beside is None else self._beside.names()
        own = (name for name in super().names() if name in self._names and super(FetchedFolder, self).versions(name))
        return sorted({*own, *others})

    def versions(self, name: str) -> list[int]:
        """As ModelFolder's."""
        beside = self._other(name)
        return super().versions(name) if beside is None else beside.versions(name)

    def checkpoint(self, name: str, version: int) -> Path:
        """As ModelFolder's."""
        beside = self._other(name)
        return super().checkpoint(name, version) if beside is None else beside.checkpoint(name, version)

    def chosen(self, name: str, policy: VersionPolicy) -> list[int]:
        """As ModelFolder's; `policy` is for those beside."""
        beside = self._other(name)
        return super().chosen(name, LATEST) if beside is None else beside.chosen(name, policy)

    def _other(self, name: str) -> ModelFolder | None:
        """The folder that has the model, where it is not this one."""
        if name in self._names:
            return None
        if self._beside is None:
            raise NotFoundError(f"There is no model '{excerpt(name)}' that this server fetches.")
        return self._beside
