"""Tensors: the check of a model's inputs, and random inputs."""

from __future__ import annotations

import numpy as np
import pytest

from nested_sparse.errors import InputError
from nested_sparse.runtime.session.tensors import batch_size, check_inputs, fixed_batch, random_inputs
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
