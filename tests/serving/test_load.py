from __future__ import annotations

from pathlib import Path

import pytest

from nested_sparse.runtime.device import Device
from nested_sparse.runtime.kept_profile import Profiled
from nested_sparse.runtime.profile import LatencyProfile
from nested_sparse.runtime.session import Session
from nested_sparse.serving import load
from nested_sparse.serving.load import ModelConfig, load_model

EXAMPLE = Path(__file__).parents[2] / "docs/examples/fashion-mnist.safetensors"


@pytest.mark.parametrize("fixed_level", [None, 1])
@pytest.mark.parametrize("ratio", [1.0, 2.0, 3.0])
def test_a_busy_start_is_known_to_the_first_request(
    monkeypatch: pytest.MonkeyPatch, ratio: float, fixed_level: int | None
) -> None:
    """The slowdown that the profile's check saw is the one that the server begins with."""
    profile = LatencyProfile([1], [[1e3], [2e3], [3e3], [4e3]])
    monkeypatch.setattr(load, "profile_of", lambda *_, **__: Profiled(profile, ratio))
    with Session(EXAMPLE, threads=1) as session:
        model = load_model(session, ModelConfig(100.0, fixed_level), Device())
        try:
            assert model.engine.stats().slowdown == pytest.approx(ratio, rel=0.02)
        finally:
            model.engine.close(0.0)
