"""SizeGrowth: the measured times of a free size, and a profile's predictions from them."""

from __future__ import annotations

import numpy as np
import pytest

from nested_sparse.errors import InputError, OutOfMemoryError
from nested_sparse.free_size import FreeSize
from nested_sparse.level import Level
from nested_sparse.runtime.profiling import turn
from nested_sparse.runtime.profiling.profile import LatencyProfile
from nested_sparse.runtime.profiling.size_growth import SizeGrowth, measured_sizes
from nested_sparse.tensor_spec import TensorSpec

BATCH = FreeSize("batch", batch=True)
FIXED_MS, LINEAR_MS, SQUARE_MS = 1.0, (0.01, 0.04), 0.001
EXAMPLE, WIDTH = 32, 8


def run_ms(level: int, batch: int, length: int, width: int = WIDTH) -> float:
    """The time of the model below: of its fixed part, of its layers, and of an attention, which no level thins."""
    return FIXED_MS + batch * width / WIDTH * (LINEAR_MS[level] * length + SQUARE_MS * length**2)


class SizedSession:
    """Runs take run_ms(), on a clock of its own. most: the longest sequence that fits into its memory."""

    name = "sized"

    def __init__(self, length: FreeSize, most: int = 1 << 20) -> None:
        self.levels = tuple(Level(i, 1.0, 1, 1) for i in range(2))
        free = (BATCH, length, FreeSize("width", most=4 * WIDTH))
        self.inputs = (TensorSpec("x", "float32", (None, None, None), (1, EXAMPLE, WIDTH), free),)
        self.most = most
        self.now_s = 0.0
        self.shapes: list[tuple[int, ...]] = []

    def run(self, inputs: dict[str, np.ndarray], level: int) -> dict[str, np.ndarray]:
        shape = inputs["x"].shape
        if shape[1] > self.most:
            raise OutOfMemoryError("full")
        self.shapes.append(shape)
        self.now_s += run_ms(level, *shape) / 1e3
        return {"y": np.zeros(1, np.float32)}


def measured(session: SizedSession, limit_s: float = 1e6, max_batch: int = 8) -> LatencyProfile:
    """Its profile."""
    return LatencyProfile.measure(session, max_batch=max_batch, limit_s=limit_s, clock=lambda: session.now_s)


def test_measured_sizes_lie_around_the_example_and_within_the_bounds() -> None:
    """Halves and doubles, the bounds where they are near, multiples only."""
    assert measured_sizes(FreeSize("n"), 32) == (4, 8, 16, 64, 128)
    assert measured_sizes(FreeSize("n", 12, 100), 32) == (12, 16, 64, 100)
    assert measured_sizes(FreeSize("n", 32, 96, 32), 64) == (32, 96)
    assert measured_sizes(FreeSize("n", 5, 5), 5) == ()


def test_predictions_are_the_times_at_measured_sizes_and_near_them_between() -> None:
    """Of each level its own growth: an attention that no level thins weighs more in the sparse one."""
    profile = measured(SizedSession(FreeSize("length", most=512)))
    assert [each.name for each in profile.growth] == ["length", "width"]
    assert profile.growth[0].sizes == (4, 8, 16, 32, 64, 128, 256, 512)
    for level in range(2):
        for length in (4, 16, 32, 128, 512):
            assert profile.predict_ms(level, 1, (length, WIDTH)) == pytest.approx(run_ms(level, 1, length))
        for length in (1, 5, 24, 50, 100, 400):
            real = run_ms(level, 1, length)
            assert real <= profile.predict_ms(level, 1, (length, WIDTH)) * (1 + 1e-9)
            assert profile.predict_ms(level, 1, (length, WIDTH)) <= 1.2 * real
    assert profile.predict_ms(1, 1, (EXAMPLE, WIDTH)) == profile.predict_ms(1) == pytest.approx(run_ms(1, 1, EXAMPLE))


