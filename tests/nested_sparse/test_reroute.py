"""Reroute of hits: the layers at which a run may fall, chosen by the drop of accuracy that was seen there."""

from __future__ import annotations

import numpy as np
import pytest

from nested_sparse.errors import InputError
from nested_sparse.reroute import Reroute, checked_drop

SAMPLES = 1000


def hits(right: int, swapped: int = 0) -> np.ndarray:
    """Whether each sample is right: the first `right`, of which `swapped` are wrong in place of as many others."""
    answers = np.arange(SAMPLES) < right
    answers[:swapped] = False
    answers[right : right + swapped] = True
    return answers


def test_without_a_bound_every_layer_is_kept() -> None:
    """Accuracies are the shares of right answers, in the given order."""
    reroute = Reroute.of_hits(2, 0, {"first": hits(900), "b": hits(400), "a": hits(950)}, None)
    assert reroute == Reroute(2, 0, {"first": 0.9, "b": 0.4, "a": 0.95})
    assert list(reroute.accuracy) == ["first", "b", "a"]


@pytest.mark.parametrize(
    ("right", "swapped", "kept"),
    [
        (900, 0, True),  # 0 + 2 * sqrt(1) / 1000 = 0.002
        (895, 0, True),  # 0.005 + 2 * sqrt(6) / 1000 = 0.0099
        (894, 0, False),  # 0.006 + 2 * sqrt(7) / 1000 = 0.0113
        (900, 12, True),  # 2 * sqrt(25) / 1000 = 0.01
        (900, 13, False),  # 2 * sqrt(27) / 1000 = 0.0104
        (990, 0, True),
    ],
)
def test_a_layer_is_kept_where_drop_and_two_errors_are_within_the_bound(right: int, swapped: int, kept: bool) -> None:
    """The error is that of paired answers: samples that both answer alike add nothing to it."""
    reroute = Reroute.of_hits(1, 0, {"first": hits(900), "cut": hits(right, swapped)}, 0.01)
    assert ("cut" in reroute.accuracy) is kept


def test_the_first_layer_stays_where_no_other_does() -> None:
    """The file then says that it was measured, and that a run may fall nowhere else."""
    assert Reroute.of_hits(1, 0, {"first": hits(900), "cut": hits(500)}, 0.01) == Reroute(1, 0, {"first": 0.9})


def test_few_samples_prove_nothing() -> None:
    """Ten samples without any difference do not show that a drop is below a point."""
    same = np.ones(10, bool)
    assert list(Reroute.of_hits(1, 0, {"first": same, "cut": same}, 0.01).accuracy) == ["first"]


def test_a_bound_is_a_share() -> None:
    """One point is 0.01; a whole number of points is refused, not taken for a bound that lets everything pass."""
    assert (checked_drop(None, InputError), checked_drop(0, InputError), checked_drop(0.02, InputError)) == (
        None,
        0,
        0.02,
    )
    for wrong in (1, 2.0, -0.01, float("nan"), "0.01", True):
        with pytest.raises(InputError, match="max_drop: expected"):
            checked_drop(wrong, InputError)  # type: ignore[arg-type]
