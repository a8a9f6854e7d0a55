"""SequenceStore: the number that it keeps, the one that makes way for another, and those that are forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nested_sparse.errors import OverloadedError, ServingError
from nested_sparse.serving.sequences.sequence import Sequence
from nested_sparse.serving.sequences.store import SequenceLimits, SequenceStore

Play = Callable[[Callable[["Rig"], None]], None]


class Rig:
    """A store with a clock that stands still, and models of two names."""

    def __init__(self, limits: SequenceLimits, make_model: Callable[..., Any]) -> None:
        self.now_s = 0.0
        self.store = SequenceStore(limits, lambda: self.now_s)
        self.models = {name: make_model(name) for name in ("net", "other")}

    def add(self, client: str, name: int, nbytes: int = 0, model: str = "net") -> Sequence:
        sequence = self.store.add((self.models[model], client, name))
        if nbytes:
            self.store.resize(sequence, nbytes)
        sequence.state = {"h": np.zeros(1)}
        return sequence

    def ids(self, client: str) -> list[int]:
        """The sequences of a client that are kept."""
        found = [name for name in range(10) if self.store.find((self.models["net"], client, name)) is not None]
        return found


@pytest.fixture
def play(make_model: Callable[..., Any]) -> Callable[..., None]:
    """Runs a scene in an event loop, which the store's timer belongs to."""

    def run(limits: SequenceLimits, scene: Callable[[Rig], None]) -> None:
        async def in_loop() -> None:
            rig = Rig(limits, make_model)
            scene(rig)
            rig.store.close()
            assert len(rig.store) == 0
            assert all(counts == [0, 0] for counts in rig.store.counts.values())

        asyncio.run(in_loop())

    return run


def test_a_client_alone_may_have_all_and_no_more(play: Callable[..., None]) -> None:
    """The refusal says when the oldest will be forgotten; its own sequences never make way for it."""

    def scene(rig: Rig) -> None:
        for name in range(3):
            rig.add("a", name)
            rig.now_s += 10.0
        with pytest.raises(OverloadedError, match="3 of at most 3 sequences") as caught:
            rig.add("a", 3)
        assert caught.value.retry_after_ms == 30_000.0
        assert rig.ids("a") == [0, 1, 2]
        rig.now_s += 30.0
        rig.add("a", 3)
        assert (rig.ids("a"), rig.store.lost) == ([1, 2, 3], {("net", "idle"): 1})

    play(SequenceLimits(3, 100, 60.0), scene)


def test_the_one_that_has_most_makes_way_until_both_have_as_many(play: Callable[..., None]) -> None:
    """Its longest unused first, none with a request under way, and none for a client that has no less already."""

    def scene(rig: Rig) -> None:
        held = [rig.add("rich", name) for name in range(4)]
        held[0].visits = 1
        rig.add("poor", 0)
        assert rig.ids("rich") == [0, 2, 3]
        rig.store.touch(held[2])
        rig.add("poor", 1)
        assert rig.ids("rich") == [0, 2]
        with pytest.raises(OverloadedError):
            rig.add("poor", 2)
        assert (rig.ids("poor"), rig.store.lost["net", "evicted"]) == ([0, 1], 2)

    play(SequenceLimits(4, 100, 60.0), scene)


def test_bytes_are_bounded_like_sequences(play: Callable[..., None]) -> None:
    """A sequence that grows takes bytes from the client that has most; too large a one is refused for good."""

    def scene(rig: Rig) -> None:
        rig.add("rich", 0, 30)
        rig.add("rich", 1, 60)
        poor = rig.add("poor", 0, 10)
        assert rig.store.counts["net"] == [3, 100]
        rig.store.resize(poor, 20)
        assert (rig.ids("rich"), rig.store.counts["net"]) == ([1], [2, 80])
        with pytest.raises(OverloadedError, match="80 of at most 100 bytes and 60 bytes are needed") as caught:
            rig.store.resize(poor, 80)
        assert caught.value.retry_after_ms is not None
        with pytest.raises(OverloadedError) as caught:
            rig.add("new", 0, 101)
        assert caught.value.retry_after_ms is None
        rig.store.resize(poor, 0)
        assert rig.store.counts["net"][1] == 60

    play(SequenceLimits(10, 100, 60.0), scene)


