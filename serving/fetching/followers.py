"""Followers: all models that one server fetches, and their way into its repository."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nested_sparse.errors import UnavailableError

from ..repository.folder import ModelFolder
from ..signature import PublicKey
from .address import Address
from .fetched_folder import FetchedFolder
from .follower import Follower
from .model_store import ModelStore
from .source import Source

if TYPE_CHECKING:
    from ..repository.loader import Loader
    from ..repository.repository import Repository

POLL_S = 0.05
log = logging.getLogger(__name__)


class Followers:
    """One Follower for each address. Raises InputError for a CA file that is none, ServingError for a folder in use.

    root: folder of all fetched models. most_bytes: as of a ModelStore, for each model. ca, token_file, timeout_s: as of
    a Source. key, interval_s: as of a Follower.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        root: Path,
        most_bytes: int,
        *,
        key: PublicKey | None = None,
        ca: Path | None = None,
        token_file: Path | None = None,
        timeout_s: float = 30.0,
        interval_s: float = 300.0,
    ) -> None:
        self._root, self._key = root, key
        self._closed = False
        self._loaded = threading.Event()
        self._timeout_s = timeout_s
        self._stores = {address.name: ModelStore(root, address.name, most_bytes) for address in addresses}
        self._followers = {
            address.name: Follower(
                Source(address, ca, token_file, timeout_s), self._stores[address.name], key, interval_s
            )
            for address in addresses
        }

    def start(self) -> None:
        """Begin to fetch. Versions are made once `trusting` was called, which has the libraries that they take."""
        for each in self._followers.values():
            each.start(self._loaded)

    def wait(self, for_one: bool, signals: Callable[[], int] = lambda: 0) -> None:
        """Return when each model has a version or its first try has failed; `for_one`: and one model has a version.

        A model that takes longer than `timeout_s` holds no other up: it is served once it is here.
        signals: number of signals until now that ask for a look. Each is heard here, so that none waits for the port.
        """
        heard, end_s = 0, time.monotonic() + self._timeout_s
        for name, each in self._followers.items():
            while not each.settled.wait(min(POLL_S, max(0.0, end_s - time.monotonic()))):
                heard = self._hear(heard, signals())
                if time.monotonic() >= end_s:
                    log.warning("%s: its first level has not come yet; other models are served before it", name)
                    break
        while for_one and not any(store.versions for store in self._stores.values()):
            heard = self._hear(heard, signals())
            time.sleep(POLL_S)

    def _hear(self, heard: int, signals: int) -> int:
        if signals > heard:
            self.poll()
        return signals

    def folder(self, beside: ModelFolder | None) -> ModelFolder:
        """Their models, and those of a model directory, for a Repository."""
        return FetchedFolder(self._root, self._stores, beside)

    def trusting(self, loader: Loader) -> Loader:
        """`loader`, which also checks that a fetched model is what was published."""
        from .proof import Trust  # with numpy and ONNX Runtime

        self._loaded.set()
        trust = Trust(self._root, self._key, loader.check)
        return replace(loader, check=trust.check, accept=trust.accept)

    def attach(self, repository: Repository) -> None:
        """From now on versions take over in `repository`, whose event loop this is called from."""
        loop = asyncio.get_running_loop()
        for name, each in self._followers.items():
            each.attach(partial(self._take_over, repository, loop, name))

    @property
    def followers(self) -> Mapping[str, Follower]:
        """Of each model, by its name."""
        return self._followers

    def poll(self) -> None:
        """Look for new versions at once."""
        for each in self._followers.values():
            each.poll()

    def close(self) -> None:
        """End. The bytes that were fetched stay for the next start."""
        self._closed = True
        for each in self._followers.values():
            each.close()

    def _take_over(self, repository: Repository, loop: asyncio.AbstractEventLoop, name: str) -> None:
        """Have the repository load the highest version. Raises what its load() does."""
        if self._closed or loop.is_closed():
            raise UnavailableError("the server ends")
        try:
            asyncio.run_coroutine_threadsafe(repository.load(name), loop).result()
        except (CancelledError, RuntimeError):  # the loop has ended meanwhile
            raise UnavailableError("the server ends") from None
