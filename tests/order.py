"""Order: the files of the tests that go first, so that no core waits for one of them at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, TypeVar

TESTS = Path(__file__).parent
LONG = (
    "test_pages.py",
    "trainer/zoo/test_families.py",
    "serving/bench/networks/test_networks.py",
    "kernels/test_instruction_sets.py",
    "trainer/test_distributed.py",
    "serving/bench/serving/test_bench_serving.py",
    "serving/test_soak_rotation.py",
    "serving/bench/loadgen/test_loadgen.py",
    "trainer/recipes/test_recipe.py",
    "trainer/tasks/test_tasks.py",
    "test_int8_accuracy.py",
    "test_conflicts.py",
    "test_study.py",
    "serving/http/test_rest_fuzz.py",
    "serving/test_fuzz.py",
    "runtime/test_out_of_memory.py",
    "trainer/test_demo.py",
)
"""Files that take ten seconds or more, and files of few tests that take several seconds each."""


class Item(Protocol):
    """The part of a pytest.Item that the order goes by."""

    path: Path


ItemT = TypeVar("ItemT", bound=Item)


def longest_first(items: Iterable[ItemT]) -> list[ItemT]:
    """`items` with those of LONG first, then those of files of many tests; the order within a file stays."""
    items = list(items)
    counts = Counter(item.path for item in items)
    places = {TESTS / name: place for place, name in enumerate(LONG)}
    return sorted(items, key=lambda item: (places.get(item.path, len(places)), -counts[item.path], str(item.path)))
