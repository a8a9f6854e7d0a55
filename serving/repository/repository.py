"""Repository: the models of a folder, which come and go while the server runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

from nested_sparse.errors import NestedSparseError, RepositoryError, ServingError, UnavailableError
from nested_sparse.excerpt import excerpt
from nested_sparse.proto.messages import ModelVersionPolicy

from ..dataplane import Dataplane
from ..metrics import Metrics
from ..served_model import ServedModel
from .apart import apart
from .folder import ModelFolder
from .loader import Loaded, Loader, stamp_of
from .version_policy import LATEST, VersionPolicy

MOST_WAITING = 16
"""Most loads and unloads that wait for each other."""
MOST_ENDING = 8
"""Most versions that were taken away and still answer requests; each needs its memory."""
STUCK_S = 1.0
"""Time between two tries to close a version whose run is stuck, in seconds."""
DRAINING = "The server is draining and loads no models."
READY, UNAVAILABLE, LOADING, UNLOADING = "READY", "UNAVAILABLE", "LOADING", "UNLOADING"
ResultT = TypeVar("ResultT")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the index. version: "" for a model that has none. state, reason: as the protocol names them."""

    name: str
    version: str
    state: str
    reason: str = ""


class Repository:
    """Loads the versions of models that a policy chooses, and puts them into a dataplane.

    A load opens the new versions first, and then puts them in the place of the old ones in one step of the event loop.
    Requests that had found an old version are answered by it, and it is closed after the last of them. If one of the
    versions cannot be loaded, nothing changes. A version whose file is the same as before is left as it is.

    load_all() is called before the server starts. All other methods belong to its event loop, after attach().

    folder: where the models lie. policy: of the models that a load names no other for.
    grace_s: time that the requests of a version get to end after it was taken away; it may change.
    given_up: close() has left a load to its thread, which the interpreter must not end under.
    """

    def __init__(
        self, folder: ModelFolder, loader: Loader, policy: VersionPolicy = LATEST, grace_s: float = 30.0
    ) -> None:
        self._folder = folder
        self._loader = loader
        self._policy = policy
        self.grace_s = grace_s
        self._policies: dict[str, VersionPolicy] = {}
        self._loaded: dict[str, dict[int, Loaded]] = {}
        self._reasons: dict[tuple[str, int], str] = {}  # why a version is not served
        self._loading: set[tuple[str, int]] = set()
        self._ending: dict[Loaded, asyncio.Task[None]] = {}
        self._working: set[asyncio.Task[None]] = set()
        self._turn, self._reading = asyncio.Lock(), asyncio.Lock()
        self._closing = asyncio.Event()
        self.given_up = False
        self._dataplane = Dataplane(())
        self._metrics = Metrics()
        self._changed: Callable[[], None] = lambda: None

    @property
    def models(self) -> list[ServedModel]:
        """All versions that are loaded."""
        return [each.model for versions in self._loaded.values() for each in versions.values()]

    def policy_message(self, name: str) -> ModelVersionPolicy | None:
        """The version policy of a model of the folder; None for any other model."""
        return self._policies.get(name, self._policy).message() if name in self._loaded else None

    def load_all(self, taken: Collection[str] = ()) -> None:
        """Load every model of the folder. A version that cannot be loaded is logged, and the others are served.

        In the place of such a version among the latest comes the next lower one, which may have been served before.
        taken: names of models that are served from elsewhere. Raises ServingError where a model has one of them.
        """
        for name in self._folder.names():
            if name in taken:
                raise ServingError(f"{name!r} is in the model directory and is also a FILE; rename one, or name one")
            loaded: dict[int, Loaded] = {}
            try:
                chosen = self._folder.chosen(name, self._policy)
                for version in reversed(self._folder.versions(name)) if self._policy.latest else chosen:
                    if len(loaded) < len(chosen):
                        self._try(name, version, loaded)
            except ServingError as error:
                self._reasons[name, 0] = excerpt(error)
                log.error("not served: %s", excerpt(error))
            if loaded:
                self._loaded[name] = dict(sorted(loaded.items()))

    def _try(self, name: str, version: int, loaded: dict[int, Loaded]) -> None:
        try:
            loaded[version] = self._open(name, version)
        except (NestedSparseError, OSError, MemoryError) as error:
            self._reasons[name, version] = excerpt(error)
            log.error("%s/%d is not served: %s", name, version, excerpt(error))

    def attach(self, dataplane: Dataplane, metrics: Metrics, changed: Callable[[], None]) -> None:
        """Serve from now on through this dataplane, which has the models already. changed: called after each change."""
        self._dataplane, self._metrics, self._changed = dataplane, metrics, changed

    async def load(self, name: str, policy: VersionPolicy | None = None) -> None:
        """Serve the versions of the model that `policy` chooses of those that are in the folder now.

        policy: from now on that of the model; None: as before. It is not undone where the caller is cancelled. Raises
        InputError, NotFoundError, UnavailableError, and RepositoryError with the reason why a version was not loaded.
        """
        await self._in_turn(lambda: self._load(name, policy))

    async def unload(self, name: str) -> None:
        """Take all versions of a model away. Those that wait for them are answered. Raises NotFoundError, as load()."""
        await self._in_turn(lambda: self._unload(name))

    async def unserved(self) -> list[Entry]:
        """The versions that are not served: those of the folder, and those that were taken away and still answer."""
        async with self._reading:  # one thread of the pool at most, however many ask
            found = await asyncio.to_thread(self._found)
        self._reasons = {
            (name, version): reason
            for (name, version), reason in self._reasons.items()
            if version in (0, *found.get(name, ()))
        }
        ending = {(loaded.model.name, int(loaded.model.version)) for loaded in self._ending}
        ending -= {(name, version) for name, versions in self._loaded.items() for version in versions}
        there = {(name, version) for name, versions in found.items() for version in versions}
        return [
            *(self._entry(*each) for each in there - ending),
            *(Entry(name, str(version), UNLOADING, "its last requests are answered") for name, version in ending),
        ]

    def refuse(self) -> None:
        """Load nothing any more. The callers that wait for a load are told so at once."""
        self._closing.set()

    async def close(self, grace_s: float) -> None:
        """Load nothing any more, and close every version. A version whose run is stuck stays open.

        A load under way has `grace_s` to end, too. After that it is given up; its thread runs on.
        """
        self.refuse()
        if self._working:
            _, loading = await asyncio.wait(self._working, timeout=grace_s)
            if loading:
                self.given_up = True
                log.warning("a model is still being loaded after %g s of grace; it is given up", grace_s)
        for task in self._ending.values():
            task.cancel()
        await asyncio.gather(*(apart(loaded.close, grace_s) for loaded in self._open_ones))

    @property
    def stuck(self) -> list[str]:
        """The models with a run that does not end."""
        return [loaded.session.name for loaded in self._open_ones if loaded.model.engine.stats().stuck]

    @property
    def _open_ones(self) -> list[Loaded]:
        return [*(each for versions in self._loaded.values() for each in versions.values()), *self._ending]

    async def _in_turn(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` after all that came before. It goes on where the caller is cancelled: half a load is none."""
        if len(self._working) >= MOST_WAITING:
            raise UnavailableError(f"{MOST_WAITING} loads and unloads wait already; try again later")

        async def run() -> None:
            async with self._turn:
                if self._closing.is_set():
                    raise UnavailableError(DRAINING)
                await work()

        task = asyncio.create_task(run())
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # else a lost error would be logged
        closing = asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait((task, closing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
        if not task.done():
            raise UnavailableError(DRAINING)
        task.result()

    async def _load(self, name: str, policy: VersionPolicy | None) -> None:
        if name in self._dataplane.models and name not in self._loaded:
            raise RepositoryError(f"{name!r} is served from a file of the command line, which is not loaded again")
        if len(self._ending) >= MOST_ENDING:
            raise UnavailableError(f"{MOST_ENDING} unloaded versions still answer requests; try again later")
        policy = policy or self._policies.get(name, self._policy)
        before = self._loaded.get(name, {})
        chosen = await asyncio.to_thread(self._folder.chosen, name, policy)
        self._loading = {(name, version) for version in chosen}
        try:
            after = await apart(self._open_changed, name, chosen, before)
        finally:
            self._loading = set()
        self._policies[name] = policy
        for version in chosen:
            self._reasons.pop((name, version), None)
        self._reasons.pop((name, 0), None)
        self._put(name, after)

    async def _unload(self, name: str) -> None:
        if name not in self._loaded:
            if name in self._dataplane.models:
                raise RepositoryError(f"{name!r} is served from a file of the command line, which is not unloaded")
            await asyncio.to_thread(self._folder.versions, name)  # a name that is none, or of no model
            return
        for version in self._loaded[name]:
            self._reasons[name, version] = "unloaded"
        self._put(name, {})

    def _put(self, name: str, after: dict[int, Loaded]) -> None:
        """Serve `after` under the name, and end those that were served before. All in one step of the event loop."""
        before = self._loaded.pop(name, {})
        if after:
            self._loaded[name] = after
        for loaded in after.values():
            if loaded not in before.values():
                self._metrics.watch(loaded.model)
        self._dataplane.replace(name, [loaded.model for loaded in after.values()])
        for loaded in before.values():
            if loaded not in after.values():
                self._ending[loaded] = asyncio.create_task(self._end(loaded))
        self._changed()
        served = ", ".join(map(str, after)) or "none"
        log.info("%s: versions served: %s", name, served)

    async def _end(self, loaded: Loaded) -> None:
        await self._dataplane.let_go(loaded.model)
        try:
            while not await apart(loaded.close, self.grace_s):
                await asyncio.sleep(STUCK_S)
            self._metrics.unwatch(loaded.model)
        finally:
            if not self._closing.is_set():
                del self._ending[loaded]

    def _open_changed(self, name: str, chosen: list[int], before: dict[int, Loaded]) -> dict[int, Loaded]:
        """The chosen versions, open: those of `before` whose file is the same, the others anew."""
        after: dict[int, Loaded] = {}
        for version in chosen:
            try:
                same = before.get(version)
                if same is not None and same.stamp != stamp_of(self._folder.checkpoint(name, version)):
                    same = None
                after[version] = same or self._open(name, version)
            except Exception as error:
                for loaded in after.values():
                    if loaded not in before.values():
                        loaded.close(0.0)
                if version not in before:
                    self._reasons[name, version] = excerpt(error)
                if isinstance(error, RepositoryError):
                    raise
                if isinstance(error, NestedSparseError | OSError | MemoryError):
                    raise RepositoryError(f"{name}/{version} cannot be loaded: {error}") from error
                raise
        return after

    def _open(self, name: str, version: int) -> Loaded:
        return self._loader.load(self._folder.checkpoint(name, version), name, str(version))

    def _found(self) -> dict[str, list[int]]:
        """The versions in the folder that are not served, by model; 0 stands for a model that has none."""
        found: dict[str, list[int]] = {}
        try:
            names = self._folder.names()
        except RepositoryError as error:  # the models that are served are listed nevertheless
            log.warning("%s", error)
            names = []
        for name in names:
            try:
                versions = self._folder.versions(name) or [0]
            except ServingError as error:
                versions, self._reasons[name, 0] = [0], excerpt(error)
            found[name] = [version for version in versions if version not in self._loaded.get(name, {})]
        return found

    def _entry(self, name: str, version: int) -> Entry:
        text = str(version) if version else ""
        if (name, version) in self._loading:
            return Entry(name, text, LOADING)
        return Entry(name, text, UNAVAILABLE, self._reasons.get((name, version), "not loaded"))
