"""Fake repository: a loader of fake models, for files that stand for checkpoints."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nested_sparse.errors import CheckpointError
from nested_sparse.serving.repository.loader import Loaded, stamp_of


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
