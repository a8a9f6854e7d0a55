"""The integer reference itself: against exact rational arithmetic, and against properties of its definition."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from integer_reference import (
    Convolution,
    Image,
    Linear,
    Range,
    Window,
    add,
    average_pool,
    dequantise,
    dynamic_range,
    epilogue,
    global_average_pool,
    max_pool,
    multiply,
    quantise,
    quantised_rows,
    row_constants,
    row_scales,
    table,
)

SEEDS = range(8)
# Half a level for the last rounding, and three fraction bits before it: 1/16 level for each rounding of the sums.
MOST_OFF = 0.5 + 2 / 16 + 1 / 64
MOST_OFF_WITH_RESIDUAL = MOST_OFF + 2 / 16
ONE = Range(np.float32(1), 0)


def plain_window(size: int = 1, stride: int = 1, pads: int = 0, dilation: int = 1, dims: int = 2) -> Window:
    return Window([size] * dims, [stride] * dims, [pads] * 2 * dims, [dilation] * dims)


def random_image(rng: np.random.Generator, *shape: int) -> Image:
    held = Range(np.float32(rng.uniform(0.005, 0.05)), int(rng.integers(0, 256)))
    return Image(rng.integers(0, 256, shape, dtype=np.uint8), held)


def exact(value: float, held: Range) -> Fraction:
    """A byte's value."""
    return Fraction(float(held.scale)) * (int(value) - held.zero)


def as_level(value: Fraction, held: Range) -> Fraction:
    """Where a value lies among the bytes, not rounded."""
    return value / Fraction(float(held.scale)) + held.zero


def fitting_range(values: np.ndarray) -> Range:
    """A range that covers the values, with a little room."""
    lo, hi = min(float(values.min()), 0.0), max(float(values.max()), 1e-3)
    scale = np.float32((hi - lo) / 250)
    return Range(scale, int(np.rint(-lo / scale)) + 2)


