"""Reach: the verdict on a measurement against its bound."""

from __future__ import annotations

import pytest

from nested_sparse.serving.bench.reach import Reach, met


@pytest.mark.parametrize(
    ("sign", "measured", "met"),
    [(">=", 4.5, True), (">=", 4.49, False), (">", 4.5, False), (">", 4.51, True), ("<=", 4.5, True), ("<=", 5, False)],
)
def test_reach(sign, measured, met):
    assert Reach(sign, 4.5).met(measured) is met


def test_without_a_bound_or_a_measurement_there_is_no_verdict():
    assert met(None, 5.0) is None
    assert met(Reach(">=", 4.5), None) is None
    assert met(Reach(">=", 4.5), 5.0) is True
