"""Run: the figures of the front, each beside the bare server in turns."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np

from nested_sparse.proto import messages
from nested_sparse.runtime.session import Session

from ..reach import Reach
from ..serving.figure import Figure
from ..serving.server_process import running_server
from .bare_server import path_of, running_bare_server
from .caller import Target, at_once, calling, in_turns
from .trivial import LARGE_SHAPE, SMALL_SHAPE, Trivial, make_trivial

REGISTER = f"/{messages.SERVICE_NAME}/SystemSharedMemoryRegister"
INFER = f"/{messages.SERVICE_NAME}/ModelInfer"
CONNECTIONS = 16
TURNS = 5
PERCENTS = (1, 5, 25, 50, 75, 95, 99)
REGION = "bench"
SERVED = ("--allow-shared-memory", "--threads", "1", "--profile-cache", "off", "--slo-ms", "1000")


@dataclass(frozen=True, slots=True)
class FrontOptions:
    """rounds: calls of each server in each row of one client. seconds: of load, per turn and server, in the others."""

    rounds: int = 1000
    seconds: float = 2.0


def measure_front(options: FrontOptions) -> list[Figure]:
    """The figures. Raises BenchError for a wrong answer, ServingError where the server does not start."""
    with tempfile.TemporaryDirectory(prefix="nested-sparse-") as folder:
        paths = [Path(folder) / f"{name}.safetensors" for name in ("small", "large")]
        for path, shape in zip(paths, (SMALL_SHAPE, LARGE_SHAPE), strict=True):
            make_trivial(path, shape)
        with (
            Session(paths[0], threads=1) as first,
            Session(paths[1], threads=1) as second,
            running_server(paths[0], [str(paths[1]), *SERVED]) as server,
        ):
            small, large = Trivial.of(first), Trivial.of(second)
            sizes = [_answer_size(server.address, each) for each in (small, large)]
            with running_bare_server(sizes) as bare, running_bare_server(sizes[:1], paths[0]) as floor:
                pairs = [
                    (Target(bare, path_of(size), each.raw_request()), Target(server.address, INFER, each.raw_request()))
                    for each, size in zip((small, large), sizes, strict=True)
                ]
                return [
                    _latency("p50 of a call with 4 kB", Reach("<=", 1.4), small, pairs[0], options.rounds),
                    _latency("p50 of a call with 602 kB", Reach("<=", 1.25), large, pairs[1], options.rounds),
                    _shared(large, pairs[0][0], server.address, options.rounds),
                    *_rates(small, pairs[0], Target(floor, path_of(sizes[0]), small.raw_request()), options.seconds),
                ]


def _answer_size(address: str, model: Trivial) -> int:
    """Bytes of the server's answer, checked; the largest of a few, because the times in it are of varying length."""
    with calling(Target(address, INFER, model.raw_request())) as calls:
        (done,) = in_turns(calls, 20)
    for _, answer in done:
        model.check(answer)
    return max(len(answer) for _, answer in done)


def _latency(
    name: str, reach: Reach, model: Trivial, pair: Sequence[Target], rounds: int, beside: str = "the same bytes"
) -> Figure:
    with calling(*pair) as calls:
        # Session.run takes turns, too: where nothing runs in between, it finds the caches warm and takes a third
        done = in_turns([*calls, model.run], rounds)
    for _, answer in done[1]:
        model.check(answer)
    bare_ms, ours_ms, run_ms = ([spent_ms for spent_ms, _ in each] for each in done)
    bare_p50_ms, ours_p50_ms, run_p50_ms = map(statistics.median, (bare_ms, ours_ms, run_ms))
    note = f"{ours_p50_ms:.3f} ms, {run_p50_ms:.3f} of them Session.run, against {bare_p50_ms:.3f} ms"
    return Figure(
        f"{name}, less Session.run / bare gRPC with {beside}",
        "×",
        reach,
        round((ours_p50_ms - run_p50_ms) / bare_p50_ms, 3),
        note,
        details={"ours_ms": _spread(ours_ms), "bare_ms": _spread(bare_ms), "run_ms": _spread(run_ms)},
    )


def _spread(spent_ms: Sequence[float]) -> dict[str, float]:
    """The number of calls and percentiles of their times: each time would make a line of JSON of 300 kB."""
    spread = {f"p{percent}": round(float(np.percentile(spent_ms, percent)), 4) for percent in PERCENTS}
    return {"calls": len(spent_ms), **spread}


def _shared(large: Trivial, bare: Target, address: str, rounds: int) -> Figure:
    """The large input in shared memory, against the small one sent to the bare server."""
    memory = SharedMemory(create=True, size=large.array.nbytes)
    try:
        view = memory.buf
        assert view is not None  # it is open
        view[: large.array.nbytes] = large.array.tobytes()
        del view
        register = messages.SystemSharedMemoryRegisterRequest(
            name=REGION, key=f"/{memory.name}", byte_size=large.array.nbytes
        )
        with calling(Target(address, REGISTER, register.SerializeToString())) as (call,):
            call()
        pair = bare, Target(address, INFER, large.shared_request(REGION))
        return _latency("p50 of a call with 602 kB in shared memory", Reach("<=", 1.4), large, pair, rounds, "4 kB")
    finally:
        memory.close()
        memory.unlink()


def _rates(model: Trivial, pair: Sequence[Target], floor: Target, seconds: float) -> list[Figure]:
    """Our rate against the bare server's, and that of a bare server that parses and runs: the most that ours can be."""
    targets = (*pair, floor)
    rates: list[list[float]] = [[] for _ in targets]
    for _ in range(TURNS):
        for target, found in zip(targets, rates, strict=True):
            rate, answers = at_once(target, CONNECTIONS, seconds)
            found.append(round(rate, 1))
            if target.path == INFER:
                for answer in answers:
                    model.check(answer)
    bare, ours, most = map(statistics.median, rates)
    name = f"requests/s with 4 kB over {CONNECTIONS} connections"
    return [
        Figure(
            f"{name} / bare gRPC",
            "×",
            Reach(">=", 0.6),
            round(ours / bare, 3),
            f"{ours:.0f} against {bare:.0f} requests/s; one client process with a call under way on each connection",
            details={"ours_per_s": rates[1], "bare_per_s": rates[0]},
        ),
        Figure(
            f"{name}, bare gRPC that parses and runs the model / bare gRPC",
            "×",
            None,
            round(most / bare, 3),
            f"{most:.0f} against {bare:.0f} requests/s: the most that a server of grpc.aio in one process can reach",
            details={"floor_per_s": rates[2], "bare_per_s": rates[0]},
        ),
    ]
