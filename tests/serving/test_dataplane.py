"""Dataplane: its answers without any transport."""

from __future__ import annotations

import asyncio
import gc
import weakref
from concurrent.futures import Future

import numpy as np
import pytest

from nested_sparse.errors import InputError, NotFoundError, OverloadedError, UnavailableError
from nested_sparse.runtime.scheduling.request import Request
from nested_sparse.serving.dataplane import Dataplane
from nested_sparse.serving.protocol.call import Call


def call(outputs=(), **fields):
    return Call(Request({"x": np.ones((2, 4), np.float32)}, received_s=12.5, **fields), outputs)


def test_a_model_is_found_by_name_and_version_1(model):
    """A model is found by name, with version 1 or none."""
    dataplane = Dataplane([model])
    assert dataplane.find("net") is dataplane.find("net", "1") is model
    with pytest.raises(NotFoundError, match="no model 'other' here; RepositoryIndex lists those that are") as caught:
        dataplane.find("other")
    assert "net" not in str(caught.value)  # whoever guesses names is not told the others'
    with pytest.raises(NotFoundError, match="no version '2'; expected '1' or none"):
        dataplane.find("net", "2")


def test_infer_passes_everything_on(model):
    """The scheduler gets the very request; its response comes back."""
    asked = call(slo_ms=3.0, min_accuracy=0.9, level=1)

    async def run():
        return await Dataplane([model]).infer(model, asked)

    response = asyncio.run(run())
    np.testing.assert_array_equal(response.outputs["sum"], [[4], [4]])
    (request,) = model.engine.requests
    assert request is asked.request


def test_the_engine_is_told_of_a_response_that_came_from_another_thread(model):
    """And not of one that was there at once: its reply waits for no thread."""
    answer = model.engine.response({"x": np.ones((2, 4), np.float32)}, 0)

    async def run():
        dataplane = Dataplane([model])
        await dataplane.infer(model, call())
        model.engine.held = True
        asked = asyncio.create_task(dataplane.infer(model, call()))
        while not model.engine.pending:
            await asyncio.sleep(0)
        model.engine.pending[0].set_result(answer)
        return await asked

    assert asyncio.run(run()) is answer
    assert model.engine.replies == [answer]


def test_unknown_output_is_refused_before_the_run(model):
    """Nothing is computed for an answer that could not be given."""
    with pytest.raises(InputError, match="no output 'y'; expected 'sum', 'double'"):
        asyncio.run(Dataplane([model]).infer(model, call(("y",))))
    assert model.engine.requests == []


def test_scheduler_errors_come_through(model):
    """The scheduler's errors pass unchanged."""
    model.engine.error = OverloadedError("full", 5)
    with pytest.raises(OverloadedError, match="full"):
        asyncio.run(Dataplane([model]).infer(model, call()))


def test_cancelling_cancels_the_request(model):
    """A cancelled caller takes its request out of the queue."""
    model.engine.held = True

    async def run():
        task = asyncio.create_task(Dataplane([model]).infer(model, call()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert model.engine.pending[0].cancelled()


def test_drain_waits_for_the_running(model):
    """Draining refuses new calls and ends when the last running one has."""
    model.engine.held = True

    async def run():
        dataplane = Dataplane([model])
        running = asyncio.create_task(dataplane.infer(model, call()))
        await asyncio.sleep(0)
        draining = asyncio.create_task(dataplane.drain(30))
        await asyncio.sleep(0)
        assert not dataplane.ready
        with pytest.raises(UnavailableError, match="draining"):
            await dataplane.infer(model, call())
        assert not draining.done()
        model.engine.pending[0].set_result("answer")
        assert await running == "answer"
        return await draining

    assert asyncio.run(run()) is True


def test_idle_drain_needs_no_grace(model):
    """With nothing running there is nothing to cancel, whatever the grace."""

    async def run():
        return await Dataplane([model]).drain(0)

    assert asyncio.run(run()) is True


def test_drain_gives_up_after_the_grace(model):
    """A request that never ends does not hold the server for ever."""
    model.engine.held = True

    async def run():
        dataplane = Dataplane([model])
        running = asyncio.create_task(dataplane.infer(model, call()))
        await asyncio.sleep(0)
        finished = await dataplane.drain(0.01)
        running.cancel()
        return finished

    assert asyncio.run(run()) is False


@pytest.mark.parametrize("later", [False, True])
def test_a_refused_request_is_gone_without_a_garbage_collection(model, monkeypatch, later):
    """Its inputs may be large: a client whose requests are refused must not fill the memory until Python collects."""
    futures = [Future()]
    monkeypatch.setattr(model.engine, "run_or_queue", lambda request: futures[0])
    if not later:
        futures[0].set_exception(OverloadedError("full", 5.0))
    refused = call()
    inputs = weakref.ref(refused.request.inputs["x"])

    async def run(refused):
        asked = asyncio.create_task(Dataplane([model]).infer(model, refused))
        await asyncio.sleep(0)
        if later:
            futures[0].set_exception(OverloadedError("full", 5.0))
        (error,) = await asyncio.gather(asked, return_exceptions=True)
        return type(error)

    gc.disable()
    try:
        assert asyncio.run(run(refused)) is OverloadedError
        futures.clear()
        del refused
        assert inputs() is None
    finally:
        gc.enable()
