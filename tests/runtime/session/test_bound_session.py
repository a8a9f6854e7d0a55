"""BoundSession: runs with bound weights, their outputs, errors, and what they keep in memory."""

from __future__ import annotations

import gc
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from mappings import mappings
from row_graphs import IN, WIDTH, node, write_rows

from chain import small_chain, small_inputs
from nested_sparse.errors import InputError
from nested_sparse.runtime.session import Session
from nested_sparse.runtime.session.bound_session import KEPT_BYTES


@pytest.mark.parametrize("bound", [True, False])
def test_each_run_has_outputs_of_its_own(tmp_path: Path, bound: bool) -> None:
    """Results stay when the next run, of the same or another batch and level, writes its own; with and without."""
    written = small_chain(tmp_path / "m.safetensors")
    with Session(written.path, threads=1) as session:
        opened = session._ort
        assert opened is not None
        assert opened._bindable
        opened._bindable = bound
        runs = [(batch, level) for batch in (2, 2, 3, 1) for level in (0, 2)]
        inputs = [small_inputs(batch=batch) for batch, _ in runs]
        results = [session.run(each, level)["output"] for each, (_, level) in zip(inputs, runs, strict=True)]
        for given, (_, level), got in zip(inputs, runs, results, strict=True):
            np.testing.assert_allclose(got, written.reference(given["input"], level), rtol=1e-4, atol=1e-4)


def test_an_input_that_an_operator_refuses_is_an_input_error(tmp_path: Path) -> None:
    """An index beyond a table, which only the run finds. The session goes on."""
    nodes = [node("Gather", ["table", "ids"], ["m"], axis=0), node("Add", ["z", "m"], ["output"])]
    table = np.zeros((4, WIDTH), np.float32)
    path = write_rows(tmp_path / "m.safetensors", nodes, {"table": table}, ids=())
    x = np.ones((2, IN), np.float32)
    with Session(path, threads=1) as session:
        good = session.run({"input": x, "ids": np.array([0, 3])})["output"]
        with pytest.raises(InputError, match=r"m\.safetensors: level 1: .*out of data bounds"):
            session.run({"input": x, "ids": np.array([0, 4])})
        np.testing.assert_array_equal(session.run({"input": x, "ids": np.array([0, 3])})["output"], good)


def test_large_inputs_are_not_kept(tmp_path: Path) -> None:
    """After its run, the session refers to an input only if it is small."""
    with Session(small_chain(tmp_path / "m.safetensors").path, threads=1) as session:
        large = small_inputs(batch=KEPT_BYTES // (4 * 24) + 1)["input"]
        small = small_inputs(batch=1)["input"]
        before = sys.getrefcount(large), sys.getrefcount(small)
        session.run({"input": small})
        session.run({"input": large})
        assert (sys.getrefcount(large), sys.getrefcount(small)) == before


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="mappings are read from Linux's /proc")
def test_a_session_that_is_gone_maps_no_file_though_another_thread_ran_it(tmp_path: Path) -> None:
    """A thread that lives on keeps no weights."""
    path = small_chain(tmp_path / "m.safetensors").path
    sessions, ran, done = [Session(path, threads=1)], threading.Event(), threading.Event()

    def client() -> None:
        sessions[0].run(small_inputs())
        ran.set()
        done.wait(60)

    thread = threading.Thread(target=client)
    thread.start()
    assert ran.wait(60)
    assert mappings(path)
    sessions.pop().close()
    gc.collect()
    held = mappings(path)
    done.set()
    thread.join(60)
    assert not held
