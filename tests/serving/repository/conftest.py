"""Fake repository: a folder of files that stand for checkpoints, and a loader of fake models."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nested_sparse.errors import CheckpointError
from nested_sparse.serving.repository.folder import ModelFolder
from nested_sparse.serving.repository.loader import Loaded, stamp_of
from nested_sparse.serving.repository.repository import Repository
from nested_sparse.serving.repository.version_policy import VersionPolicy


class FakeSession:
    """Remembers that it was closed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.closed = False

    def close(self) -> None:
        """As Session."""
        self.closed = True


class FakeLoader:
    """Makes a fake model of any file, but of one that holds "bad". `gate` is a lock that loads wait for."""

    def __init__(self, make_model: Callable[..., Any]) -> None:
        self.make_model = make_model
        self.loaded: list[Loaded] = []
        self.gate = threading.Lock()

    def load(self, path: Path, name: str = "", version: str = "1") -> Loaded:
        """As Loader."""
        stamp = stamp_of(path)
        with self.gate:
            if path.read_bytes() == b"bad":
                raise CheckpointError(f"{path.name}: broken")
            session: Any = FakeSession(f"{name}/{version}")
            self.loaded.append(Loaded(self.make_model(name, version=version), session, stamp, lambda session: None))
            return self.loaded[-1]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder."""
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def put(root: Path) -> Callable[..., None]:
    """Puts a checkpoint, or replaces one as users should: by renaming."""

    def put(name: str, version: int, content: bytes = b"good") -> None:
        folder = root / name / str(version)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "new").write_bytes(content)
        (folder / "new").rename(folder / "model.safetensors")

    return put


@pytest.fixture
def loader(make_model: Callable[..., Any]) -> FakeLoader:
    """The loader."""
    return FakeLoader(make_model)


@pytest.fixture
def open_repository(root: Path, loader: FakeLoader) -> Callable[..., Repository]:
    """Makes a repository of the folder, with everything loaded."""

    def make(policy: str = "latest", grace_s: float = 5.0) -> Repository:
        repository = Repository(ModelFolder(root), loader, VersionPolicy.read(policy), grace_s)
        repository.load_all()
        return repository

    return make
