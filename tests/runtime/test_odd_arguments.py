"""Odd arguments: values of any type for a Session give the right answer or an error of this package."""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chain import counting_chain
from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import CheckpointError, InputError, LevelError, NestedSparseError, UnavailableError
from nested_sparse.runtime import (
    FixedPolicy,
    LatencyProfile,
    LevelCell,
    Request,
    Scheduler,
    Session,
    check_rows,
    layer_profile,
    mark_rows,
)
from nested_sparse.runtime.session.watchdog import Watchdog
from nested_sparse.slice import slice_checkpoint

Odd = Any
NO_NUMBERS: list[Odd] = [None, "a", "1", b"1", 1.5, 1.0, True, math.nan, math.inf, [1], {}, object(), np.array([1]), 1j]
TOO_LARGE: list[Odd] = [2**31, 2**70, np.uint64(2**64 - 1)]
NO_PATHS: list[Odd] = [None, 0, 3, 2**70, 1.5, ["a"], object()]

ONE = {"input": np.ones((1, 4), np.float32)}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of two layers of four, and three levels."""
    return counting_chain(tmp_path_factory.mktemp("odd") / "chain.safetensors", 2, 4, 3).path


@pytest.fixture
def session(path: Path) -> Iterator[Session]:
    with Session(path, threads=1) as opened:
        yield opened
        assert opened.run(ONE, 2)["output"].tolist() == [[5.0] * 4]  # nothing of it has broken the session


def in_time(call: Callable[[], object], limit_s: float = 60.0) -> object:
    """The call's result, or its error of this package; a call that hangs fails the test."""
    ended: list[object] = []

    def run() -> None:
        try:
            ended.append(call())
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit_s)
    assert ended, "it does not end"
    if isinstance(ended[0], BaseException):
        assert isinstance(ended[0], NestedSparseError), repr(ended[0])
        assert str(ended[0]).isprintable()
    return ended[0]


def openers(path: Any, folder: Path, whole: Path) -> dict[str, Callable[[], object]]:
    """All that takes the path of a checkpoint."""
    return {
        "Session": lambda: Session(path, threads=1).close(),
        "Checkpoint.open": lambda: Checkpoint.open(path).close(),
        "slice": lambda: slice_checkpoint(path, 1, folder / "slice"),
        "slice to": lambda: slice_checkpoint(whole, 1, path, force=True),
        "mark_rows": lambda: mark_rows(path),
        "layer_profile": lambda: layer_profile(path, repeats=1, threads=1),
    }


def named(value: object) -> str:
    """The same in every process: no address."""
    return type(value).__name__ if type(value) is object else ascii(value)[:40]


@pytest.mark.parametrize("odd", NO_PATHS, ids=named)
def test_a_value_that_is_no_path_is_refused(path: Path, tmp_path: Path, odd: Odd) -> None:
    """The error names the argument, for any value."""
    for what, call in openers(odd, tmp_path, path).items():
        error = in_time(call)
        assert isinstance(error, InputError), what
        assert "expected the path of a file, got" in str(error)


@pytest.mark.parametrize(
    "name",
    ["a\0b", "\ud800", "x" * 5000, "no/such", "empty", "folder", "pipe", "loop", "a\nb\x1b[31m", "/dev/zero"],
    ids=named,
)
def test_odd_files_are_refused(path: Path, tmp_path: Path, name: str) -> None:
    """None is waited for, and none is taken the place of but an ordinary file."""
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    odd = tmp_path / name
    calls = openers(odd, tmp_path, path)
    writing = calls.pop("slice to")
    for what, call in calls.items():
        assert isinstance(in_time(call), CheckpointError), what
    # the first three may be written; a device is never tried, which a fault would replace
    if name not in ("empty", "loop", "a\nb\x1b[31m", "/dev/zero"):
        assert isinstance(in_time(writing), CheckpointError)
    assert (tmp_path / "pipe").is_fifo()


def test_paths_in_bytes_are_paths(path: Path) -> None:
    """Bytes are paths, as in Python's os module."""
    with Session(os.fsencode(path), threads=1) as opened:  # type: ignore[arg-type]
        assert opened.path == path


