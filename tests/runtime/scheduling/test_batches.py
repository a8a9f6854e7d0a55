"""Batches: requests that run together, and requests that must not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_sessions import FakeSession

from nested_sparse.free_size import FreeSize
from nested_sparse.runtime.policy.elastic import ElasticPolicy
from nested_sparse.runtime.profiling.profile import LatencyProfile
from nested_sparse.runtime.profiling.size_growth import SizeGrowth
from nested_sparse.runtime.scheduling.request import Request
from nested_sparse.runtime.scheduling.scheduler import Scheduler
from nested_sparse.tensor_spec import TensorSpec

PROFILE = LatencyProfile((1, 2, 4), [[8.0] * 3] * 4)
"""Four together cost as much as one."""
X = {"x": np.ones((1, 3), np.float32)}


class Batched(FakeSession):
    """A session whose outputs have a row per sample: ten times that of the input. It fails where one is NaN."""

    def __init__(self, rig: Any) -> None:
        super().__init__(rig.session)
        self.clock = rig.clock
        self.rows = "independent"
        self.sizes: list[int] = []

    def run(self, inputs: dict[str, np.ndarray], level: int) -> dict[str, np.ndarray]:
        self.sizes.append(len(inputs["x"]))
        if np.isnan(inputs["x"]).any():
            raise RuntimeError("cannot")
        self.clock.advance_to(self.clock() + 0.001)
        return {"y": inputs["x"] * 10}


def batching(session: Batched, joins: bool | None = None, profile: LatencyProfile = PROFILE) -> Scheduler:
    settings: dict[str, Any] = {"default_slo_ms": 100.0, "workers": 0, "clock": session.clock, "joins": joins}
    return Scheduler(session, profile, ElasticPolicy(profile), **settings)


def rows(*values: float) -> dict[str, np.ndarray]:
    return {"x": np.array([[value] * 3 for value in values], np.float32)}


def test_a_batch_gives_each_request_its_own_rows(rig: Callable[..., Any]) -> None:
    """Requests of 1, 2 and 1 samples in one run; the fifth sample waits for the next."""
    session = Batched(rig())
    scheduler = batching(session)
    futures = [scheduler.submit(Request(rows(*values))) for values in ((1.0,), (2.0, 3.0), (4.0,), (5.0,))]
    assert scheduler.serve_next()
    assert [future.done() for future in futures] == [True, True, True, False]
    for future, values in zip(futures, ((1.0,), (2.0, 3.0), (4.0,)), strict=False):
        np.testing.assert_array_equal(future.result(0).outputs["y"], rows(*values)["x"] * 10)
        assert future.result(0).batch == 4
    scheduler.serve_next()
    assert session.sizes == [4, 1]
    assert futures[3].result(0).batch == 1


@pytest.mark.parametrize(("rows_", "joins"), [("dependent", None), (None, None), ("independent", False)])
def test_only_independent_rows_are_joined(rig: Callable[..., Any], rows_: str | None, joins: bool | None) -> None:
    """Not where the file says otherwise or nothing, or the server has found otherwise; times are those of one run."""
    session = Batched(rig())
    session.rows = rows_
    scheduler = batching(session, joins=joins)
    futures = [scheduler.submit(Request(rows(value))) for value in (1.0, 2.0, 3.0)]
    for _ in futures:
        scheduler.serve_next()
    assert session.sizes == [1, 1, 1]
    assert [future.result(0).batch for future in futures] == [1, 1, 1]


def test_requests_known_to_be_independent_are_joined_whatever_the_file_says(rig: Callable[..., Any]) -> None:
    """An old file has no mark of rows; a caller that has checked the rows may pass the result."""
    session = Batched(rig())
    session.rows = None
    scheduler = batching(session, joins=True)
    futures = [scheduler.submit(Request(rows(value))) for value in (1.0, 2.0)]
    scheduler.serve_next()
    assert (session.sizes, [future.result(0).batch for future in futures]) == ([2], [2, 2])


def test_inputs_of_unequal_batches_are_never_joined(rig: Callable[..., Any]) -> None:
    """A model may broadcast one row to several: joined, two such requests would fit and take each other's rows."""

    class Broadcast(Batched):
        def __init__(self, rig: Any) -> None:
            super().__init__(rig)
            self.inputs = (self.inputs[0], TensorSpec("b", "float32", (None, 3), (1, 3)))

        def run(self, inputs: dict[str, np.ndarray], level: int) -> dict[str, np.ndarray]:
            self.sizes.append(len(inputs["x"]))
            return {"y": inputs["x"] + inputs["b"]}

    session = Broadcast(rig())
    scheduler = batching(session)
    given = [((1.0,), (10.0, 20.0)), ((2.0, 3.0), (30.0,)), ((4.0,), (40.0,)), ((5.0,), (50.0,))]
    futures = [scheduler.submit(Request({**rows(*x), "b": rows(*b)["x"]})) for x, b in given]
    while scheduler.serve_next():
        pass
    got = [future.result(0).outputs["y"][:, 0].tolist() for future in futures]
    assert got == [[11.0, 21.0], [32.0, 33.0], [44.0], [55.0]]
    assert session.sizes == [1, 2, 2]