def test_no_client_keeps_others_from_their_fair_share(play: Callable[..., None]) -> None:
    """Not by one large sequence, nor by requests that are always under way; no client has a right to more than that."""

    def scene(rig: Rig) -> None:
        large = rig.add("rich", 0, 99)
        large.visits = 1
        with pytest.raises(OverloadedError):
            rig.add("poor", 0, 51)
        assert rig.ids("poor") == [0]
        rig.store.resize(rig.store.find((rig.models["net"], "poor", 0)) or large, 50)
        assert (large.gone, rig.store.lost) == (True, {("net", "evicted"): 1})
        with pytest.raises(OverloadedError):
            rig.add("rich", 1, 51)
        assert rig.store.counts["net"] == [2, 50]
        rig.add("third", 0, 33)
        rig.add("third", 1, 17)
        with pytest.raises(OverloadedError):
            rig.add("third", 2, 17)
        assert rig.ids("poor") == [0]

    play(SequenceLimits(10, 100, 60.0), scene)


def test_a_share_of_sequences_is_like_one_of_bytes(play: Callable[..., None]) -> None:
    """Also where all of them have requests under way; an idle one of the same client goes first."""

    def scene(rig: Rig) -> None:
        for name in range(4):
            rig.add("rich", name).visits = int(name != 2)
        assert [rig.add("poor", name).gone for name in range(2)] == [False, False]
        assert rig.ids("rich") == [1, 3]
        with pytest.raises(OverloadedError):
            rig.add("poor", 2)

    play(SequenceLimits(4, 100, 60.0), scene)


def test_a_sequence_that_outgrows_all_room_is_told_so(play: Callable[..., None]) -> None:
    """No hint: no time will make it fit."""

    def scene(rig: Rig) -> None:
        sequence = rig.add("a", 0, 80)
        with pytest.raises(OverloadedError, match="no sequence as large can be kept") as caught:
            rig.store.resize(sequence, 101)
        assert (caught.value.retry_after_ms, sequence.nbytes) == (None, 80)

    play(SequenceLimits(10, 100, 60.0), scene)


def test_a_model_that_goes_takes_its_sequences_along(play: Callable[..., None]) -> None:
    """Also those with a request under way, and no others."""

    def scene(rig: Rig) -> None:
        busy, other = rig.add("a", 0), rig.add("a", 0, model="other")
        busy.visits = 1
        rig.store.drop([rig.models["net"]])
        assert (busy.gone, other.gone, len(rig.store)) == (True, False, 1)
        assert rig.store.lost == {("net", "unloaded"): 1}
        rig.store.resize(busy, 50)
        rig.store.touch(busy)
        rig.store.remove(busy)
        assert rig.store.counts == {"net": [0, 0], "other": [1, 0]}

    play(SequenceLimits(10, 100, 60.0), scene)


def test_a_busy_sequence_is_not_idle(play: Callable[..., None]) -> None:
    """However long its request takes."""

    def scene(rig: Rig) -> None:
        rig.add("a", 0).visits = 1
        rig.add("a", 1)
        rig.now_s = 61.0
        rig.store.expire()
        assert rig.ids("a") == [0]

    play(SequenceLimits(10, 100, 60.0), scene)


def test_idle_sequences_are_forgotten_without_a_request(make_model: Callable[..., Any]) -> None:
    """By a timer, which starts again for those that come later."""

    async def scene() -> None:
        store = SequenceStore(SequenceLimits(10, 100, 0.02))
        for _ in range(2):
            store.add((make_model(), "a", 1))
            for _ in range(10_000):
                if not len(store):
                    break
                await asyncio.sleep(0.005)
        assert store.lost["net", "idle"] == 2

    asyncio.run(scene())


def test_no_sequences_at_all(play: Callable[..., None]) -> None:
    """A limit of 0 refuses each one; limits that are none are refused themselves."""

    def scene(rig: Rig) -> None:
        with pytest.raises(OverloadedError) as caught:
            rig.add("a", 0)
        assert caught.value.retry_after_ms is None

    play(SequenceLimits(0), scene)
    for wrong in ({"most": -1}, {"most_bytes": 1.5}, {"idle_s": 0.0}):
        with pytest.raises(ServingError):
            SequenceLimits(**wrong)  # type: ignore[arg-type]