@pytest.mark.parametrize("odd", [*NO_NUMBERS, *TOO_LARGE, -2], ids=named)
def test_odd_numbers_give_an_error_with_the_expected_value(session: Session, tmp_path: Path, odd: Odd) -> None:
    """Odd levels, threads, times and batches give an error with the expected value."""

    def set_threads() -> None:
        session.threads = odd

    def set_resident() -> None:
        session.resident_level = odd

    levels: dict[str, Callable[[], object]] = {
        "run": lambda: session.run(ONE, odd),
        "resident_level": set_resident,
        "LevelCell": lambda: LevelCell(odd),
        "lower": lambda: LevelCell(2).lower(odd),
        "slice": lambda: slice_checkpoint(session.path, odd, tmp_path / "slice"),
        "segment": lambda: session._checkpoint.segment(odd),
        "layer_profile": lambda: layer_profile(session.path, odd, 1, threads=1),
    }
    if odd == 2**31:
        del levels["LevelCell"]  # a level that some model may have
    for what, call in levels.items():
        assert isinstance(in_time(call), LevelError), what
    counts: dict[str, Callable[[], object]] = {
        "threads": set_threads,
        "Session": lambda: None if odd is None else Session(session.path, threads=odd),
        "repeats": lambda: layer_profile(session.path, 0, odd, threads=1),
        "batch": lambda: layer_profile(session.path, 0, 1, threads=1, batch=odd),
        "batches": lambda: LatencyProfile.measure(session, odd, 1),
        "one of batches": lambda: LatencyProfile.measure(session, (odd,), 1),
        "max_batch": lambda: LatencyProfile.measure(session, (1,), 1, max_batch=odd, limit_s=0.0),
        "profile": lambda: LatencyProfile([odd], [[1.0]]),
        "guard": lambda: session.run(ONE, 1, odd),
    }
    if any(odd is large for large in TOO_LARGE):
        del counts["repeats"]  # it would do them
    for call in counts.values():
        in_time(call)
    if not isinstance(odd, int | float | np.integer) or odd != odd or odd is True or odd < 0:
        assert isinstance(in_time(lambda: Session(session.path, run_limit_s=odd)), InputError)


INPUTS: dict[str, Odd] = {
    "None": None,
    "list": [ONE["input"]],
    "list of dicts": [ONE],
    "pairs": list(ONE.items()),
    "text": "input",
    "dict of lists": {"input": [[1.0] * 4]},
    "dict of None": {"input": None},
    "objects": {"input": ONE["input"].astype(object)},
    "big-endian": {"input": ONE["input"].astype(">f4")},
    "float16": {"input": ONE["input"].astype(np.float16)},
    "scalar": {"input": np.float32(1)},
    "0-d": {"input": np.array(1, np.float32)},
    "empty": {"input": ONE["input"][:0]},
    "records": {"input": np.zeros(1, [("a", "f4")])},
    "no names": {},
    "other names": {1: ONE["input"], None: ONE["input"], "\ud800\n": ONE["input"]},
    "reserved": {**ONE, "__level__": np.array(1)},
}


@pytest.mark.parametrize("odd", INPUTS.values(), ids=INPUTS.keys())
def test_odd_inputs_give_an_error(session: Session, odd: Odd) -> None:
    """They give the same error to a run, a scheduler and the check of rows."""
    assert isinstance(in_time(lambda: session.run(odd)), InputError)
    if odd is not None:
        assert isinstance(in_time(lambda: check_rows(session, odd)), InputError)
    profile = LatencyProfile([1], [[1.0]] * 3)
    scheduler = Scheduler(session, profile, FixedPolicy(1, profile), default_slo_ms=600_000.0, workers=0)
    assert isinstance(in_time(lambda: scheduler.submit(Request(odd)).result(60)), InputError)
    scheduler.close()


