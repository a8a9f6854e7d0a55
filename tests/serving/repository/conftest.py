"""Fake repository: a folder of files that stand for checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_repository import FakeLoader

from nested_sparse.serving.repository.folder import ModelFolder
from nested_sparse.serving.repository.repository import Repository
from nested_sparse.serving.repository.version_policy import VersionPolicy


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