def test_requests_of_different_sizes_are_never_joined(rig: Callable[..., Any]) -> None:
    """Nor is one run's time taken for the other's: the policy learns what the example would have taken."""

    class Sized(Batched):
        def __init__(self, rig: Any) -> None:
            super().__init__(rig)
            free = (FreeSize("batch", batch=True), FreeSize("length", most=8))
            self.inputs = (TensorSpec("x", "float32", (None, None), (1, 3), free),)

    session = Sized(rig())
    growth = SizeGrowth.of("length", 3, (3, 6), [[ms, 2 * ms] for (ms, *_) in PROFILE.median_ms])
    profile = LatencyProfile(PROFILE.batches, PROFILE.median_ms, growth=(growth,))
    scheduler = batching(session, profile=profile)
    given = [np.full((1, length), float(length), np.float32) for length in (3, 3, 6, 6, 3)]
    futures = [scheduler.submit(Request({"x": array})) for array in given]
    while scheduler.serve_next():
        pass
    for array, future in zip(given, futures, strict=True):
        np.testing.assert_array_equal(future.result(0).outputs["y"], array * 10)
    assert session.sizes == [2, 2, 1]
    wrong = scheduler.submit(Request({"x": np.zeros((1, 9), np.float32)}))
    assert "'length', may be 1 to 8, got 9" in str(wrong.exception(0))


def test_a_cancelled_request_is_no_part_of_a_batch(rig: Callable[..., Any]) -> None:
    """It is neither run nor answered, and its neighbours get their own rows."""
    session = Batched(rig())
    scheduler = batching(session)
    futures = [scheduler.submit(Request(rows(value))) for value in (1.0, 2.0, 3.0)]
    assert futures[1].cancel()
    scheduler.serve_next()
    assert session.sizes == [2]
    np.testing.assert_array_equal(futures[2].result(0).outputs["y"], rows(3.0)["x"] * 10)


def test_one_bad_request_does_not_fail_its_batch(rig: Callable[..., Any]) -> None:
    """The run of three fails, each alone then does what it can."""
    session = Batched(rig())
    scheduler = batching(session)
    futures = [scheduler.submit(Request(rows(value))) for value in (1.0, float("nan"), 3.0)]
    scheduler.serve_next()
    assert session.sizes == [3, 1, 1, 1]
    assert isinstance(futures[1].exception(0), RuntimeError)
    np.testing.assert_array_equal(futures[2].result(0).outputs["y"], rows(3.0)["x"] * 10)
    assert [futures[place].result(0).batch for place in (0, 2)] == [1, 1]
