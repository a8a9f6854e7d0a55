"""Tensors: the check of a model's inputs, and random inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nested_sparse.errors import InputError
from nested_sparse.free_size import FreeSize
from nested_sparse.runtime.session.tensors import (
    batch_size,
    check_inputs,
    drawn_from,
    fixed_batch,
    random_inputs,
    unequal_batches,
    value_pool,
)
from nested_sparse.tensor_spec import TensorSpec

IMAGE = TensorSpec("image", "float32", (None, 3, None), (2, 3, 8))
IDS = TensorSpec("ids", "int64", (4,), (4,))
SCALAR = TensorSpec("scale", "float64", (), ())


def good() -> dict[str, np.ndarray]:
    return {"ids": np.arange(4), "image": np.ones((5, 3, 7), np.float32)}


def test_good_inputs_pass_in_the_order_of_the_model() -> None:
    """Same arrays, not copied, ordered as the model names them."""
    inputs = good()
    checked = check_inputs((IMAGE, IDS), inputs)
    assert list(checked) == ["image", "ids"]
    assert all(checked[name] is inputs[name] for name in checked)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("image", np.ones((5, 3, 7), np.float64), "expected float32, got float64"),
        ("image", np.ones((5, 3, 7), ">f4"), "expected float32"),
        ("image", np.ones((5, 4, 7), np.float32), r"expected shape \[any >= 1, 3, any >= 1\], got \[5, 4, 7\]"),
        ("image", np.ones((5, 3), np.float32), "expected shape"),
        ("image", np.ones((0, 3, 7), np.float32), "expected shape"),
        ("image", np.ones((1, 3, 0), np.float32), "expected shape"),
        ("image", [[1.0]], "expected a numpy array, got list"),
        ("other", np.ones(1), r"missing \[\], unknown \['other'\]"),
    ],
)
def test_wrong_input_is_named(name: str, value: object, words: str) -> None:
    """Which input, what was expected, what came."""
    with pytest.raises(InputError, match=words):
        check_inputs((IMAGE, IDS), {**good(), name: value})  # type: ignore[dict-item]


def test_other_numbers_of_samples_are_said() -> None:
    """Both inputs are named, with their numbers; alone, such inputs are allowed."""
    other = TensorSpec("state", "float32", (None, 2), (2, 2))
    inputs = {"image": good()["image"], "state": np.ones((5, 2), np.float32)}
    assert unequal_batches((IMAGE, other), inputs) == ""
    inputs["state"] = np.ones((1, 2), np.float32)
    assert list(check_inputs((IMAGE, other), inputs)) == ["image", "state"]
    assert "'state': its dimension 0, the batch, is 1, but that of input 'image' is 5" in unequal_batches(
        (IMAGE, other), inputs
    )


BATCH, LENGTH, PAST = FreeSize("batch", batch=True), FreeSize("length", 2, 12, 2), FreeSize("past", most=64)
SIZED = (
    TensorSpec("ids", "int64", (None, None), (1, 4), (BATCH, LENGTH)),
    TensorSpec("cache", "float32", (None, 3, None), (1, 3, 5), (BATCH, None, PAST)),
    TensorSpec("mask", "int64", (None,), (4,), (LENGTH,)),
    TensorSpec("seen", "int64", (None, None), (1, 10), (BATCH, FreeSize("seen", terms=("past", "length"), plus=1))),
)


def sized(
    ids: tuple[int, int] = (2, 6),
    cache: tuple[int, int, int] = (2, 3, 7),
    mask: int = 6,
    seen: tuple[int, int] = (2, 14),
) -> dict[str, np.ndarray]:
    """Inputs of these shapes."""
    return {
        "ids": np.zeros(ids, np.int64),
        "cache": np.zeros(cache, np.float32),
        "mask": np.zeros(mask, np.int64),
        "seen": np.zeros(seen, np.int64),
    }


def test_free_sizes_are_read_from_the_inputs() -> None:
    """In the order in which they occur, without the batch."""
    checked = check_inputs(SIZED, sized())
    assert (checked.sizes, batch_size(SIZED, checked)) == ((6, 7), 2)
    assert check_inputs((IMAGE, IDS), good()).sizes == ()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"ids": (2, 7), "mask": 7}, "'ids': dimension 1, 'length', may be 2 to 12, a multiple of 2, got 7"),
        ({"ids": (2, 14), "mask": 14}, "'length', may be 2 to 12.* got 14"),
        ({"cache": (2, 3, 65)}, "'cache': dimension 2, 'past', may be 1 to 64, got 65"),
        ({"mask": 8}, "'mask': its dimension 0, 'length', is 8, but that of input 'ids' is 6; they must be equal"),
        ({"cache": (3, 3, 7)}, "'cache': its dimension 0, 'batch', is 3, but that of input 'ids' is 2"),
        ({"cache": (2, 4, 7)}, r"expected shape \[batch: 1 or more, 3, past: 1 to 64\], got \[2, 4, 7\]"),
        ({"seen": (2, 13)}, r"'seen': 'seen' must be past \+ length \+ 1, here 14, got 13"),
        ({"ids": (2, 0), "mask": 6}, "expected shape"),
    ],
)
def test_a_wrong_size_is_named_with_its_range(changed: dict[str, Any], words: str) -> None:
    """The dimension, its name, what it may be, and what came."""
    with pytest.raises(InputError, match=words):
        check_inputs(SIZED, sized(**changed))


def test_random_inputs_have_the_sizes_asked_for() -> None:
    """Those that are not named are those of the example."""
    drawn = random_inputs(SIZED, 3, sizes={"past": 9})
    assert [array.shape for array in drawn.values()] == [(3, 4), (3, 3, 9), (4,), (3, 14)]


def test_missing_input_is_named() -> None:
    """The missing name and the model's names."""
    with pytest.raises(InputError, match=r"missing \['ids'\].*takes \['image', 'ids'\]"):
        check_inputs((IMAGE, IDS), {"image": good()["image"]})


