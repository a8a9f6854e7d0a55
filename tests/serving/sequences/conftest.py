"""Fixtures: the adder, a server of it, and tritonclient. Without tritonclient the tests that take them are skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nested_sparse.level import Level
from nested_sparse.serving.sequences.store import SequenceLimits
from nested_sparse.serving.served_model import ServedModel
from nested_sparse.serving.server import ServerConfig


@pytest.fixture
def adder() -> ServedModel:
    """A model that keeps its sum."""
    from adder import SUM, SUM_OUT, Adder, X, Y

    levels, state = (Level(0, 1.0, 1, 1, {}),), {"sum_out": "sum"}
    return ServedModel("adder", (X, SUM), (Y, SUM_OUT), levels, Adder(), 60_000.0, 1, "scalar", state=state)


@pytest.fixture
def server(adder: ServedModel, serve: Callable[..., Any]) -> Iterator[Any]:
    """A server of it that keeps 8 sequences of one sample, or fewer of more."""
    config = ServerConfig(port=0, http_port=0, grace_s=5, sequences=SequenceLimits(8, 64, 600.0))
    with serve([adder], config) as it:
        yield it
