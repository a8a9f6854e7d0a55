"""Follower: keeps one model as its file server has it, in threads of its own, from the first level on."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable

from nested_sparse.errors import CheckpointError, FetchError, InputError, RepositoryError, ServingError
from nested_sparse.excerpt import excerpt

from ..signature import PublicKey
from .download import download
from .fetch_counts import FetchCounts, RefusedError
from .manifest import Manifest, ManifestError, read_manifest
from .model_store import ModelStore
from .partial import Partial, WrongBytesError
from .rise import Rise
from .source import Source

FIRST_WAIT_S = 0.5
MOST_WAIT_S = 60.0
"""Time until the next try after a failure: it doubles from the first of these to the second, and begins anew after a
try that brought bytes."""
PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EAGAIN, errno.EBUSY, errno.EINTR}
"""Errors of the system that say nothing about a file."""
log = logging.getLogger(__name__)


class Follower:
    """Fetches the manifest, then what the device does not have, and puts each version that is better into the store.

    The first levels of a model become a version as soon as they are verified, where none is served that has more.
    A version that cannot be loaded, or fails its self-check, is taken away again, and the one before it goes on.

    thread: its own, which ends soon after close().
    settled: set when there is a version, or the first try to get one has failed.
    key: its owner must have signed each manifest. interval_s: time between two looks; 0: only when poll() asks.
    counts: the facts of what came, failed and serves.
    """

    def __init__(
        self, source: Source, store: ModelStore, key: PublicKey | None = None, interval_s: float = 0.0
    ) -> None:
        self.settled = threading.Event()
        self.counts = FetchCounts()
        self._source, self._store, self._key, self._interval_s = source, store, key, interval_s
        self._name = store.folder.name
        self._asked = threading.Event()
        self._attached = threading.Event()
        self._loaded = threading.Event()
        self._take_over: Callable[[], None] = lambda: None
        self._etag = self._refused = ""
        self._got_bytes = False
        self._idle = False  # whether a version of the disk is not served that could be
        self._closed = False
        self.thread = threading.Thread(target=self._follow, name=f"fetch-{self._name}", daemon=True)

    def start(self, loaded: threading.Event | None = None) -> None:
        """Begin. The threads end with the process, or soon after close().

        loaded: set when the libraries are imported that a version takes; bytes are fetched before. These threads import
        none of them: two threads that import a package and a module of it can end in a deadlock. None: they are.
        """
        if loaded is None:
            self._loaded.set()
        else:
            self._loaded = loaded
        if self._store.versions:
            self.settled.set()
        self.thread.start()

    def attach(self, take_over: Callable[[], None]) -> None:
        """From now on there is a server. take_over: serves the highest version of the store; raises ServingError."""
        self._take_over = take_over
        self._attached.set()

    @property
    def nbytes(self) -> int:
        """Bytes of manifests and files that have come."""
        return self._source.nbytes

    def poll(self) -> None:
        """Look at once."""
        self._asked.set()

    def close(self) -> None:
        """End after the next byte, and leave what was fetched for the next start."""
        self._closed = True
        for each in (self._asked, self._attached, self._loaded):
            each.set()

    def _follow(self) -> None:
        failures = 0
        self._asked.set()
        if self._store.versions:
            self._attached.wait()
            self._idle = True
        wait_s: float | None = 0.0
        while not self._closed:
            self._asked.wait(wait_s)
            self._asked.clear()
            self._got_bytes = False
            try:
                if self._idle:
                    self._take_kept()
                if not self._closed and self._look():
                    self.counts.in_step()
                failures, wait_s = 0, self._interval_s or None
            except RefusedError as error:  # asking again brings nothing before the next publication
                self.counts.failed(error)
                failures, wait_s = 0, self._interval_s or None
            except (FetchError, CheckpointError, ServingError, OSError) as error:
                self.counts.failed(error)
                failures = 1 if self._got_bytes else failures + 1
                wait_s = min(MOST_WAIT_S, FIRST_WAIT_S * 2 ** min(failures - 1, 16))
                log.warning("%s: %s; the next try is in %g s", self._name, self._reason(error), wait_s)
            except Exception as error:  # a fault of ours; the next look may do better
                self.counts.failed(error)
                wait_s = MOST_WAIT_S
                log.exception("%s: cannot be followed", self._name)
            if self._idle:
                wait_s = min(MOST_WAIT_S, wait_s or MOST_WAIT_S)
            self.settled.set()

    def _reason(self, error: Exception) -> str:
        """For the log, with the place on the disk where the disk is the reason."""
        if isinstance(error, OSError) and error.strerror:
            return f"{excerpt(error.filename or self._store.folder)}: {excerpt(error.strerror)}"
        return excerpt(error, 500)

    def _take_kept(self) -> None:
        """Serve the newest version of an earlier run. One that cannot be loaded any more is taken away.

        It is fetched again. Where the trouble is of this moment, the next look tries once more.
        """
        while self._store.versions and not self._closed:
            try:
                self._take_over_surely()
                if (newest := self._store.newest(self._key)) is not None:
                    self.counts.served_serial, self.counts.served_levels = newest[0].manifest.serial, newest[1]
                break
            except Exception as error:  # whatever it is, the model is followed
                if self._closed:
                    return
                if not _is_final(error) or self._store.newest(self._key) is None:  # another key may take it again
                    log.warning("%s: the version of the disk is not served: %s", self._name, excerpt(error, 500))
                    return
                log.error("%s: %s; it is fetched again", self._name, excerpt(error, 500))
                self._store.remove(self._store.versions[-1])
        self._idle = False

    def _look(self) -> bool:
        """Ask for the manifest, and fetch what it names where that is new. Whether all that is published is here."""
        answer = self._source.manifest(self._etag)
        if answer is None:
            return not self._refused
        raw, etag = answer
        manifest = read_manifest(raw, self._source.shown_manifest, self._key)
        newest = self._store.newest(self._key)
        if newest is not None and manifest.serial < newest[0].manifest.serial:
            raise ManifestError(
                f"{self._source.shown_manifest}: has the serial {manifest.serial}, and {newest[0].manifest.serial} is "
                f"here already; publish the file again, or stop this server, remove {self._store.folder} and start it"
            )
        self.counts.published_serial, self.counts.published_levels = manifest.serial, manifest.level_count
        is_here = newest is not None and newest[0].manifest.digest == manifest.digest
        if self._store.is_refused(manifest):
            if self._refused != manifest.digest:
                log.warning("%s: the version %d was refused before; it waits for another", self._name, manifest.serial)
            self._refused = manifest.digest
        else:
            self._refused = ""
            if newest is None or not is_here or newest[1] < manifest.level_count:
                self._fetch(manifest, 0 if newest is None else newest[1], is_here)
        self._etag = etag
        return not self._refused

    def _fetch(self, manifest: Manifest, levels_here: int, is_here: bool) -> None:
        partial = self._store.open_partial(manifest)
        there = partial.nbytes
        levels = levels_here if is_here else max(0, levels_here - 1)
        rise = Rise(self._serve, partial, levels, (FIRST_WAIT_S, MOST_WAIT_S))
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

    def _came(self, partial: Partial, there: int, rise: Rise) -> None:
        if self._closed:
            raise FetchError("the server ends")
        if rise.refusal is not None:
            raise rise.refusal
        self._got_bytes = self._got_bytes or partial.nbytes > there
        rise.notice(partial.levels)

    def _serve(self, partial: Partial, level_count: int) -> None:
        """Make a version of the first levels and have it take over. Raises FetchError, ServingError, OSError."""
        self._loaded.wait()
        if self._closed:
            raise FetchError("the server ends")
        from .proof import Proof  # with numpy and ONNX Runtime

        manifest, header = partial.manifest, b"".join(partial.read(0, partial.manifest.begins[1]))
        try:
            proof = Proof.of(manifest, header, self._source.shown)
        except CheckpointError as error:
            raise self._refusal(manifest, error) from error
        version = self._store.put(partial, proof, level_count)
        self.settled.set()
        self._attached.wait()
        try:
            self._take_over_surely()
        except Exception as error:
            self._store.remove(version)  # else the next look would take it for served
            if _is_final(error):
                raise self._refusal(manifest, error) from error
            raise
        self._store.keep_newest()
        self.counts.served_serial, self.counts.served_levels = manifest.serial, level_count
        self._idle = False

    def _take_over_surely(self) -> None:
        """Take over. A failure that is final is tried once more: a file can also not be opened for want of handles."""
        try:
            self._take_over()
        except ServingError as error:
            if not _is_final(error):
                raise
            time.sleep(FIRST_WAIT_S)
            self._take_over()

    def _refusal(self, manifest: Manifest, error: Exception) -> RefusedError:
        """Note that this device does not take the version, and say so in the log, once; gives the error to raise."""
        self._store.refuse(manifest)
        self._refused = manifest.digest
        log.error(
            "%s: the version %d is refused, and what was served goes on: %s",
            self._name,
            manifest.serial,
            excerpt(error, 500),
        )
        return RefusedError(f"the version {manifest.serial} is refused")


def _is_final(error: Exception) -> bool:
    """Whether the file itself is the reason, and not this moment or this installation.

    Of this moment are want of memory and of handles: such errors stand behind those of the file. A fault of the disk is
    not, for another copy of the file helps. The operator library belongs to the installation.
    """
    if not (isinstance(error, RepositoryError) and isinstance(error.__cause__, CheckpointError | InputError)):
        return False
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, MemoryError) or (isinstance(behind, OSError) and behind.errno in PASSING):
            return False
        behind = behind.__cause__ or behind.__context__
    return True
