"""Arena: the memory limit of all runs of a process, by the memory of the machine."""

from __future__ import annotations

import os

import pytest

from nested_sparse.runtime.session import arena

WHOLE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        ({}, None),
        ({"available_memory_bytes": 0.8 * WHOLE}, 0.72 * WHOLE),
        ({"available_memory_bytes": 0.01 * WHOLE}, 0.25 * WHOLE),
        ({"available_memory_bytes": 0.1 * WHOLE, "memory_limit_bytes": 0.2 * WHOLE}, 0.09 * WHOLE),
        ({"available_memory_bytes": 1.0, "memory_limit_bytes": 0.2 * WHOLE}, 0.05 * WHOLE),
        ({"available_memory_bytes": 0.5 * WHOLE, "memory_limit_bytes": 2.0 * WHOLE}, 0.45 * WHOLE),
    ],
)
def test_the_limit_follows_the_available_memory(
    monkeypatch: pytest.MonkeyPatch, readings: dict[str, float], expected: float | None
) -> None:
    """Nine tenths of the available memory, at least a quarter of all memory; no limit if both are unknown."""
    monkeypatch.setattr(arena, "memory", lambda: readings)
    found = arena.most_bytes()
    assert (found is None) == (expected is None)
    assert expected is None or found == pytest.approx(expected, rel=1e-6)
