"""ScaledDotProductAttention: views of every kind, masks and sizes, compared with numpy in float64."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnxruntime
import pytest
from attention_graph import Array, attention_model, feeds, reference

from nested_sparse.kernels import library

pytestmark = pytest.mark.every_isa

PLAIN: dict[str, Any] = {name: [0, 1, 2] for name in ("q_axes", "k_axes", "v_axes", "y_axes")}
LAST: dict[str, Any] = {name: [0, 2, 1] for name in PLAIN}
PACKED: dict[str, Any] = {
    **{name: [0, 3, 1] for name in ("q_axes", "k_axes", "v_axes")},
    "y_axes": [0, 2, 1],
    "q_place": 0,
    "k_place": 1,
    "v_place": 2,
}


def answer(*arrays: Array | None, threads: int = 1, **attributes: Any) -> Array:
    """The operator's output."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    library.register(options)
    model = attention_model(*arrays, **attributes).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, feeds(*arrays))
    return y


def compare(*arrays: Array | None, threads: int = 1, **attributes: Any) -> None:
    """Run and compare. The scores here are a few units large, so an error in one counts as often."""
    got = answer(*arrays, threads=threads, **attributes)
    expected = reference(*arrays, **attributes)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=2e-5, rtol=2e-5)


def drawn(seed: int, *shapes: tuple[int, ...]) -> list[Array]:
    """Tensors of normal values."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("threads", [1, 2])
def test_sizes_around_strips_and_panels(causal: int, threads: int) -> None:
    """Queries that read the keys as they lie, whole strips and their rests; keys of less and more than a panel."""
    for queries, keys in itertools.product((1, 3, 4, 7, 8, 9, 33), (1, 2, 15, 16, 17, 31, 33, 70)):
        q, k, v = drawn(queries * keys, (2, 3, queries, 12), (2, 3, keys, 12), (2, 3, keys, 20))
        compare(q, k, v, threads=threads, scale=0.3, causal=causal, **PLAIN)


@pytest.mark.parametrize("queries", [2, 11])
def test_every_width(queries: int) -> None:
    """Widths of less than a vector, of whole vectors and of several; those of values may differ."""
    for width, of_values in itertools.product((1, 3, 8, 16, 24, 65), (1, 5, 16, 40, 64, 131)):
        q, k, v = drawn(width, (1, 2, queries, width), (1, 2, 19, width), (1, 2, 19, of_values))
        compare(q, k, v, scale=1 / np.sqrt(width), **PLAIN)


@pytest.mark.parametrize("queries", [1, 3, 40])
def test_one_packed_projection(queries: int) -> None:
    """(N, L, 3, H, E) is queries, keys and values; and so is any order of these axes."""
    (x,) = drawn(1, (2, queries, 3, 4, 16))
    compare(x, x, x, scale=0.25, **PACKED)
    for order in itertools.permutations(range(4)):
        turned = np.ascontiguousarray(x.transpose(*order, 4))
        axes = [order.index(axis) for axis in (0, 3, 1)]
        given = {**PACKED, "q_axes": axes, "k_axes": axes, "v_axes": axes}
        compare(turned, turned, turned, scale=0.25, **given)


@pytest.mark.parametrize("y_axes", list(itertools.permutations(range(3))))
def test_every_order_of_axes(y_axes: tuple[int, ...]) -> None:
    """Each tensor has its own."""
    axes = list(itertools.permutations(range(3)))
    for at, of_q in enumerate(axes):
        of_k, of_v = axes[(at + 1) % 6], axes[(at + 3) % 6]
        shapes = [
            (*(size[order.index(place)] for place in range(3)), 8)
            for order, size in ((of_q, (2, 4, 5)), (of_k, (2, 2, 9)), (of_v, (2, 2, 9)))
        ]
        q, k, v = drawn(at, *shapes)
        compare(q, k, v, scale=0.4, q_axes=of_q, k_axes=of_k, v_axes=of_v, y_axes=y_axes)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("threads", [1, 2])
def test_heads_may_share_keys(groups: int, threads: int) -> None:
    for queries in (1, 20):
        q, k, v = drawn(groups, (3, queries, 6, 16), (3, 40, groups, 16), (3, 40, groups, 16))
        compare(q, k, v, threads=threads, scale=0.25, causal=1, **LAST)


MASKS = [(), (1,), (21,), (13, 21), (13, 1), (4, 1, 1), (1, 13, 21), (2, 1, 1, 21), (2, 4, 13, 21), (1, 1, 1, 1)]


@pytest.mark.parametrize("shape", MASKS)
def test_masks_are_broadcast(shape: tuple[int, ...]) -> None:
    """A third of the entries close a key."""
    q, k, v, mask = drawn(3, (2, 4, 13, 8), (2, 4, 21, 8), (2, 4, 21, 8), shape)
    closed = np.where(mask > 0.4, np.float32(-np.inf), mask)
    for each in (mask, closed):
        for causal in (0, 1):
            compare(q, k, v, np.asarray(each, np.float32), scale=0.35, causal=causal, **PLAIN)
            compare(
                q[:, :, :1],
                k,
                v,
                np.asarray(each[..., :1, :] if each.ndim > 1 else each, np.float32),
                scale=1.0,
                **PLAIN,
            )


def test_a_query_without_keys_gets_zeros() -> None:
    """All closed, or none there; beside others that see some."""
    q, k, v = drawn(4, (1, 2, 5, 8), (1, 2, 33, 8), (1, 2, 33, 8))
    mask = np.zeros((5, 33), np.float32)
    mask[1], mask[3, :32] = -np.inf, -np.inf
    for queries in (slice(0, 5), slice(1, 2)):
        y = answer(q[:, :, queries], k, v, mask[queries], scale=1.0, **PLAIN)
        assert not y[:, :, 1 if y.shape[2] > 1 else 0].any()
    np.testing.assert_allclose(answer(q, k, v, mask, scale=1.0, **PLAIN)[:, :, 3], v[:, :, 32], atol=1e-6)
    assert not answer(q, k[:, :, :0], v[:, :, :0], scale=1.0, **PLAIN).any()
    assert answer(q[:, :, :0], k, v, scale=1.0, **PLAIN).shape == (1, 2, 0, 8)
    assert answer(q[:0], k[:0], v[:0], scale=1.0, **PLAIN).shape == (0, 2, 5, 8)


def test_scores_of_any_size() -> None:
    """Large ones take all weight, as differences count; and no row looks at its neighbour's."""
    q, k, v = drawn(5, (1, 1, 9, 16), (1, 1, 40, 16), (1, 1, 40, 16))
    for size in (1e-20, 1e3, 1e18):
        compare(size * q, k, v, scale=1.0, **PLAIN)
    compare(1e4 + 0 * q, 1e4 + 0 * k, v, scale=1.0, **PLAIN)


