"""Arguments: values of any type are converted to the right type, or refused with the argument's name."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest

from nested_sparse.argument import file_path, finite, real, shown, whole
from nested_sparse.errors import InputError, LevelError


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("never")


ODD = [None, "1", b"1", 1.5, True, np.True_, math.nan, [1], {}, np.array([1]), 1j, object(), Unprintable(), "\ud800\n"]


@pytest.mark.parametrize("value", ODD, ids=lambda value: type(value).__name__)
def test_values_that_are_no_numbers_are_refused(value: object) -> None:
    """The message names the argument and what it got, in one printable line."""
    with pytest.raises(InputError, match=r"^size: expected a whole number of at least 1, got .") as caught:
        whole("size", value, 1)
    assert str(caught.value).isprintable()
    if not isinstance(value, float | np.bool_ | np.ndarray):
        with pytest.raises(InputError, match=r"^size: expected a number above 0, got ."):
            real("size", value, above=0.0)


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), np.array(3)], ids=repr)
def test_whole_numbers_of_numpy_are_whole(value: int) -> None:
    """The result is a Python int, which every library takes."""
    assert type(whole("size", value, 1, 3)) is int
    with pytest.raises(LevelError, match="at most 2"):
        whole("size", value, 1, 2, LevelError)


def test_numbers_keep_to_their_bounds() -> None:
    """Bounds hold, NaN is no number, and a number beyond any float is infinite."""
    assert real("x", 10**400) == math.inf
    assert real("x", np.float32(0.5), 0.5) == 0.5
    for value, least, above in ((math.nan, -math.inf, -math.inf), (0.4, 0.5, -math.inf), (0, -math.inf, 0.0)):
        with pytest.raises(InputError, match=r"^x: expected a number"):
            real("x", value, least, above=above)
    with pytest.raises(InputError, match=r"^x: expected a finite number, got inf"):
        finite("x", math.inf)


def test_only_text_bytes_and_paths_are_paths() -> None:
    """Text, bytes and path objects are paths; other values are refused."""
    for value in ("a", b"a", Path("a"), os.scandir):
        if value is os.scandir:
            with pytest.raises(InputError, match="expected the path of a file, got <built-in"):
                file_path("path", value)
        else:
            assert file_path("path", value) == Path("a")


def test_values_without_a_text_are_shown_by_their_type() -> None:
    """A number of too many digits, and a __repr__ that raises."""
    assert shown(Unprintable()) == "a Unprintable"
    assert shown(10**5000) in ("a int", shown(10**5000))
    assert len(shown("x" * 10**6)) < 300
