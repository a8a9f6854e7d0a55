"""Cached profile: valid while a quick check agrees; a busy machine does not count as a slow one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from nested_sparse.errors import CheckpointError
from nested_sparse.level import Level
from nested_sparse.runtime.profiling.cached_profile import CHECK_S, CHECK_TURNS, check, profile_of
from nested_sparse.runtime.profiling.profile import LatencyProfile
from nested_sparse.runtime.profiling.profile_key import choice_key
from nested_sparse.runtime.profiling.profile_store import HISTORY, ProfileStore
from nested_sparse.runtime.profiling.thread_choice import THREADS
from nested_sparse.tensor_spec import TensorSpec

LEVEL_MS = (2.0, 5.0, 9.0)


@dataclass
class Device:
    """A session on a clock of its own; the first run of a level is cold, and takes ten times as long."""

    level_ms: Sequence[float] = LEVEL_MS
    slowdown: float = 1.0
    value: float = 0.0
    name: str = "net"
    digest: str = "abc"
    isa: str = "scalar"
    spin: bool = False
    threads: int = 1
    runs: list[int] = field(default_factory=list)
    now_s: float = 0.0

    @property
    def levels(self) -> tuple[Level, ...]:
        return tuple(Level(index, 1.0, 1, 1) for index in range(len(self.level_ms)))

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("x", "float32", (None, 2), (1, 2)),)

    def run(self, inputs: dict[str, np.ndarray], level: int) -> dict[str, np.ndarray]:
        cold = 10.0 if level not in self.runs else 1.0
        self.runs.append(level)
        self.now_s += self.level_ms[level] * len(inputs["x"]) * self.slowdown * cold / 1e3
        return {"y": np.full(2, self.value, np.float32)}


def start(store: ProfileStore | None, **device: object):
    """A start of the server on such a device: what it uses, and how often it ran the model for that."""
    it = Device(**device)  # type: ignore[arg-type]
    return profile_of(it, store, max_batch=2, clock=lambda: it.now_s), len(it.runs)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    return ProfileStore(tmp_path)


def first_ms(profile: LatencyProfile) -> list[float]:
    return [row[0] for row in profile.median_ms]


def test_second_start_only_checks(store: ProfileStore) -> None:
    """A cold run, then CHECK_TURNS of each level."""
    first, _ = start(store)
    second, runs = start(store)
    assert runs == (1 + CHECK_TURNS) * len(LEVEL_MS)
    assert second.profile.to_json() == first.profile.to_json()
    assert second.ratio == pytest.approx(1.0)


def test_without_a_store_every_start_measures() -> None:
    """Nothing kept, nothing checked."""
    counts = [start(None)[1] for _ in range(2)]
    assert counts[0] == counts[1] > 10 * len(LEVEL_MS)


def test_another_checkpoint_or_thread_count_is_measured(store: ProfileStore) -> None:
    """A profile holds for what it was measured on."""
    _, measuring = start(store)
    assert start(store, digest="def")[1] == measuring
    assert start(store, threads=2)[1] == measuring
    assert start(store, isa="avx2")[1] == measuring


@pytest.mark.parametrize("slowdown", [1.0, 0.75, 1.35])
def test_small_changes_are_the_slowdowns_business(store: ProfileStore, slowdown: float) -> None:
    """The kept profile stands, and the ratio says how it is now."""
    start(store)
    profiled, runs = start(store, slowdown=slowdown)
    assert runs == (1 + CHECK_TURNS) * len(LEVEL_MS)
    assert profiled.ratio == pytest.approx(slowdown)
    assert first_ms(profiled.profile) == pytest.approx(LEVEL_MS)


def test_a_busy_start_is_not_the_truth(store: ProfileStore, caplog: pytest.LogCaptureFixture) -> None:
    """Measured anew, but the quiet times stay, and the ratio tells the slowdown."""
    start(store)
    with caplog.at_level(logging.INFO):
        busy, _ = start(store, slowdown=3.0)
    assert (
        "levels now take 3.00 times the kept times; 3.00 at best is not within 0.7 and 1.4, so it is measured anew"
        in caplog.text
    )
    assert first_ms(busy.profile) == pytest.approx(LEVEL_MS)
    assert busy.ratio == pytest.approx(3.0)
    quiet, runs = start(store)
    assert first_ms(quiet.profile) == pytest.approx(LEVEL_MS)
    assert runs == (1 + CHECK_TURNS) * len(LEVEL_MS)


def test_a_quiet_start_mends_a_busy_profile(store: ProfileStore) -> None:
    """First measured beside a co-runner, then alone."""
    busy, _ = start(store, slowdown=3.0)
    assert first_ms(busy.profile) == pytest.approx([3 * ms for ms in LEVEL_MS])
    assert busy.ratio == pytest.approx(1.0)
    quiet, _ = start(store)
    assert first_ms(quiet.profile) == pytest.approx(LEVEL_MS)
    assert quiet.ratio == pytest.approx(1.0)


def test_a_device_that_became_slower_is_believed_in_the_end(store: ProfileStore) -> None:
    """The new speed counts after HISTORY starts."""
    start(store)
    for _ in range(HISTORY):
        profiled, _ = start(store, slowdown=2.0)
    assert first_ms(profiled.profile) == pytest.approx([2 * ms for ms in LEVEL_MS])
    assert start(store, slowdown=2.0)[1] == (1 + CHECK_TURNS) * len(LEVEL_MS)


def test_a_disturbed_check_goes_on(store: ProfileStore) -> None:
    """Two slow turns are not the machine's speed while there is time for more; the ratio is that of the median."""
    profile = LatencyProfile([1], [[ms] for ms in LEVEL_MS])
    device = Device()

    def clock() -> float:
        device.slowdown = 4.0 if len(device.runs) < 4 * len(LEVEL_MS) else 1.0
        return device.now_s

    assert check(device, profile, clock=clock) == pytest.approx(4.0)
    assert len(device.runs) == 5 * len(LEVEL_MS)


