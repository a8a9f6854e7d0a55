"""Follower: keeps one model as its file server has it, in threads of its own, from the first level on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from nested_sparse.errors import CheckpointError, FetchError, InputError, RepositoryError, ServingError
from nested_sparse.excerpt import excerpt

from ..signature import PublicKey
from .download import download
from .manifest import Manifest, read_manifest
from .model_store import ModelStore
from .partial import Partial, WrongBytesError
from .proof import Proof
from .source import Source

FIRST_WAIT_S = 0.5
MOST_WAIT_S = 60.0
"""Time until the next try after a failure: it doubles from the first of these to the second, and begins anew after a
try that brought bytes."""
log = logging.getLogger(__name__)


class Follower:
    """Fetches the manifest, then what the device does not have, and puts each version that is better into the store.

    The first levels of a model become a version as soon as they are verified, where none is served that has more.
    A version that cannot be loaded, or fails its self-check, is taken away again, and the one before it goes on.

    thread: its own, which ends soon after close().
    settled: set when there is a version, or the first try to get one has failed.
    key: its owner must have signed each manifest. interval_s: time between two looks; 0: only when poll() asks.
    """

    def __init__(
        self, source: Source, store: ModelStore, key: PublicKey | None = None, interval_s: float = 0.0
    ) -> None:
        self.settled = threading.Event()
        self._source, self._store, self._key, self._interval_s = source, store, key, interval_s
        self._name = store.folder.name
        self._asked = threading.Event()
        self._attached = threading.Event()
        self._take_over: Callable[[], None] = lambda: None
        self._etag = ""
        self._got_bytes = False
        self._closed = False
        self.thread = threading.Thread(target=self._follow, name=f"fetch-{self._name}", daemon=True)

    def start(self) -> None:
        """Begin. The threads end with the process, or soon after close()."""
        if self._store.versions:
            self.settled.set()
        self.thread.start()

    def attach(self, take_over: Callable[[], None]) -> None:
        """From now on there is a server. take_over: serves the highest version of the store; raises ServingError."""
        self._take_over = take_over
        self._attached.set()

    def poll(self) -> None:
        """Look at once."""
        self._asked.set()

    def close(self) -> None:
        """End after the next byte, and leave what was fetched for the next start."""
        self._closed = True
        self._asked.set()
        self._attached.set()

    def _follow(self) -> None:
        failures = 0
        self._asked.set()
        if self._store.versions:
            self._attached.wait()
            self._check_kept()
        wait_s: float | None = 0.0
        while not self._closed:
            self._asked.wait(wait_s)
            self._asked.clear()
            self._got_bytes = False
            try:
                if not self._closed:
                    self._look()
                failures, wait_s = 0, self._interval_s or None
            except (FetchError, CheckpointError, ServingError, OSError) as error:
                failures = 1 if self._got_bytes else failures + 1
                wait_s = min(MOST_WAIT_S, FIRST_WAIT_S * 2 ** min(failures - 1, 16))
                log.warning("%s: %s; the next try is in %g s", self._name, self._reason(error), wait_s)
            except Exception:  # a fault of ours; the next look may do better
                wait_s = MOST_WAIT_S
                log.exception("%s: cannot be followed", self._name)
            self.settled.set()

    def _reason(self, error: Exception) -> str:
        """For the log, with the place on the disk where the disk is the reason."""
        if isinstance(error, OSError) and error.strerror:
            return f"{excerpt(error.filename or self._store.folder)}: {excerpt(error.strerror)}"
        return excerpt(error, 500)

    def _check_kept(self) -> None:
        """Take away a version of an earlier run that cannot be loaded any more; it is fetched again."""
        while self._store.versions and not self._closed:
            try:
                self._take_over_surely()
                return
            except Exception as error:  # whatever it is, the model is followed
                if not _is_final(error) or self._store.newest(self._key) is None:
                    return  # with another key, it may be used again
                log.error("%s: %s; it is fetched again", self._name, excerpt(error, 500))
                self._store.remove(self._store.versions[-1])

    def _look(self) -> None:
        """Ask for the manifest, and fetch what it names where that is new."""
        answer = self._source.manifest(self._etag)
        if answer is None:
            return
        raw, etag = answer
        manifest = read_manifest(raw, self._source.shown_manifest, self._key)
        newest = self._store.newest(self._key)
        if newest is not None and manifest.serial < newest[0].manifest.serial:
            raise FetchError(
                f"{self._source.shown_manifest}: has the serial {manifest.serial}, and {newest[0].manifest.serial} is "
                f"here already; publish the file again, or stop this server, remove {self._store.folder} and start it"
            )
        is_here = newest is not None and newest[0].manifest.digest == manifest.digest
        if self._store.is_refused(manifest):
            log.warning("%s: the version %d was refused before; it waits for another", self._name, manifest.serial)
        elif not is_here or (newest is not None and newest[1] < manifest.level_count):
            self._fetch(manifest, 0 if newest is None else newest[1], is_here)
        self._etag = etag

    def _fetch(self, manifest: Manifest, levels_here: int, is_here: bool) -> None:
        partial = self._store.open_partial(manifest)
        there = partial.nbytes
        rise = _Rise(self, partial, levels_here if is_here else max(0, levels_here - 1))
        try:
            download(partial, self._source, self._store.at_hand(), lambda: self._came(partial, there, rise))
        except WrongBytesError:
            self._etag = ""
            self._got_bytes = False  # a server that lies is not asked again at once
            raise
        finally:
            rise.end()
            if not partial.complete:
                partial.close()
        self._serve(partial, manifest.level_count)
        self._store.clear()
        log.info("%s: all %d levels are here, %d bytes", self._name, manifest.level_count, manifest.nbytes)

    def _came(self, partial: Partial, there: int, rise: _Rise) -> None:
        if self._closed:
            raise FetchError("the server ends")
        if rise.refused:
            raise FetchError("its first levels are refused already")
        self._got_bytes = self._got_bytes or partial.nbytes > there
        rise.notice(partial.levels)

    def _serve(self, partial: Partial, level_count: int) -> None:
        """Make a version of the first levels and have it take over. Raises FetchError, ServingError, OSError."""
        manifest, header = partial.manifest, b"".join(partial.read(0, partial.manifest.begins[1]))
        try:
            proof = Proof.of(manifest, header, self._source.shown)
        except CheckpointError as error:
            self._refuse(manifest, error)
            raise
        version = self._store.put(partial, proof, level_count)
        self.settled.set()
        self._attached.wait()
        try:
            self._take_over_surely()
        except Exception as error:
            self._store.remove(version)  # else the next look would take it for served
            if _is_final(error):
                self._refuse(manifest, error)
            raise
        self._store.keep_newest()

    def _take_over_surely(self) -> None:
        """Take over. A failure that is final is tried once more: a file can also not be opened for want of handles."""
        try:
            self._take_over()
        except ServingError as error:
            if not _is_final(error):
                raise
            time.sleep(FIRST_WAIT_S)
            self._take_over()

    def _refuse(self, manifest: Manifest, error: Exception) -> None:
        self._store.refuse(manifest)
        log.error("%s: the new version is refused, and what was served goes on: %s", self._name, excerpt(error, 500))


class _Rise:
    """A thread that has the first levels of a download served, always the most that there are, but not the last.

    levels: number of levels that are served already, or that it must not go below.
    refused: whether this device does not take the model.
    """

    def __init__(self, follower: Follower, partial: Partial, levels: int) -> None:
        self._follower, self._partial = follower, partial
        self._served = levels
        self._ready = partial.levels
        self._changed = threading.Condition()
        self._ended = self.refused = False
        self._thread = threading.Thread(target=self._run, name="rise", daemon=True)
        self._thread.start()

    def notice(self, levels: int) -> None:
        """So many levels are verified now."""
        with self._changed:
            self._ready = levels
            self._changed.notify()

    def end(self) -> None:
        """Wait until a level that is being taken over is served."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        last = self._partial.manifest.level_count
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._served < self._ready < last)
                if self._ended:
                    return
                ready = self._ready
            try:
                self._follower._serve(self._partial, ready)
            except (FetchError, CheckpointError, ServingError, OSError) as error:
                self.refused = self._follower._store.is_refused(self._partial.manifest)
                log.warning("levels 0 to %d are not served: %s", ready - 1, excerpt(error, 500))
            self._served = ready


def _is_final(error: Exception) -> bool:
    """Whether the file itself is the reason, and not this moment or this installation: memory, the operator library."""
    return isinstance(error, RepositoryError) and isinstance(error.__cause__, CheckpointError | InputError)
