"""JsonTensor: values from JSON and back, against numpy and the standard parser."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nested_sparse.errors import InputError
from nested_sparse.serving.http.json_tensor import (
    PIECE_BYTES,
    cut_out_arrays,
    marked_array,
    raw_of_strings,
    raw_of_text,
    text_of_raw,
)
from nested_sparse.serving.protocol.datatype import DATATYPES

NUMBERS = [datatype for datatype in DATATYPES if datatype.dtype.kind in "iufb" and datatype.name != "BF16"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("data"), inner),
    max_leaves=20,
)


def drawn(datatype: Any, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Values of the whole range of a type."""
    drawn = np.random.default_rng(seed)
    if datatype.dtype.kind == "b":
        return drawn.random(shape) < 0.5
    if datatype.dtype.kind == "f":
        return drawn.standard_normal(shape).astype(datatype.dtype)
    limits = np.iinfo(datatype.dtype.name)
    return drawn.integers(limits.min, limits.max, shape, datatype.dtype.newbyteorder("="), endpoint=True)


@pytest.mark.parametrize("datatype", NUMBERS, ids=lambda datatype: datatype.name)
@pytest.mark.parametrize("shape", [(1,), (3, 2, 2), (5000,), (1, 2500, 2)])
def test_values_of_each_type_are_kept_bit_for_bit(datatype, shape):
    """Flat and nested, with and without spaces, in one piece and in many."""
    values = drawn(datatype, shape, len(shape))
    back = b"".join(text_of_raw(values.astype(datatype.dtype).tobytes(), "x", datatype.name))
    assert json.loads(back) == values.ravel().tolist()
    for text in (back, json.dumps(values.tolist()).encode(), json.dumps(values.tolist(), indent=1).encode()):
        np.testing.assert_array_equal(raw_of_text(text, "x", datatype.name, shape), values.ravel())


def test_bf16_is_rounded_to_the_nearest_with_ties_to_even():
    values = [1.0, -2.5, 1.00390625, 1.01171875, 3e38, 1e-40]  # the third and fourth lie between two
    raw = raw_of_text(json.dumps(values).encode(), "x", "BF16", [6])
    assert json.loads(b"".join(text_of_raw(raw.tobytes(), "x", "BF16"))) == pytest.approx(
        [1.0, -2.5, 1.0, 1.015625, 3e38, 1e-40], rel=0.004, abs=1e-38
    )
    assert raw.view("<u2")[:4].tolist() == [0x3F80, 0xC020, 0x3F80, 0x3F82]
    assert np.isnan(
        json.loads(b"".join(text_of_raw(raw_of_text(b"[NaN]", "x", "BF16", [1]).tobytes(), "x", "BF16")))[0]
    )


@pytest.mark.parametrize(
    "text",
    [b"[]", b"[1,]", b"[,1]", b"[1 2]", b"[[1,2]]", b"[1],[2]", b"[1,[2]]", b"[1,2]]", b"[0x1,2]", b"[1,-]", b"[1,+2]",
     b"[1,null]", b"[1,{}]", b"[1,01]", b"[1,1.5]", b"[1,1e2]", b"[1,true]", b"[1,300]", b"[1,-1]"],
)  # fmt: skip
def test_text_that_is_no_such_array_is_refused(text):
    with pytest.raises(InputError):
        raw_of_text(text, "x", "UINT8", [2])


def test_the_edge_of_a_piece_changes_nothing():
    """Numbers of each length, so that pieces end at each place of one."""
    for width in range(1, 12):
        values = [int("7" * width)] * (2 * PIECE_BYTES // width)
        np.testing.assert_array_equal(raw_of_text(json.dumps(values).encode(), "x", "INT64", [len(values)]), values)
        for spoiled in (values[:-1], [*values, 1]):
            with pytest.raises(InputError):
                raw_of_text(json.dumps(spoiled).encode(), "x", "INT64", [len(values)])


@given(JSON, st.sampled_from([None, 1]))
@example({"data": [[], ""]}, None)
@example({"data": [[1], {"data": [2]}, [3]]}, None)
@example({"data": [[1], 2, 'a\\"b', [3]], 'a"b': [1]}, None)
@example({"data": [1], 'a\\"b': {"data": [[2], {}]}}, 1)
def test_cutting_arrays_out_keeps_the_rest(value, indent):
    """With the arrays put back, any JSON is what it was."""
    text = json.dumps(value, indent=indent).encode()
    rest, arrays = cut_out_arrays(text)

    def restored(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: restored(each) for key, each in value.items()}
        if isinstance(value, list):
            return [restored(each) for each in value]
        array = marked_array(value, arrays)
        return value if array is None else json.loads(array)

    assert json.dumps(restored(json.loads(rest))) == json.dumps(value)
    assert not any(arrays)


def test_an_escaped_quote_hides_no_array():
    text = rb'{"a\"data": [1], "b": "\"data\": [2]", "data": [3]}'
    rest, arrays = cut_out_arrays(text)
    assert arrays == [b"[3]"]
    assert json.loads(rest)['a"data'] == [1]


def test_strings_are_utf8_with_their_lengths():
    raw = raw_of_strings(["é", ["", "abc"]], "x")
    assert raw == b"\x02\0\0\0\xc3\xa9" + b"\0\0\0\0" + b"\x03\0\0\0abc"
    assert json.loads(b"".join(text_of_raw(raw, "x", "BYTES"))) == ["é", "", "abc"]
    with pytest.raises(InputError, match="binary"):
        list(text_of_raw(b"\x01\0\0\0\xff", "x", "BYTES"))
    with pytest.raises(InputError, match="strings"):
        raw_of_strings(["a", 1], "x")
