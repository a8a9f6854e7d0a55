"""Uncollected: the garbage collector is held while imports run, and works afterwards."""

from __future__ import annotations

import gc
import weakref

import pytest

from nested_sparse.serving.uncollected import uncollected


class Node:
    """May refer to itself, so that only the collector frees it."""

    me: Node


def cycle() -> weakref.ref[Node]:
    node = Node()
    node.me = node
    return weakref.ref(node)


def test_no_collection_runs_within_and_later_ones_leave_what_was_there() -> None:
    try:
        with uncollected():
            assert not gc.isenabled()
            before = cycle()
        assert gc.isenabled()
        after = cycle()
        gc.collect()
        assert before() is not None
        assert after() is None
    finally:
        gc.unfreeze()


def test_an_error_of_the_body_switches_it_on_again() -> None:
    try:
        with pytest.raises(ModuleNotFoundError), uncollected():
            raise ModuleNotFoundError("a library is missing")
        assert gc.isenabled()
    finally:
        gc.unfreeze()