@pytest.mark.parametrize("queries", [2, 9])
def test_what_is_no_number_stays_in_its_row(queries: int) -> None:
    q, k, v = drawn(6, (1, 2, queries, 16), (1, 2, 40, 16), (1, 2, 40, 16))
    q[0, 1, 1, 3] = np.nan
    y = answer(q, k, v, scale=1.0, **PLAIN)
    assert np.isnan(y[0, 1, 1]).all()
    rest = np.delete(y.reshape(-1, 16), queries + 1, axis=0)
    assert np.isfinite(rest).all()
    mask = np.full((1, 40), -np.inf, np.float32)
    mask[0, 33] = np.nan
    assert np.isnan(answer(q, k, v, mask, scale=1.0, **PLAIN)).all()


def test_causal_rows_do_not_see_what_comes_later() -> None:
    """Their answers are bit for bit the same where later keys and values are others."""
    q, k, v = drawn(7, (1, 1, 30, 16), (1, 1, 30, 16), (1, 1, 30, 16))
    before = answer(q, k, v, scale=1.0, causal=1, **PLAIN)
    k[:, :, 20:], v[:, :, 20:] = 1e4, -1e4
    np.testing.assert_array_equal(answer(q, k, v, scale=1.0, causal=1, **PLAIN)[:, :, :20], before[:, :, :20])


ONE = np.ones((2, 4, 5, 8), np.float32)
KEYS = np.ones((2, 4, 6, 8), np.float32)
FIVE = np.ones((2, 4, 3, 5, 8), np.float32)
BAD: list[tuple[tuple[Array | None, ...], dict[str, Any], str]] = [
    ((ONE[0], KEYS, KEYS), {}, r"Q must be of rank 4 or 5, got \[4, 5, 8\]"),
    ((ONE[:1], KEYS, KEYS), {}, "batches must be equal, got 1 of Q and 2 of K"),
    ((ONE, KEYS, KEYS[:1]), {}, "batches must be equal, got 2 of Q and 1 of V"),
    ((ONE, KEYS, KEYS[:, :2]), {}, "heads must be equal, got 4 of K and 2 of V"),
    ((ONE, KEYS, KEYS[:, :, :5]), {}, "positions must be equal, got 6 of K and 5 of V"),
    ((ONE[..., :7], KEYS, KEYS), {}, "widths must be equal, got 7 of Q and 8 of K"),
    ((ONE, KEYS[:, :3], KEYS[:, :3]), {}, "heads of Q must be a multiple of those of K, got 4 and 3"),
    ((ONE, KEYS[:, :0], KEYS[:, :0]), {}, "heads of Q must be a multiple of those of K, got 4 and 0"),
    ((ONE, KEYS, KEYS, ONE), {}, r"mask must be broadcast to \[2, 4, 5, 6\], got \[2, 4, 5, 8\]"),
    ((ONE, KEYS, KEYS, FIVE), {}, r"mask must be broadcast to \[2, 4, 5, 6\], got \[2, 4, 3, 5, 8\]"),
    ((FIVE, KEYS, KEYS), {"q_axes": [0, 1, 3], "q_place": 3}, r"Q: place 3 is beyond axis 2 of \[2, 4, 3, 5, 8\]"),
    ((ONE, KEYS, KEYS), {"q_axes": [0, 1, 3]}, r"Q: axis 3 is beyond the outer ones of \[2, 4, 5, 8\]"),
    ((ONE, KEYS, KEYS), {"k_axes": [0, 1, 1]}, "'k_axes': expected three different axes from 0 to 3, got 0, 1, 1"),
    ((ONE, KEYS, KEYS), {"y_axes": [0, 1, 3]}, "'y_axes': expected three different axes from 0 to 2, got 0, 1, 3"),
    ((ONE, KEYS, KEYS), {"v_axes": [-1, 1, 2]}, "'v_axes': expected three different axes from 0 to 3, got -1, 1, 2"),
    ((ONE, KEYS, KEYS), {"v_place": -1}, "'v_place': expected 0 to "),
    ((ONE, KEYS, KEYS), {"causal": 2}, "'causal': expected 0 to 1, got 2"),
]


@pytest.mark.parametrize(("arrays", "attributes", "message"), BAD)
def test_what_does_not_fit_is_refused(
    arrays: tuple[Array | None, ...], attributes: dict[str, Any], message: str
) -> None:
    """Each error says what was expected."""
    with pytest.raises(Exception, match=message):
        answer(*arrays, **{"scale": 1.0, **PLAIN, **attributes})
