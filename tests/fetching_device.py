"""Fetching device: published models, and a device that follows one of them in this process."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from file_server import FileServer

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import NestedSparseError, RepositoryError
from nested_sparse.runtime import Session
from nested_sparse.serving.fetching.address import Address
from nested_sparse.serving.fetching.follower import Follower
from nested_sparse.serving.fetching.manifest import Manifest
from nested_sparse.serving.fetching.model_store import ModelStore
from nested_sparse.serving.fetching.proof import Trust
from nested_sparse.serving.fetching.publication import publish
from nested_sparse.serving.fetching.source import Source
from nested_sparse.serving.signature import PublicKey
from nested_sparse.writer import header_bytes, write_file

INPUTS = 448
SAMPLE = {"input": np.random.default_rng(1).standard_normal((1, INPUTS)).astype(np.float32)}
FILE = "/net.safetensors"


@dataclass(frozen=True)
class Published:
    """A model as a file server offers it. answers: of each level to SAMPLE."""

    path: Path
    manifest: Manifest
    answers: tuple[np.ndarray, ...]

    @staticmethod
    def of(path: Path, serial: int, **options: Any) -> Published:
        """Publish the file at `path`."""
        output = path.with_name(f"{path.name}.{serial}.manifest")
        _, manifest = publish(path, output, serial=serial, **options)
        with Session(path, threads=1) as session:
            answers = tuple(session.run(SAMPLE, level.index)["output"] for level in session.levels)
        return Published(path, manifest, answers)

    @property
    def files(self) -> dict[str, bytes]:
        """For a FileServer."""
        return {FILE: self.path.read_bytes(), f"{FILE}.manifest": self.manifest.raw}


def changed_densest(source: Path, path: Path, factor: float = 1.5) -> Path:
    """A copy of the checkpoint, in which the scales and shifts of the densest level alone are other ones."""
    with Checkpoint.open(source) as checkpoint:
        levels, places = checkpoint.metadata.levels, checkpoint.segment_places()[-1]
        data = np.frombuffer(checkpoint.data_prefix(len(levels)), np.uint8).copy()
        for place in places:
            if place.name.endswith("/norm"):
                data[place.begin : place.end].view("<f4")[:] *= factor
        digest = hashlib.sha256(data[places[0].begin : places[-1].end]).hexdigest()
        metadata = replace(checkpoint.metadata, levels=(*levels[:-1], replace(levels[-1], sha256=digest)))
    write_file(path, header_bytes(metadata), [data.tobytes()], force=True)
    return path


class Device:
    """Follows `url`, and holds the open session of the version that serves. Use it as a context.

    As a Repository does, it opens a version first, and keeps the one before where that fails. faults: what failed.
    loaded: as Follower.start's.
    """

    def __init__(
        self,
        root: Path,
        url: str,
        key: PublicKey | None = None,
        most_bytes: int = 1 << 30,
        loaded: threading.Event | None = None,
    ) -> None:
        self._loaded = loaded
        self.store = ModelStore(root, "net", most_bytes)
        self._trust = Trust(root, key)
        self._sessions: list[Session] = []
        self.faults: list[str] = []
        self.loads = 0
        self.follower = Follower(Source(Address(url + FILE), timeout_s=5.0), self.store, key)

    def __enter__(self) -> Device:
        for version in reversed(self.store.versions):  # as Repository.load_all()
            with contextlib.suppress(NestedSparseError):
                self._open(version)
                break
        self.follower.start(self._loaded)
        self.follower.attach(self.take_over)
        return self

    def __exit__(self, *_: object) -> None:
        self.follower.close()
        self.follower.thread.join(20)
        self.store.close()
        for session in self._sessions:
            session.close()

    def take_over(self) -> None:
        """As Repository.load()."""
        try:
            self._open(self.store.versions[-1])
        except NestedSparseError as error:
            self.faults.append(str(error))
            raise RepositoryError(f"net cannot be loaded: {error}") from error

    def _open(self, version: int) -> None:
        path = self.store.folder / str(version) / "model.safetensors"
        session = Session(path, threads=1, check=self._trust.check)
        try:
            self._trust.accept(session)
        except NestedSparseError:
            session.close()
            raise
        self._sessions.append(session)
        self.loads += 1

    @property
    def levels(self) -> int:
        """Number of levels that are served."""
        return len(self._sessions[-1].levels) if self._sessions else 0

    def answers(self) -> list[np.ndarray]:
        """The answer of each level that is served."""
        session = self._sessions[-1]
        return [session.run(SAMPLE, level.index)["output"] for level in session.levels]

    def serves(self, published: Published, levels: int | None = None) -> bool:
        """Whether it answers as the published model does, with so many of its levels; None: all."""
        if not self._sessions or self.levels != (len(published.answers) if levels is None else levels):
            return False
        return all(map(np.array_equal, self.answers(), published.answers))

    def becomes(self, published: Published, levels: int | None = None) -> bool:
        """Whether it serves that soon. Each version is asked once: its answers stay the same."""
        asked = 0

        def arrived() -> bool:
            nonlocal asked
            if self.loads == asked:
                return False
            asked = self.loads
            return self.serves(published, levels)

        return wait_until(arrived)


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether it becomes true soon."""
    end_s = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end_s:
        time.sleep(0.01)
    return met


def main() -> None:
    """A process of its own that follows a URL until it is killed. Arguments: folder, URL, file of the public key."""
    root, url, key = sys.argv[1:]
    with Device(Path(root), url, PublicKey(Path(key))):
        threading.Event().wait()


if __name__ == "__main__":
    main()


def stall_after(server: FileServer, published: Published, levels: int) -> None:
    """Have the server rest after so many levels, in the middle of the next."""
    at = len(published.manifest.raw) + published.manifest.prefix_nbytes(levels)
    server.trigger = (at, lambda: setattr(server, "stalled", True))