def dense(layer: Convolution, x: Image) -> np.ndarray:
    """The convolution's values in float64, tap by tap."""
    seen = layer.window.taps(x.data, x.range.zero).astype(float) - x.range.zero
    y = np.zeros((len(x.data), len(layer.weight), *seen.shape[2:-1]))
    channels, rows = x.data.shape[1] // layer.groups, len(layer.weight) // layer.groups
    for o, row in enumerate(layer.weight.astype(float)):
        for i, factor in enumerate(row):
            c, tap = divmod(i, seen.shape[-1])
            y[:, o] += factor * seen[:, o // rows * channels + c, ..., tap]
        y[:, o] = y[:, o] * float(x.range.scale) * float(layer.scales[o]) * float(layer.norm[0, o]) + layer.norm[1, o]
    return y


def random_layer(rng: np.random.Generator, x: Image, rows: int, window: Window, groups: int = 1) -> Convolution:
    """A convolution whose output fits into its range."""
    taps = math.prod(window.kernel_shape)
    weight = rng.normal(size=(rows, x.data.shape[1] // groups * taps)).astype(np.float32)
    weight[rng.random(weight.shape) < 0.5] = 0
    scales = row_scales(weight)
    norm = np.stack([rng.normal(size=rows), rng.normal(size=rows)]).astype(np.float32)
    made = Convolution(quantised_rows(weight, scales), scales, norm, window, ONE, groups)
    return Convolution(made.weight, scales, norm, window, fitting_range(dense(made, x)), groups)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("with_residual", [False, True])
def test_a_convolution_is_within_one_level_of_rational_arithmetic(seed: int, with_residual: bool) -> None:
    rng = np.random.default_rng(seed)
    x = random_image(rng, 1, 6, 4, 4)
    layer = random_layer(rng, x, 5, plain_window())
    residual = None
    if with_residual:
        scale = np.float32(float(layer.outputs.scale) * rng.uniform(0.05, 0.6))
        residual = Image(rng.integers(0, 256, (1, 5, 4, 4), dtype=np.uint8), Range(scale, int(rng.integers(0, 256))))
    y = layer(x, residual)
    seen_saturated = 0
    for n, o, i, j in np.ndindex(y.data.shape):
        value = Fraction(float(layer.norm[1, o]))
        gain = Fraction(float(layer.scales[o])) * Fraction(float(layer.norm[0, o]))
        value += gain * sum(
            int(w) * exact(b, x.range) for w, b in zip(layer.weight[o], x.data[n, :, i, j], strict=True)
        )
        if residual is not None:
            value += exact(residual.data[n, o, i, j], residual.range)
        level = as_level(value, layer.outputs)
        seen_saturated += not 0 <= level <= 255
        assert abs(int(y.data[n, o, i, j]) - min(max(round(level), 0), 255)) <= 1
        most = MOST_OFF_WITH_RESIDUAL if with_residual else MOST_OFF
        assert abs(int(y.data[n, o, i, j]) - min(max(level, Fraction(0)), Fraction(255))) < most
    assert seen_saturated < y.data.size / 2


@pytest.mark.parametrize(
    ("size", "stride", "pads", "dilation", "groups"),
    [(3, 1, 1, 1, 1), (3, 2, 1, 1, 2), (3, 1, 2, 2, 6), (5, 3, 0, 1, 3)],
)
@pytest.mark.parametrize("dims", [1, 2])
def test_windows_and_groups(size: int, stride: int, pads: int, dilation: int, groups: int, dims: int) -> None:
    rng = np.random.default_rng(size * 10 + stride)
    x = random_image(rng, 2, 6, *[11] * dims)
    layer = random_layer(rng, x, 12, plain_window(size, stride, pads, dilation, dims), groups)
    expected = dense(layer, x) / float(layer.outputs.scale) + layer.outputs.zero
    reach = (11 + 2 * pads - (size - 1) * dilation - 1) // stride + 1
    assert layer(x).data.shape == (2, 12, *[reach] * dims)
    np.testing.assert_allclose(layer(x).data, expected, atol=MOST_OFF)


def test_a_windows_padding_adds_nothing() -> None:
    """A pixel's window in a corner sees the zero point: the same as a window that has no such taps."""
    x = Image(np.full((1, 1, 1, 1), 9, np.uint8), Range(np.float32(0.5), 77))
    weight = np.arange(1, 10, dtype=np.int8)[None]
    norm = np.float32([[1], [0]])
    outputs = Range(np.float32(0.5), 200)
    layer = Convolution(weight, np.float32([1 / 64]), norm, plain_window(3, pads=1), outputs)
    assert layer(x).data.item() == 200 + round(5 * (9 - 77) / 64)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_stay_within_32_bits(sign: int) -> None:
    """All weights 127, all activations 255: 4608 columns, and the most that a layer may have."""
    for columns in (4608, 32768):
        x = Image(np.full((1, columns, 1, 1), 255, np.uint8), Range(np.float32(1 / 255), 0))
        weight = np.full((1, columns), sign * 127, np.int8)
        outputs = Range(np.float32(columns / 255), 0 if sign > 0 else 255)
        layer = Convolution(weight, np.float32([1 / 127]), np.float32([[1], [0]]), plain_window(), outputs)
        assert layer.sums(x).item() == sign * 127 * 255 * columns
        assert layer(x).data.item() == (255 if sign > 0 else 0)
        most = np.int64([127 * 255 * columns])  # the largest bias that there is, on top
        assert epilogue(most, row_constants(0, 1e-30, (1e-30, 1e30), x.range, outputs), (0, 255)).item() == 255


def test_sums_outside_32_bits_are_an_error_of_the_test() -> None:
    row = row_constants(0, 1.0, (1.0, 0.0), ONE, ONE)
    with pytest.raises(AssertionError, match="outside 32 bits"):
        epilogue(np.int64([2**31]), row, (0, 255))


@pytest.mark.parametrize(("gain", "shift"), [(0.0, 3.0), (-0.0, 3.0), (1e-30, -2.0), (1e-45, 100.0)])
def test_a_silent_row_is_its_shift(gain: float, shift: float) -> None:
    outputs = Range(np.float32(0.5), 100)
    constants = row_constants(50, 1.0, (gain, shift), Range(np.float32(1), 3), outputs)
    y = epilogue(np.arange(-(2**12), 2**12, dtype=np.int64), constants, (0, 255))
    assert set(y.tolist()) == {round(min(max(shift / 0.5 + 100, 0), 255))}


@pytest.mark.parametrize(("gain", "shift"), [(math.nan, 0.0), (1.0, math.inf), (1.0, math.nan)])
def test_a_row_without_finite_constants_is_the_zero_point(gain: float, shift: float) -> None:
    constants = row_constants(2**20, 3e38, (gain, shift), Range(np.float32(3e38), 255), Range(np.float32(1e-38), 7))
    assert epilogue(np.int64([0, 1, -1]), constants, (0, 255)).tolist() == [7, 7, 7]


@pytest.mark.parametrize("gain", [316.0, -316.0, math.inf])
def test_a_row_with_too_large_a_gain_is_right_at_its_offset(gain: float) -> None:
    """The norm of a row without weights divides by a variance of 0; the row's answer is its shift, all the same."""
    outputs = Range(np.float32(0.1), 20)
    constants = row_constants(0, 0.5, (gain, 4.0), Range(np.float32(0.05), 30), outputs)
    assert epilogue(np.int64([0]), constants, (0, 255)).tolist() == [60]
    up, down = epilogue(np.int64([8, -8]), constants, (0, 255)).tolist()
    assert (up, down) == ((61, 59) if gain > 0 else (59, 61)), "an eighth of a level each: the largest multiplier"


@pytest.mark.parametrize("seed", SEEDS)
def test_constants_fit_their_types(seed: int) -> None:
    """Bias and largest sum fit into 32 bits for any scales; a multiplier has 13 bits or more."""
    rng = np.random.default_rng(seed)
    for _ in range(100):
        scales = np.float32(10.0 ** rng.uniform(-38, 38, 4))
        x, outputs = Range(scales[0], int(rng.integers(256))), Range(scales[1], int(rng.integers(256)))
        residual = Range(scales[2], 255) if rng.random() < 0.5 else None
        norm = (float(rng.normal() * 10.0 ** rng.uniform(-10, 10)), float(rng.normal() * 10.0 ** rng.uniform(-10, 10)))
        row = row_constants(int(rng.integers(-(2**22), 2**22)), float(scales[3]), norm, x, outputs, residual)
        assert row.bias - 32768 * 127 * 255 >= -(2**31)
        assert row.bias + 32768 * 127 * 255 < 2**31
        assert 0 <= row.residual <= 32767
        assert 2**12 <= abs(row.multiplier) <= 2**15 - 1


def test_limits_and_tables() -> None:
    held = Range(np.float32(0.5), 10)
    assert held.clip((0.0, 6.0)) == (10, 22)
    assert held.clip((-math.inf, math.inf)) == (0, 255)
    assert held.clip((-1e30, 1e30)) == (0, 255)
    sums, outputs = Range(np.float32(0.1), 128), Range(np.float32(0.05), 8)
    swish = table(lambda v: v / (1 + np.exp(-v)), sums, outputs)
    for byte, entry in enumerate(swish.entries.tolist()):
        value = 0.1 * (byte - 128)
        assert abs(entry - min(max(value / (1 + math.exp(-value)) / 0.05 + 8, 0), 255)) < 0.5001
    x = Image(np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16), sums)
    norm = np.float32([[1], [0]])
    layer = Convolution(np.int8([[127]]), np.float32([1 / 127]), norm, plain_window(), outputs, 1, (0.0, 0.1), swish)
    assert layer(x).data.ravel().tolist() == swish.entries.tolist(), "sums of the table's range, and no limits"


@pytest.mark.parametrize("seed", SEEDS)
def test_quantising_rounds_to_the_nearest_level(seed: int) -> None:
    rng = np.random.default_rng(seed)
    held = random_image(rng, 1).range
    x = rng.normal(size=1000).astype(np.float32)
    back = dequantise(Image(quantise(x, held), held))
    lo, hi = (float(exact(end, held)) for end in (0, 255))
    np.testing.assert_allclose(back, np.clip(x, lo, hi), atol=float(held.scale) * 0.5001)
    whole = Image(np.arange(256, dtype=np.uint8), held)
    assert quantise(dequantise(whole), held).tolist() == whole.data.tolist()


def test_quantising_what_is_no_number() -> None:
    x = np.float32([math.nan, math.inf, -math.inf, 3e38, -3e38, 0.5, 1.5])
    assert quantise(x, Range(np.float32(1), 3)).tolist() == [3, 255, 0, 255, 0, 3, 5]
    assert quantise(x[3:5], Range(np.float32(1e-38), 3)).tolist() == [255, 0]


def test_row_scales_are_those_of_the_largest_weight() -> None:
    weight = np.float32([[1, -2, 0.5, 0], [0, 0, 0, 0], [1e-40, 0, 0, 0], [-3e38, 1, 2, 3]])
    scales = row_scales(weight)
    assert scales.tolist() == [np.float32(2) / np.float32(127), 1.0, 1.0, np.float32(3e38) / np.float32(127)]
    assert quantised_rows(weight, scales).tolist() == [[64, -127, 32, 0], [0] * 4, [0] * 4, [-127, 0, 0, 0]]
    rng = np.random.default_rng(0)
    many = rng.normal(size=(2000, 9)).astype(np.float32)
    back = quantised_rows(many, row_scales(many)) * row_scales(many)[:, None].astype(float)
    assert np.all(np.abs(quantised_rows(many, row_scales(many))).max(axis=1) == 127)
    assert np.all(np.abs(back - many) <= (row_scales(many) * 0.5001)[:, None])


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_linear_layer_is_the_float_one_of_its_quantised_input(dynamic: bool) -> None:
    rng = np.random.default_rng(3)
    weight, x = (rng.normal(size=shape).astype(np.float32) for shape in ((7, 40), (2, 3, 40)))
    scales, norm = row_scales(weight), rng.normal(size=(2, 7)).astype(np.float32)
    held = None if dynamic else Range(np.float32(0.03), 120)
    residual = rng.normal(size=(2, 3, 7)).astype(np.float32)
    y = Linear(quantised_rows(weight, scales), scales, norm, held, (-5.0, 6.0))(x, residual)
    assert y.shape == (2, 3, 7)
    assert y.dtype == np.float32
    rounded = quantised_rows(weight, scales) * scales[:, None].astype(float)
    for place in np.ndindex(2, 3):
        own = held or dynamic_range(x[place])
        seen = dequantise(Image(quantise(x[place], own), own)).astype(float)
        expected = rounded @ seen * norm[0] + norm[1] + residual[place]
        np.testing.assert_allclose(y[place], np.clip(expected, -5, 6), rtol=1e-5, atol=1e-5)


def test_dynamic_ranges() -> None:
    assert dynamic_range(np.float32([1, 2.55])) == Range(np.float32(2.55) / np.float32(255), 0)
    assert dynamic_range(np.float32([-1, 0, math.nan])) == Range(np.float32(1) / np.float32(255), 255)
    assert dynamic_range(np.float32([0, 0])) == ONE
    assert dynamic_range(np.float32([])) == ONE
    assert dynamic_range(np.float32([1e-42])) == ONE
    assert dynamic_range(np.float32([math.inf, 1])) == ONE
    assert dynamic_range(np.float32([-math.inf, 1])) == Range(np.float32(1), 255)
    assert dynamic_range(np.float32([-3e38, 3e38])) == Range(np.float32(1), 255)


def test_pools_keep_the_range() -> None:
    rng = np.random.default_rng(5)
    x = random_image(rng, 2, 3, 7, 7)
    window = plain_window(3, 2, 1)
    spread = np.pad(x.data.astype(int), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-1)
    largest, mean, inside = max_pool(x, window), average_pool(x, window, True), average_pool(x, window, False)
    assert largest.range == mean.range == inside.range == x.range
    for n, c, i, j in np.ndindex(2, 3, 4, 4):
        seen = spread[n, c, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        real = [int(v) for v in seen[seen >= 0]]
        assert largest.data[n, c, i, j] == max(real)
        assert abs(Fraction(sum(real), len(real)) - int(inside.data[n, c, i, j])) <= Fraction(1, 2)
        padded = Fraction(sum(real) + (9 - len(real)) * x.range.zero, 9)
        assert abs(padded - int(mean.data[n, c, i, j])) <= Fraction(1, 2)


def test_a_pool_that_sees_only_padding() -> None:
    x = Image(np.full((1, 1, 1, 1), 50, np.uint8), Range(np.float32(1), 7))
    window = plain_window(1, pads=1)
    assert average_pool(x, window, False).data.ravel().tolist() == [7] * 4 + [50] + [7] * 4
    assert average_pool(x, window, True).data.ravel().tolist() == [7] * 4 + [50] + [7] * 4


def test_a_global_pool_is_rounded_once() -> None:
    rng = np.random.default_rng(6)
    for shape in ((2, 3, 7, 7), (2, 3, 13)):
        x = random_image(rng, *shape)
        pooled = global_average_pool(x)
        assert pooled.shape == (2, 3, *[1] * (len(shape) - 2))
        assert pooled.dtype == np.float32
        for n, c in np.ndindex(2, 3):
            bytes_seen = x.data[n, c].ravel().tolist()
            mean = sum((exact(b, x.range) for b in bytes_seen), Fraction(0)) / len(bytes_seen)
            nearest = abs(Fraction(float(pooled[n, c].item())) - mean)
            for other in (np.nextafter(pooled[n, c].item(), np.float32(way)) for way in (-1e9, 1e9)):
                assert nearest <= abs(Fraction(float(other)) - mean) * Fraction(1001, 1000)


@pytest.mark.parametrize("seed", SEEDS)
def test_add_and_multiply_are_within_one_level_of_rational_arithmetic(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = random_image(rng, 1, 4, 9, 9), random_image(rng, 1, 4, 9, 9)
    factors = rng.uniform(0.1, 1, (1, 4, 1, 1)).astype(np.float32)
    scale = np.float32(max(float(a.range.scale), float(b.range.scale)) * rng.uniform(0.8, 2.5))
    outputs, limits = Range(scale, 90), (-50 * float(scale), 60 * float(scale))
    added, multiplied = add(a, b, outputs, limits), multiply(a, factors, outputs, limits)
    assert added.range == multiplied.range == outputs

    def check(y: int, value: Fraction) -> None:
        assert abs(y - min(max(as_level(value, outputs), Fraction(40)), Fraction(150))) < MOST_OFF

    for place in np.ndindex(1, 4, 9, 9):
        first = exact(a.data[place], a.range)
        check(int(added.data[place]), first + exact(b.data[place], b.range))
        check(int(multiplied.data[place]), first * Fraction(float(factors[0, place[1], 0, 0])))


def test_factors_that_are_no_numbers() -> None:
    x = Image(np.full((1, 4, 1, 1), 200, np.uint8), Range(np.float32(1), 100))
    factors = np.float32([math.nan, math.inf, -math.inf, 0]).reshape(1, 4, 1, 1)
    assert multiply(x, factors, Range(np.float32(1), 30)).data.ravel().tolist() == [30, 255, 0, 30]


@pytest.mark.parametrize("made", [add, multiply])
def test_limits_of_add_and_multiply_are_levels(made: Callable[..., Image]) -> None:
    x = Image(np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16), Range(np.float32(1), 0))
    other = np.ones((1, 1, 1, 1), np.float32) if made is multiply else Image(np.zeros_like(x.data), x.range)
    assert made(x, other, ONE).data.ravel().tolist() == list(range(256))
    assert made(x, other, ONE, (20.0, 100.0)).data.ravel().tolist() == np.clip(np.arange(256), 20, 100).tolist()


@pytest.mark.parametrize("adds", [False, True])
def test_rounding_of_sums_is_right_on_average(adds: bool) -> None:
    """Its mean error is below a hundredth of a level, or one residual block after the other drifts away."""
    rng = np.random.default_rng(3)
    x, sums, residual = (Range(np.float32(scale), zero) for scale, zero in ((0.02, 3), (0.05, 120), (0.04, 100)))
    other = rng.integers(0, 256, 4000, dtype=np.uint8) if adds else None
    errors = []
    for _ in range(40):
        gain, shift = rng.uniform(0.002, 0.004), rng.uniform(-0.5, 0.5)
        row = row_constants(700, 1.0, (gain, shift), x, sums, residual if adds else None)
        products = rng.integers(-20000, 20000, 4000)
        y = epilogue(products, row, (0, 255), other)
        real = (float(x.scale) * gain * (products - 3 * 700) + shift) / float(sums.scale) + 120
        if other is not None:
            real += (other.astype(float) - 100) * float(residual.scale) / float(sums.scale)
        inside = (real > 5) & (real < 250)
        errors.append(y[inside] - real[inside])
    assert abs(np.concatenate(errors).mean()) < 0.01