@pytest.mark.parametrize("of", ["transposed", "reversed", "read-only", "broadcast", "unaligned", "masked"])
def test_arrays_as_they_lie(session: Session, of: str) -> None:
    """The memory layout of an array does not change the result."""
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    fixed = values.copy()
    fixed.flags.writeable = False
    array = {
        "transposed": np.ascontiguousarray(values.T).T,
        "reversed": values[::-1],
        "read-only": fixed,
        "broadcast": np.broadcast_to(values[0], (3, 4)),
        "unaligned": np.frombuffer(b"\0" + values.tobytes(), np.uint8)[1:].view(np.float32).reshape(3, 4),
        "masked": np.ma.masked_array(values),
    }[of]
    np.testing.assert_array_equal(session.run({"input": array}, 0)["output"], array)


@pytest.mark.parametrize("odd", [*NO_NUMBERS, *TOO_LARGE, -1], ids=named)
def test_a_scheduler_outlives_odd_requests(session: Session, odd: Odd) -> None:
    """One whose time of arrival was infinite ended the worker: no later request was answered."""
    profile = LatencyProfile([1], [[1.0]] * 3)
    scheduler = Scheduler(session, profile, FixedPolicy(1, profile), default_slo_ms=600_000.0)
    in_time(lambda: scheduler.submit(odd).result(60))
    for field in ("slo_ms", "min_accuracy", "level", "received_s"):
        in_time(lambda field=field: scheduler.submit(Request(ONE, **{field: odd})).result(60))
        assert scheduler.submit(Request(ONE)).result(60).level.index == 1
    in_time(lambda: scheduler.limit(odd, "a test"))
    for name in ("default_slo_ms", "reply_margin_ms", "reply_margin_share", "max_queue", "priority"):
        options: dict[str, Any] = {"default_slo_ms": 1.0, "workers": 0, name: odd}
        in_time(lambda options=options: Scheduler(session, profile, FixedPolicy(1, profile), **options).close())
    assert scheduler.submit(Request(ONE)).result(60).level.index in (0, 1)
    scheduler.close()
    assert isinstance(scheduler.submit(Request(ONE)).exception(60), UnavailableError)


def test_limits_longer_than_a_wait_can_be(path: Path) -> None:
    """The thread that ends stuck runs died of them, for every session of the process."""
    told = threading.Event()
    watchdog = Watchdog(lambda key, elapsed_s: told.set())
    watchdog.begin("long", 1e300)
    assert not told.wait(0.1)
    watchdog.begin("short", 0.01)
    assert told.wait(60)
    watchdog.close()
    with Session(path, threads=1, run_limit_s=1e300) as opened:
        opened.run(ONE)
    profile = LatencyProfile([1], [[1.0]] * 3)
    with Session(path, threads=1) as opened:
        scheduler = Scheduler(opened, profile, FixedPolicy(1, profile), default_slo_ms=1e300)
        assert scheduler.submit(Request(ONE)).result(60).level.index == 1
        scheduler.close(1e300)


def test_runs_in_an_event_loop_and_during_close(path: Path) -> None:
    """The first is answered; of others, each is answered or told that the session is closed."""
    opened = Session(path, threads=1)

    async def run() -> list[float]:
        return opened.run(ONE, 0)["output"][0].tolist()  # type: ignore[no-any-return]

    assert asyncio.run(run()) == [1.0] * 4
    ends: list[object] = []

    def many() -> None:
        while not ends or not isinstance(ends[-1], UnavailableError):
            ends.append(in_time(lambda: opened.run(ONE, 0)))

    threads = [threading.Thread(target=many) for _ in range(3)]
    for thread in threads:
        thread.start()
    opened.close()
    for thread in threads:
        thread.join(60)
    assert any(isinstance(end, UnavailableError) for end in ends)
    assert all(isinstance(end, dict | UnavailableError) for end in ends)
    opened.close()
    for call in (lambda: opened.run(ONE), lambda: setattr(opened, "threads", 2)):
        assert isinstance(in_time(call), NestedSparseError)
    in_time(lambda: setattr(opened, "resident_level", 0))
    in_time(opened.resident_bytes)
    in_time(lambda: opened._checkpoint.load_layer("layer0"))
