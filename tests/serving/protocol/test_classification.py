"""Classification: against a plain loop, and as tritonclient asks for it."""

from __future__ import annotations

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest
from clients import X, failure, tensor, triton
from hypothesis import given

from nested_sparse.serving.protocol.classification import classified, raw_texts

SHAPES = arrays.array_shapes(min_dims=2, max_dims=3, max_side=5)
DTYPES = st.sampled_from(["float32", "float16", "int8", "uint8", "int64", "uint64", "bool"])


def plainly(values, count):
    """One row, sorted by a loop: (value, index) pairs, NaN below everything."""
    flat = values.ravel().tolist()
    key = [-np.inf if value != value else value for value in flat]
    return [(flat[at], at) for at in sorted(range(len(flat)), key=lambda at: (-key[at], at))][:count]


def written(pair):
    value, index = pair
    return (f"{value:.6f}:{index}" if isinstance(value, float) else f"{int(value)}:{index}").encode()


@given(st.data(), DTYPES, SHAPES, st.integers(1, 30), st.booleans())
def test_as_a_loop_finds_them(data, dtype, shape, count, batched):
    values = data.draw(arrays.arrays(dtype, shape))
    got = classified(values, count, batched)
    rows = values if batched else values[None]
    expected = [[written(pair) for pair in plainly(row, count)] for row in rows]
    assert (got.tolist() if batched else [got.tolist()]) == expected


def test_values_that_are_no_numbers():
    """NaN is no maximum; infinities are."""
    values = np.float32([[np.nan, 1, np.inf, -np.inf]])
    assert classified(values, 3, True).tolist() == [[b"inf:2", b"1.000000:1", b"nan:0"]]


def test_texts_are_counted():
    """The protocol's form: four bytes of length before each text."""
    assert raw_texts(np.array([[b"a:1", b""]], object)) == b"\x03\0\0\0a:1\0\0\0\0"


def test_tritonclient_gets_classes(client):
    """Each row apart, other outputs as they are, and no more classes than values."""
    outputs = [triton.InferRequestedOutput("double", class_count=2), triton.InferRequestedOutput("sum")]
    result = client.infer("net", [tensor()], outputs=outputs)
    assert result.get_output("double").datatype == "BYTES"
    assert result.as_numpy("double").tolist() == [[b"6.000000:3", b"4.000000:2"], [b"14.000000:3", b"12.000000:2"]]
    np.testing.assert_array_equal(result.as_numpy("sum"), X.sum(axis=1, keepdims=True))
    (classes,) = [client.infer("net", [tensor()], outputs=[triton.InferRequestedOutput("double", class_count=99)])]
    assert classes.as_numpy("double").shape == (2, 4)


@pytest.mark.parametrize("count", [-1, -(2**62)])
def test_a_number_of_classes_below_one_is_refused(client, count):
    status, message = failure(client, outputs=[triton.InferRequestedOutput("double", class_count=count)])
    assert status == "INVALID_ARGUMENT"
    assert "classification: expected a whole number of at least 1" in message
