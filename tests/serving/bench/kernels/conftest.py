"""Tiny models: networks for tests of the benchmark's method; their figures mean nothing."""

from __future__ import annotations

import pytest

from nested_sparse.serving.bench.kernels.model_cache import MOBILENETV2, RESNET50, ConvNetwork, ModelCache
from nested_sparse.trainer.zoo import DigitNet

NETWORK = ConvNetwork(lambda: DigitNet(width=16, channels=3), (1, 3, 24, 24))
LINEAR_SIZE = 96


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return ModelCache(
        tmp_path_factory.mktemp("cache"), networks={RESNET50: NETWORK, MOBILENETV2: NETWORK}, linear_size=LINEAR_SIZE
    )