def test_strided_input_is_made_contiguous() -> None:
    """A strided input becomes contiguous with the same values."""
    strided = np.arange(60, dtype=np.float32).reshape(10, 3, 2)[::2]
    checked = check_inputs((IMAGE,), {"image": strided})["image"]
    assert checked.flags.c_contiguous
    np.testing.assert_array_equal(checked, strided)


def test_scalar_stays_a_scalar() -> None:
    """Rank 0 stays rank 0."""
    assert check_inputs((SCALAR,), {"scale": np.array(2.0)})["scale"].shape == ()


def test_batch_is_the_free_first_size() -> None:
    """Free where the model leaves it free, else the model's own."""
    assert batch_size((IDS, IMAGE), good()) == 5
    assert batch_size((IDS,), good()) == 4
    assert (fixed_batch((IMAGE,)), fixed_batch((IDS,)), fixed_batch((SCALAR,))) == (None, 4, 1)


def test_random_inputs_fit_the_model() -> None:
    """They pass the check, with the batch asked for, and are not all zero."""
    drawn = random_inputs((IMAGE, IDS, SCALAR), batch=6)
    assert check_inputs((IMAGE, IDS, SCALAR), drawn)["image"].shape == (6, 3, 8)
    assert drawn["image"].std() > 0.5
    np.testing.assert_array_equal(drawn["ids"], np.zeros(4))


def test_values_are_drawn_from_an_example() -> None:
    """Whole numbers stay among the example's own; floating point that varies, too."""
    generator = np.random.default_rng(0)
    for example in (np.array([[3, 9]], np.int64), np.array([0.5, 2.0], np.float32)):
        drawn = drawn_from(value_pool(example), (5, 4), generator)
        assert (drawn.shape, drawn.dtype) == ((5, 4), example.dtype)
        assert set(drawn.ravel()) <= set(example.ravel())


@pytest.mark.parametrize("example", [[1.0, 1.0], [0.0, np.inf], [np.nan, 1.0]])
def test_without_values_to_draw_from_there_is_noise(example: list[float]) -> None:
    """A constant says nothing of the range, and what is not finite would hide every error behind it."""
    pool = value_pool(np.array(example, np.float32))
    assert pool is None
    drawn = drawn_from(pool, (100,), np.random.default_rng(0))
    assert np.isfinite(drawn).all()
    assert drawn.std() > 0.5
