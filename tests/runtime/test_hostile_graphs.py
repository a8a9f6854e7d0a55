"""Hostile graphs: valid graphs that use all memory or never end; the run fails and the process continues."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hostile_graphs import (
    WIDTH,
    Nodes,
    before_output,
    doubling,
    endless,
    external,
    floats,
    integers,
    loop,
    write_hostile,
)
from nested_sparse.errors import CheckpointError, StuckError
from nested_sparse.runtime import Session
from nested_sparse.runtime.policy.fixed import FixedPolicy
from nested_sparse.runtime.profiling.profile import LatencyProfile
from nested_sparse.runtime.scheduling import running_jobs as running_jobs
from nested_sparse.runtime.scheduling.request import Request
from nested_sparse.runtime.scheduling.scheduler import Scheduler
from nested_sparse.runtime.session.arena import IDENTITY_MODEL

GREEDY_BYTES = 1 << 28
X = {"input": np.ones((1, WIDTH), np.float32)}
HUGE = 10**9  # times four bytes


def make(operator: str, *inputs: str, **attributes: object) -> Nodes:
    return [helper.make_node(operator, list(inputs), ["extra"], **attributes)]


K, ROW, COLUMN = floats("k", [1.0]), floats("row", np.ones((1, 40_000))), floats("column", np.ones((40_000, 1)))
SHAPE, TERA = integers("s", [HUGE]), integers("s", [10**12])
ONE = onnx.numpy_helper.from_array(np.ones(1, np.float32))
GREEDY = {
    "filled": before_output(make("ConstantOfShape", "s", value=ONE), [SHAPE]),
    "filled, terabytes": before_output(make("ConstantOfShape", "s", value=ONE), [TERA]),
    "filled, no such number": before_output(make("ConstantOfShape", "s", value=ONE), [integers("s", [2**62, 4])]),
    "filled, negative": before_output(make("ConstantOfShape", "s", value=ONE), [integers("s", [-1])]),
    "expanded": before_output(make("Expand", "k", "s"), [SHAPE, K]),
    "expanded input": before_output(make("Expand", "input", "s"), [integers("s", [HUGE, 1, 4])]),
    "tiled": before_output(make("Tile", "k", "s"), [SHAPE, K]),
    "counted": before_output(
        make("Range", "a", "b", "c"), [floats("a", 0.0), floats("b", float(HUGE)), floats("c", 1.0)]
    ),
    "padded": before_output(make("Pad", "k", "s"), [integers("s", [0, HUGE]), K]),
    "resized": before_output(
        make("Resize", "pixel", "", "", "s", mode="nearest"), [integers("s", [1, HUGE]), floats("pixel", [[1.0]])]
    ),
    "drawn": before_output(make("RandomNormal", shape=[HUGE])),
    "one-hot": before_output(make("OneHot", "i", "s", "v"), [integers("i", [1]), SHAPE, floats("v", [0.0, 1.0])]),
    "window": before_output(make("HannWindow", "s"), [integers("s", HUGE)]),
    "broadcast": before_output(make("Add", "row", "column"), [ROW, COLUMN]),
    "outer product": before_output(make("MatMul", "column", "row"), [ROW, COLUMN]),
    "equation": before_output(make("Einsum", "column", "row", equation="ab,cd->abcd"), [ROW, COLUMN]),
    "doubled": before_output(doubling(40, "k", axis=0), [K]),
    "doubled input": before_output(doubling(40, "input", axis=0)),
    "grown in a loop": loop(
        [
            helper.make_node("Identity", ["going"], ["go"]),
            helper.make_node("Concat", ["held", "held"], ["value"], axis=0),
        ]
    ),
    "gathered in a loop": loop(
        [
            helper.make_node("Identity", ["going"], ["go"]),
            helper.make_node("Expand", ["held", "s"], ["wide"]),
            helper.make_node("ReduceSum", ["wide"], ["value"]),
        ],
        initializers=[integers("s", [1 << 28, 1])],
    ),
    "endless": endless(),
}
SCRIPT = f"""
import json, resource, sys
import numpy as np
from nested_sparse.errors import NestedSparseError
from nested_sparse.runtime.session import arena
from nested_sparse.runtime import Session

resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
arena.most_bytes = lambda: {GREEDY_BYTES}
x = {{"input": np.ones((1, {WIDTH}), np.float32)}}
outcomes = {{}}
for path in sys.argv[2:]:
    try:
        with Session(path, threads=1, run_limit_s=2.0) as session:
            session.run(x)
        outcomes[path] = "ran"
    except NestedSparseError as error:
        outcomes[path] = type(error).__name__
with Session(sys.argv[1], threads=1) as session:
    outcomes["honest"] = session.run(x)["output"].shape
