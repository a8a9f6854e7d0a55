"""ModelFolder: a directory of models as Triton has them, MODEL/VERSION/model.safetensors."""

from __future__ import annotations

import os
from pathlib import Path

from nested_sparse.errors import InputError, NotFoundError, RepositoryError
from nested_sparse.excerpt import excerpt

from .names import MODEL_FILE, VERSION_NAME
from .version_policy import MOST_VERSION, VersionPolicy

MOST_NAME = 255
MOST_ENTRIES = 10_000
"""Most entries of a folder that are looked at."""


class ModelFolder:
    """Finds models and their versions below `root`. Each answer is that of the file system at that moment.

    Nothing outside of `root` is ever opened. A model's name is the name of one folder, so it cannot lead elsewhere. A
    link may lead to another place below `root`, and one that leads out of it is refused.

    Raises RepositoryError where `root` is no folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._real = self._resolved(root)
        if not self._real.is_dir():
            raise RepositoryError(f"model directory {excerpt(root)}: expected a folder; create it, or name another")

    def names(self) -> list[str]:
        """The names of the models, in order: of the folders, and of links to some, that begin with no dot.

        Raises RepositoryError.
        """
        return sorted(name for name in self._entries(self._real) if _is_name(name) and (self._real / name).is_dir())

    def versions(self, name: str) -> list[int]:
        """The versions of a model, rising, whatever is in them.

        Raises InputError for a name that no model can have, NotFoundError for one that none has, RepositoryError.
        """
        folder = self._model(name)
        found = [int(entry) for entry in self._entries(folder) if VERSION_NAME.fullmatch(entry)]
        return sorted(version for version in found if version <= MOST_VERSION)

    def checkpoint(self, name: str, version: int) -> Path:
        """The path of a version's checkpoint, without links in it. Raises as versions(), and where there is no file."""
        place = f"{name}/{version}/{MODEL_FILE}"
        path = self._inside(self._model(name) / str(version) / MODEL_FILE, place)
        if path is None or not path.is_file():
            raise RepositoryError(f"{excerpt(place)}: there is no such file in the model directory")
        return path

    def chosen(self, name: str, policy: VersionPolicy) -> list[int]:
        """The versions of a model that `policy` serves, rising. Raises as versions(), and where there are none."""
        versions = self.versions(name)
        chosen = policy.chosen(versions)
        if not chosen:
            known = ", ".join(map(str, versions)) or "none"
            raise RepositoryError(f"{name!r}: no version for the policy {policy}; the model directory has {known}")
        return chosen

    def _model(self, name: str) -> Path:
        if not _is_name(name):
            raise InputError(
                f"model name '{excerpt(name)}': expected the name of one folder of the model directory, without a '/' "
                "and without a dot at its begin"
            )
        folder = self._inside(self._real / name, name)
        if folder is None or not folder.is_dir():
            raise NotFoundError(f"The model directory has no model '{excerpt(name)}'.")
        return folder

    def _inside(self, path: Path, place: str) -> Path | None:
        """`path` without links; None where it is not there. Raises RepositoryError where it is not below the root."""
        try:
            real = path.resolve(strict=True)
        except FileNotFoundError:
            return None
        except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError before Python 3.13
            raise RepositoryError(f"{excerpt(place)}: cannot be read ({_reason(error)})") from None
        if not real.is_relative_to(self._real) or real == self._real:
            raise RepositoryError(
                f"{excerpt(place)}: is a link that leads out of the model directory; put the model itself there"
            )
        return real

    def _entries(self, folder: Path) -> list[str]:
        names: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    names.append(entry.name)
                    if len(names) > MOST_ENTRIES:
                        raise RepositoryError(f"{excerpt(folder)}: has more than {MOST_ENTRIES} entries")
        except OSError as error:
            raise RepositoryError(f"{excerpt(folder)}: cannot be read ({_reason(error)})") from None
        return names

    def _resolved(self, root: Path) -> Path:
        try:
            return root.resolve()
        except (OSError, RuntimeError, ValueError) as error:
            raise RepositoryError(f"model directory {excerpt(root)}: cannot be read ({_reason(error)})") from None


def _is_name(name: str) -> bool:
    return 0 < len(name) <= MOST_NAME and name.isprintable() and not name.startswith(".") and "/" not in name


def _reason(error: Exception) -> str:
    return excerpt(getattr(error, "strerror", None) or error)
