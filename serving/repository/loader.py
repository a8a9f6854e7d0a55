"""Loader: opens a checkpoint and starts the scheduler that serves it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import CheckpointError
from nested_sparse.excerpt import excerpt
from nested_sparse.runtime.profiling import ProfileStore
from nested_sparse.runtime.resources import Governor
from nested_sparse.runtime.scheduling import Device
from nested_sparse.runtime.session import Session, return_freed

from ..load import ModelConfig, load_model
from ..served_model import VERSION, ServedModel


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A served model with the session that it runs on.

    stamp: identity and last change of the file when it was opened. close: ends it, see Loader.
    """

    model: ServedModel
    session: Session
    stamp: tuple[int, ...]
    unwatch: Callable[[Session], None]

    def close(self, grace_s: float) -> bool:
        """Answer what waits within `grace_s`, and free all memory. False where a stuck run keeps it; try again then."""
        self.unwatch(self.session)
        self.model.engine.close(grace_s)
        if self.model.engine.stats().stuck:
            return False
        self.session.close()
        return_freed()  # else a server keeps the memory of the most versions that were ever open at once
        return True


@dataclass(frozen=True, slots=True)
class Loader:
    """All that the models of one server have in common.

    config_of, threads_of: how the model of a name is served, and its threads; None: all usable cores.
    spin: as of a Session.
    device: the models take turns on it. profiles, governor: as of load_model.
    check: called with each checkpoint before its graph is used; it raises what refuses the file.
    accept: called with each open session before it serves; it raises what refuses the model.
    """

    config_of: Callable[[str], ModelConfig]
    threads_of: Callable[[str], int | None] = lambda name: None
    spin: bool = False
    device: Device = field(default_factory=Device)
    profiles: ProfileStore | None = None
    governor: Governor | None = None
    check: Callable[[Checkpoint], None] | None = None
    accept: Callable[[Session], None] | None = None

    def load(self, path: Path, name: str = "", version: str = VERSION) -> Loaded:
        """Open the checkpoint at `path` and serve it as `name`, or under its file's stem; takes seconds.

        Raises CheckpointError, and what load_model(), `check` and `accept` raise.
        """
        stamp = stamp_of(path)
        served_as = name or path.stem
        session = Session(path, threads=self.threads_of(served_as), spin=self.spin, check=self.check)
        try:
            if name:
                session.name = f"{name}/{version}"  # the log tells two versions apart
            if self.accept is not None:
                self.accept(session)
            model = load_model(
                session,
                self.config_of(served_as),
                self.device,
                self.profiles,
                self.governor,
                name=name,
                version=version,
            )
        except BaseException:
            session.close()
            raise
        return Loaded(model, session, stamp, _nothing if self.governor is None else self.governor.unwatch)


def stamp_of(path: Path) -> tuple[int, ...]:
    """Identity, size and last change of a file: a file that was replaced has another one. Raises CheckpointError."""
    try:
        stat = os.stat(path)
    except OSError as error:
        raise CheckpointError(f"{excerpt(path)}: cannot be read ({error.strerror})") from None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def _nothing(_: Session) -> None:
    """No governor watches the session."""