status = dict(line.split(":") for line in open("/proc/self/status") if ":" in line)
outcomes["peak"] = int(status["VmHWM"].split()[0]) * 1024
print(json.dumps(outcomes))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the memory of the process is read from /proc")
def test_greedy_graphs_end_in_an_error(tmp_path: Path) -> None:
    """All of them in one process, which then serves an honest file, and never had more memory than it was given."""
    honest = write_hostile(tmp_path / "honest.safetensors", lambda model: None)
    paths = {case: str(write_hostile(tmp_path / f"{case}.safetensors", tamper)) for case, tamper in GREEDY.items()}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(honest), *paths.values()], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes = json.loads(done.stdout)
    assert outcomes.pop("honest") == [1, WIDTH]
    assert outcomes.pop("peak") < 4 * GREEDY_BYTES
    found = {case: outcomes[path] for case, path in paths.items()}
    assert found.pop("filled, negative") in ("CheckpointError", "KernelError")
    assert found.pop("filled, no such number") in ("CheckpointError", "KernelError")
    assert found.pop("endless") == "StuckError"
    assert set(found.values()) == {"OutOfMemoryError"}, found


def wait_until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_worker_comes_back_from_an_endless_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client is told, the run is ended, and the next request has a worker again."""
    monkeypatch.setattr(running_jobs, "stuck_after_s", lambda predicted_ms: 0.2)
    path = write_hostile(tmp_path / "m.safetensors", endless())
    with Session(path, threads=1) as session:
        profile = LatencyProfile((1,), [[1.0], [1.0]])
        scheduler = Scheduler(session, profile, FixedPolicy(1, profile), default_slo_ms=600_000.0)
        for _ in range(2):
            assert isinstance(scheduler.submit(Request(X)).exception(60), StuckError)
            wait_until(lambda: scheduler.stats().stuck == 0)
        scheduler.close()


def test_only_the_run_that_is_stuck_is_stopped(tmp_path: Path) -> None:
    """A thread's next run is not taken for the one that was to be stopped."""
    with Session(write_hostile(tmp_path / "m.safetensors", endless()), threads=1) as session:
        errors: list[Exception] = []

        def run() -> None:
            try:
                session.run(X)
            except StuckError as error:
                errors.append(error)

        before_s = time.monotonic()
        thread = threading.Thread(target=run)
        thread.start()
        wait_until(lambda: session._runs._of_thread.get(thread.ident or 0) is not None)
        session.stop_run(thread.ident or 0, before_s)
        session.stop_run(threading.get_ident(), time.monotonic())
        thread.join(0.2)
        assert thread.is_alive()
        session.stop_run(thread.ident or 0, time.monotonic())
        thread.join(60)
        assert len(errors) == 1


def test_other_files_stay_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An initializer that lies in a file of the working directory is not read."""
    (tmp_path / "secret").write_bytes(bytes(256))
    monkeypatch.chdir(tmp_path)
    nodes = [helper.make_node("ArgMax", ["input"], ["row"]), *make("Gather", "k", "row")]
    tamper = before_output(nodes, [external(floats("k", [0.0] * 64), "secret")])
    path = write_hostile(tmp_path / "m.safetensors", tamper)
    with pytest.raises(CheckpointError, match="external_data"):
        Session(path, threads=1)


def test_names_in_a_graph_do_not_steer_the_terminal(tmp_path: Path) -> None:
    """A message may not reach a terminal as it stands in the file."""

    def strange(model: onnx.ModelProto) -> None:
        model.graph.node[0].name = "\x1b]0;owned\x07\n2026 ERROR forged"
        model.graph.node[0].input[0] = "\x1b[31m missing"

    with pytest.raises(CheckpointError) as caught:
        Session(write_hostile(tmp_path / "m.safetensors", strange), threads=1)
    assert str(caught.value).isprintable()


def test_deep_graphs_load(tmp_path: Path) -> None:
    """As many nodes in a row as the check lets through take no stack."""
    names = ["input", *(f"v{i}" for i in range(4_999)), "extra"]
    nodes = [helper.make_node("Sin", [names[i]], [names[i + 1]]) for i in range(5_000)]
    with Session(write_hostile(tmp_path / "m.safetensors", before_output(nodes)), threads=1) as session:
        assert session.run(X)["output"].shape == (1, WIDTH)


def test_the_arena_is_given_back_by_a_model_of_one_node() -> None:
    """Which is kept as bytes, for a device has no onnx."""
    model = onnx.load_model_from_string(IDENTITY_MODEL)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["Identity"]
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT


CLOSING = """
import sys
import numpy as np
from nested_sparse.runtime import Session
from nested_sparse.runtime.session.process_memory import anonymous_bytes

def used():
    return anonymous_bytes()

small, big = np.ones((1, 4), np.float32), np.ones((4_000_000, 4), np.float32)
with Session(sys.argv[1], threads=1) as session:
    session.run({"input": small})
before = used()
with Session(sys.argv[1], threads=1) as session:
    del session.run({"input": big})["output"]
    during = used()
print(used() - before, during - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the memory of the process is read from /proc")
def test_a_closed_session_keeps_no_memory(tmp_path: Path) -> None:
    """The memory of its runs returns to the system, although other sessions share the arena."""
    path = write_hostile(tmp_path / "m.safetensors", lambda model: None)
    done = subprocess.run([sys.executable, "-c", CLOSING, str(path)], capture_output=True, text=True, check=True)
    kept, had = map(int, done.stdout.split())
    assert had > 50 << 20
    assert kept < had / 4