def test_several_sizes_and_a_batch() -> None:
    """Sizes multiply, rather too long than too short; a sample as long as several counts as several in a batch."""
    profile = measured(SizedSession(FreeSize("length", most=512)))
    for level in range(2):
        for batch, length, width in ((1, 64, 16), (4, 64, WIDTH), (8, 256, 16), (3, 16, 32)):
            real = run_ms(level, batch, length, width)
            assert 0.75 * real < profile.predict_ms(level, batch, (length, width)) < 1.6 * real


def test_beyond_the_largest_size_times_go_on_to_grow() -> None:
    """At least in proportion, and at no level slower than at the next denser one."""
    profile = measured(SizedSession(FreeSize("length")))
    assert profile.growth[0].sizes[-1] == 4 * EXAMPLE
    for length in (200, 1000, 100_000):
        sparse, dense = (profile.predict_ms(level, 1, (length, WIDTH)) for level in range(2))
        assert sparse < dense
        assert dense >= profile.predict_ms(1, 1, (128, WIDTH)) * length / 128
    assert profile.predict_ms(1, 1, (1000, WIDTH)) > 0.5 * run_ms(1, 1, 1000)


def test_sizes_that_take_too_long_or_too_much_memory_are_not_measured() -> None:
    """Earlier measurements stay."""
    session = SizedSession(FreeSize("length", most=2048))
    assert measured(session, limit_s=2 * 15 * run_ms(1, 1, 256) / 1e3).growth[0].sizes[-1] < 2048
    full = SizedSession(FreeSize("length", most=2048), most=100)
    profile = measured(full)
    assert profile.growth[0].sizes[-1] == 64
    assert profile.growth[1].sizes[-1] == 4 * WIDTH


def test_sizes_of_huge_inputs_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may allow sizes at which the random inputs alone would take all memory."""
    monkeypatch.setattr(turn, "MOST_VALUES", 2 * EXAMPLE * WIDTH)
    session = SizedSession(FreeSize("length", most=1 << 30))
    profile = measured(session, max_batch=1)
    assert [each.sizes[-1] for each in profile.growth] == [2 * EXAMPLE, 2 * WIDTH]
    assert max(shape[1] * shape[2] for shape in session.shapes) == 2 * EXAMPLE * WIDTH


def test_json_and_the_quieter_of_two() -> None:
    """As for batches."""
    profile = measured(SizedSession(FreeSize("length", most=64)))
    copy = LatencyProfile.from_json(profile.to_json())
    assert copy.growth == profile.growth
    assert "growth" not in LatencyProfile((1,), [[2.0]]).to_json()
    slower = [
        SizeGrowth.of(
            g.name, g.example, g.sizes[:2] + g.sizes[3:], np.multiply(2, g.ms)[:, np.r_[:2, 3 : len(g.sizes)]]
        )
        for g in profile.growth
        if g.name == "length"
    ]
    other = LatencyProfile(profile.batches, profile.median_ms, growth=[*slower, profile.growth[1]])
    assert profile.quieter(other).growth == profile.growth
    assert other.quieter(profile).growth == profile.growth


@pytest.mark.parametrize(
    "changes",
    [
        {"sizes": [8, 4, 16]},
        {"sizes": [4, 16, 32]},
        {"sizes": [4, 8]},
        {"sizes": [0, 8, 16]},
        {"ms": [[1.0, 2.0, float("nan")]]},
        {"ms": [[1.0, 2.0], [1.0]]},
        {"ms": [[1.0, 2.0, 0.0]]},
        {"name": 7},
    ],
)
def test_a_wrong_growth_is_refused(changes: dict[str, object]) -> None:
    """From a file, say."""
    good: dict[str, object] = {"name": "length", "example": 8, "sizes": [4, 8, 16], "ms": [[1.0, 2.0, 4.0]]}
    assert SizeGrowth.from_fields(good).factor(0, 16) == 2.0
    with pytest.raises(InputError, match="latency profile"):
        SizeGrowth.from_fields(good | changes)
