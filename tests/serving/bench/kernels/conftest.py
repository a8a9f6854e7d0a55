"""Tiny models: networks for tests of the benchmark's method; their figures mean nothing."""

from __future__ import annotations

import pytest

from nested_sparse.serving.bench.kernels.model_cache import ModelCache, Network
from nested_sparse.trainer.models import DigitNet

NETWORK = Network(lambda: DigitNet(width=16, channels=3), "stem", (1, 3, 24, 24))
LINEAR_SIZE = 96


@pytest.fixture(scope="session")
def workshop(tmp_path_factory):
    return ModelCache(tmp_path_factory.mktemp("workshop"), network=NETWORK, linear_size=LINEAR_SIZE)