def test_levels_that_changed_order_are_measured(store: ProfileStore, caplog: pytest.LogCaptureFixture) -> None:
    """The median of the ratios alone would pass."""
    start(store)
    with caplog.at_level(logging.INFO):
        _, runs = start(store, level_ms=(2.0, 5.0, 4.5))
    assert "level 2 is not slower than level 1 any more" in caplog.text
    assert runs > (1 + CHECK_TURNS) * len(LEVEL_MS)


@pytest.mark.parametrize("level_ms", [(1.0, 200.0, 300.0), (400.0, 500.0, 600.0)])
def test_a_slow_model_is_checked_at_its_sparsest_levels(level_ms: tuple[float, ...]) -> None:
    """The check runs as many levels as the time allows, at least one, with warm runs."""
    device = Device(level_ms)
    device.runs += [0, 1, 2]
    ratio = check(device, LatencyProfile([1], [[ms] for ms in level_ms]), clock=lambda: device.now_s)
    assert ratio == pytest.approx(1.0)
    assert set(device.runs[3:]) == {0}
    assert device.now_s <= max(CHECK_S, (1 + CHECK_TURNS) * level_ms[0] / 1e3) + 1e-9


def test_a_profile_of_other_levels_is_measured_anew() -> None:
    """A file that someone edited."""
    assert check(Device(), LatencyProfile([1], [[1.0]])) is None


def test_the_check_finds_outputs_that_are_not_finite() -> None:
    """The check refuses such outputs, as measuring does."""
    with pytest.raises(CheckpointError, match="not finite"):
        check(Device(value=np.nan), LatencyProfile([1], [[ms] for ms in LEVEL_MS]))


def test_a_device_that_changed_chooses_its_threads_again(store: ProfileStore) -> None:
    """The choice is kept as long as the profile holds."""
    key = choice_key(store.key(Device(), 2))  # type: ignore[arg-type]
    start(store)
    store.keep(key, THREADS, 1)
    start(store)
    assert store.fact(key, THREADS) == 1
    start(store, slowdown=3.0)
    assert store.fact(key, THREADS) is None
