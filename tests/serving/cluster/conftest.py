"""Ingress: fixtures of tests/cluster_ingress.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cluster_ingress import Replicas, serving

from nested_sparse.serving.cluster.ingress import Ingress


@pytest.fixture
def replicas() -> Replicas:
    """Replicas that answer every call."""
    return Replicas()


@pytest.fixture
def ingress(replicas: Replicas) -> Iterator[tuple[str, Ingress, Callable[[Any], Any]]]:
    """See serving()."""
    with serving(replicas) as it:
        yield it
