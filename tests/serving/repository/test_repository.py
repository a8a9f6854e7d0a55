"""Repository: versions that come and go; nothing of a version that answers is taken from it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from nested_sparse.errors import InputError, NotFoundError, RepositoryError, ServingError, UnavailableError
from nested_sparse.runtime.scheduling.request import Request
from nested_sparse.runtime.scheduling.stats import SchedulerStats
from nested_sparse.serving.dataplane import Dataplane
from nested_sparse.serving.metrics import Metrics
from nested_sparse.serving.protocol.call import Call
from nested_sparse.serving.repository import repository as module
from nested_sparse.serving.repository.folder import ModelFolder
from nested_sparse.serving.repository.repository import Repository
from nested_sparse.serving.repository.version_policy import VersionPolicy

ALL = VersionPolicy.read("all")


class Served:
    """A repository, attached to a dataplane, in a loop that runs for one test."""

    def __init__(self, repository: Repository, others: tuple[Any, ...] = ()) -> None:
        self.repository = repository
        self.metrics = Metrics()
        models = [*others, *repository.models]
        for model in models:
            self.metrics.watch(model)
        self.dataplane = Dataplane(models)
        self.changes = 0
        repository.attach(self.dataplane, self.metrics, self.changed)

    def changed(self) -> None:
        self.changes += 1

    def versions(self, name: str = "net") -> list[str]:
        return [model.version for model in self.dataplane.versions(name)]

    async def ended(self) -> None:
        """Wait until no version is being closed."""
        while self.repository._ending:
            await asyncio.sleep(0.001)


def play(scene: Callable[[Served], Coroutine[Any, Any, None]], repository: Repository, *others: Any) -> None:
    async def run() -> None:
        served = Served(repository, others)
        await asyncio.wait_for(scene(served), 30)
        await served.repository.close(1.0)

    asyncio.run(run())


def call() -> Call:
    return Call(Request({"x": np.ones((2, 4), np.float32)}))


def test_the_policy_says_what_is_loaded_at_the_start(put, open_repository):
    for version in (1, 2, 10):
        put("net", version)
    put("other", 3)
    assert {(model.name, model.version) for model in open_repository().models} == {("net", "10"), ("other", "3")}
    chosen = [(model.name, model.version) for model in open_repository("1,2").models]
    assert chosen == [("net", "1"), ("net", "2")]


def test_a_broken_model_leaves_the_others(put, root, open_repository):
    """At the start: its reason is in the index."""
    put("net", 1)
    put("broken", 1, b"bad")
    (root / "empty").mkdir()

    async def scene(served: Served) -> None:
        assert served.versions() == ["1"]
        entries = {(entry.name, entry.version): entry for entry in await served.repository.unserved()}
        assert entries["broken", "1"].state == entries["empty", ""].state == "UNAVAILABLE"
        assert entries["broken", "1"].reason == "model.safetensors: broken"
        assert "no version" in entries["empty", ""].reason

    play(scene, open_repository())


def test_the_next_lower_version_stands_in_for_a_broken_one(put, open_repository):
    """At the start only: a server that was killed had served it. A list of versions is taken as it is."""
    for version in (1, 2, 3, 5):
        put("net", version)
    put("net", 4, b"bad")
    put("net", 6, b"bad")
    for policy, served in (("latest", ["5"]), ("latest:2", ["3", "5"]), ("4,5", ["5"]), ("all", ["1", "2", "3", "5"])):
        assert [model.version for model in open_repository(policy).models] == served


def test_a_model_is_not_served_twice_under_one_name(put, root, loader, make_model):
    put("net", 1)
    repository = Repository(ModelFolder(root), loader)
    with pytest.raises(ServingError, match="'net' is in the model directory and is also a FILE"):
        repository.load_all(["net"])

    async def scene(served: Served) -> None:
        for ask in (served.repository.load, served.repository.unload):
            with pytest.raises(RepositoryError, match="a file of the command line"):
                await ask("net")

    play(scene, repository, make_model("net"))


def test_a_new_version_takes_over_and_the_old_one_answers_what_it_has(put, loader, open_repository):
    """The old one is closed after its last answer, and not before."""
    put("net", 1)

    async def scene(served: Served) -> None:
        old = loader.loaded[0]
        old.model.engine.held = True
        running = asyncio.create_task(served.dataplane.infer(old.model, call()))
        await asyncio.sleep(0)
        closing = asyncio.Event()
        old.model.engine.close = lambda grace_s: loop.call_soon_threadsafe(closing.set)
        loop = asyncio.get_running_loop()
        put("net", 2)
        await served.repository.load("net")
        assert served.versions() == ["2"]
        assert served.dataplane.find("net").version == "2"
        with pytest.raises(NotFoundError, match="no version '1'; expected '2' or none"):
            served.dataplane.find("net", "1")
        await closing.wait()  # the scheduler answers what waits; the session is closed behind that
        old.model.engine.pending[0].set_result("answer of version 1")
        assert await running == "answer of version 1"
        await served.ended()
        assert old.session.closed
        assert not loader.loaded[1].session.closed
        assert served.changes == 1

    play(scene, open_repository())


def test_a_version_is_not_closed_between_the_search_for_it_and_the_run(put, loader, open_repository):
    """A large request is converted in a thread after its model was found."""
    put("net", 1)

    async def scene(served: Served) -> None:
        old = loader.loaded[0]
        with served.dataplane.held(old.model):
            put("net", 2)
            await served.repository.load("net")
            assert [(entry.version, entry.state) for entry in await served.repository.unserved()] == [
                ("1", "UNLOADING")
            ]
            await asyncio.sleep(0.05)
            assert old.model.engine.closed_with is None
            response = await served.dataplane.infer(old.model, call())
            assert response.level.index == 2
        await served.ended()
        assert old.model.engine.closed_with == 5.0
        assert old.session.closed

    play(scene, open_repository())


def test_a_load_that_fails_changes_nothing(put, loader, open_repository):
    """Also where only one of the versions is broken: the good new one is closed again."""
    put("net", 1)

    async def scene(served: Served) -> None:
        put("net", 2)
        put("net", 3, b"bad")
        with pytest.raises(RepositoryError, match=r"net/3 cannot be loaded: model\.safetensors: broken"):
            await served.repository.load("net", ALL)
        assert served.versions() == ["1"]
        first, second = loader.loaded
        assert not first.session.closed
        assert second.session.closed
        assert second.model not in served.metrics.tallies
        reasons = {entry.version: entry.reason for entry in await served.repository.unserved()}
        assert reasons == {"2": "not loaded", "3": "model.safetensors: broken"}
        put("net", 3)
        await served.repository.load("net", ALL)
        assert served.versions() == ["1", "2", "3"]
        assert await served.repository.unserved() == []

    play(scene, open_repository())


def test_only_what_has_changed_is_loaded_again(put, loader, open_repository):
    put("net", 1)
    put("net", 2)

    async def scene(served: Served) -> None:
        first, second = loader.loaded
        await served.repository.load("net")
        assert len(loader.loaded) == 2
        put("net", 2, b"new content")
        await served.repository.load("net")
        third = loader.loaded[2]
        assert served.dataplane.versions("net") == [first.model, third.model]
        await served.ended()
        assert second.session.closed
        assert not first.session.closed
        assert second.model not in served.metrics.tallies
        assert {first.model, third.model} <= set(served.metrics.tallies)

    play(scene, open_repository("all"))


def test_the_policy_of_a_load_holds_for_the_loads_after_it(put, open_repository):
    for version in (1, 2, 3):
        put("net", version)

    async def scene(served: Served) -> None:
        await served.repository.load("net", VersionPolicy.read("1,2"))
        assert served.versions() == ["1", "2"]
        assert served.repository.policy_message("net").specific.versions == [1, 2]
        await served.repository.load("net")
        assert served.versions() == ["1", "2"]
        with pytest.raises(RepositoryError, match=r"no version for the policy 7; the model directory has 1, 2, 3"):
            await served.repository.load("net", VersionPolicy.read("7"))
        await served.repository.load("net")
        assert served.versions() == ["1", "2"]

    play(scene, open_repository())


def test_unloading(put, loader, open_repository):
    """It is idempotent, and only for models that there are."""
    put("net", 1)

    async def scene(served: Served) -> None:
        await served.repository.unload("net")
        assert served.versions() == []
        with pytest.raises(NotFoundError, match="no model 'net'"):
            served.dataplane.find("net")
        await served.ended()
        assert loader.loaded[0].session.closed
        (entry,) = await served.repository.unserved()
        assert (entry.state, entry.reason) == ("UNAVAILABLE", "unloaded")
        await served.repository.unload("net")
        with pytest.raises(NotFoundError):
            await served.repository.unload("none")
        with pytest.raises(InputError):
            await served.repository.unload("../net")
        await served.repository.load("net")
        assert served.versions() == ["1"]

    play(scene, open_repository())


def test_a_folder_that_is_gone_takes_no_model_away(put, root, open_repository):
    """Loaded models are served on, and loads are refused."""
    put("net", 1)

    async def scene(served: Served) -> None:
        root.rename(root.with_name("elsewhere"))
        assert await served.repository.unserved() == []
        assert served.versions() == ["1"]
        with pytest.raises(NotFoundError):
            await served.repository.load("net")
        assert served.versions() == ["1"]
        root.with_name("elsewhere").rename(root)
        await served.repository.load("net")

    play(scene, open_repository())


def test_a_caller_who_goes_away_leaves_no_half_load(put, loader, open_repository):
    put("net", 1)

    async def scene(served: Served) -> None:
        put("net", 2)
        with loader.gate:
            waiting = asyncio.create_task(served.repository.load("net"))
            while [entry.state for entry in await served.repository.unserved()] != ["LOADING"]:
                await asyncio.sleep(0.001)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await served.repository.load("net")  # after the one before
        assert served.versions() == ["2"]
        assert len(loader.loaded) == 2

    play(scene, open_repository())


def test_waiting_loads_and_unclosed_versions_are_bounded(put, loader, open_repository):
    put("net", 1)

    async def scene(served: Served) -> None:
        with loader.gate:
            put("net", 2)
            loads = [asyncio.create_task(served.repository.load("net")) for _ in range(module.MOST_WAITING + 1)]
            done, _ = await asyncio.wait(loads, return_when=asyncio.FIRST_COMPLETED)
            (refused,) = done
            assert isinstance(refused.exception(), UnavailableError)
        await asyncio.wait(loads)
        await served.ended()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "MOST_ENDING", 1)
            with served.dataplane.held(served.dataplane.find("net")):
                put("net", 3)
                await served.repository.load("net")
                put("net", 4)
                with pytest.raises(UnavailableError, match="1 unloaded versions still answer"):
                    await served.repository.load("net")
                assert served.versions() == ["3"]
            await served.ended()
            await served.repository.load("net")
            assert served.versions() == ["4"]

    play(scene, open_repository())


def test_closing_ends_every_version_and_refuses_loads(put, loader, open_repository):
    """A load under way ends first, and its model is closed, too."""
    put("net", 1)

    async def scene(served: Served) -> None:
        put("net", 2)
        with served.dataplane.held(loader.loaded[0].model):
            with loader.gate:
                loading = asyncio.create_task(served.repository.load("net"))
                await asyncio.sleep(0.01)
                closing = asyncio.create_task(served.repository.close(0.5))
                await asyncio.sleep(0.01)
            with pytest.raises(UnavailableError, match="draining"):
                await loading
            await closing
        assert not served.repository.given_up
        assert [loaded.session.closed for loaded in loader.loaded] == [True, True]
        with pytest.raises(UnavailableError, match="draining"):
            await served.repository.load("net")
        assert len(loader.loaded) == 2

    play(scene, open_repository())


def test_a_load_that_takes_longer_than_the_grace_is_given_up(put, loader, open_repository):
    """The end of the server does not wait for it, and its caller is told at once."""
    put("net", 1)
    repository = open_repository()

    async def scene(served: Served) -> None:
        put("net", 2)
        loading = asyncio.create_task(served.repository.load("net"))
        while not any(entry.state == "LOADING" for entry in await served.repository.unserved()):
            await asyncio.sleep(0.001)
        served.repository.refuse()
        with pytest.raises(UnavailableError, match="draining"):
            await loading
        assert not served.repository.given_up
        await served.repository.close(0.01)
        assert served.repository.given_up
        assert loader.loaded[0].session.closed

    with loader.gate:
        play(scene, repository)


def test_a_stuck_version_stays_open(put, loader, open_repository, monkeypatch):
    """Its session cannot be closed; the server can say so, and tries again."""
    put("net", 1)
    monkeypatch.setattr(module, "STUCK_S", 0.001)

    async def scene(served: Served) -> None:
        stuck = loader.loaded[0]
        engine, stats = stuck.model.engine, stuck.model.engine.stats
        engine.stats = lambda: SchedulerStats(0, 1.0, stuck=1)
        await served.repository.unload("net")
        await asyncio.sleep(0.02)
        assert served.repository.stuck == ["net/1"]
        assert not stuck.session.closed
        engine.stats = stats
        await served.ended()
        assert stuck.session.closed
        assert served.repository.stuck == []

    play(scene, open_repository())
