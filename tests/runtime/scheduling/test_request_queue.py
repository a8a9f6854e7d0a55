"""RequestQueue: the order of requests, cancellation and the limit."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from nested_sparse.runtime.scheduling.request_queue import RequestQueue


@given(st.lists(st.floats(0, 100), max_size=50), st.floats(0, 100))
def test_pops_by_deadline_then_by_arrival(deadlines: list[float], now_s: float) -> None:
    """Everything after now, in the order that a stable sort gives; the rest is expired."""
    queue: RequestQueue[int] = RequestQueue(50)
    for item, deadline_s in enumerate(deadlines):
        queue.push(deadline_s, item)
    ordered = sorted(range(len(deadlines)), key=lambda item: deadlines[item])
    assert queue.items() == ordered
    popped = []
    while (item := queue.pop(now_s)) is not None:
        popped.append(item)
    assert popped == [item for item in ordered if deadlines[item] > now_s]
    assert queue.pop_expired(now_s) == [item for item in ordered if deadlines[item] <= now_s]
    assert len(queue) == 0


@given(st.lists(st.tuples(st.integers(-4, 5), st.floats(0, 10)), max_size=40), st.floats(0, 10))
def test_pops_by_rank_then_by_deadline(waiting: list[tuple[int, float]], now_s: float) -> None:
    """A lower rank goes first, whatever the deadlines are; what has expired is found in every rank."""
    queue: RequestQueue[int] = RequestQueue(40)
    for item, (rank, deadline_s) in enumerate(waiting):
        queue.push(deadline_s, item, rank)
    ordered = sorted(range(len(waiting)), key=lambda item: waiting[item])
    assert queue.items() == ordered
    first = queue.first()
    assert (None if first is None else (first.rank, first.deadline_s)) == (waiting[ordered[0]] if ordered else None)
    alive = [item for item in ordered if waiting[item][1] > now_s]
    assert queue.pop(now_s) == (alive[0] if alive else None)
    assert queue.pop_expired(now_s) == [item for item in ordered if waiting[item][1] <= now_s]
    assert queue.items() == alive[1:]


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30), st.data())
def test_cancelled_items_leave_at_once(deadlines: list[float], data: st.DataObject) -> None:
    """A cancelled item is gone, frees its place, and cannot be cancelled twice."""
    queue: RequestQueue[int] = RequestQueue(len(deadlines))
    tickets = [queue.push(deadline_s, item) for item, deadline_s in enumerate(deadlines)]
    gone = data.draw(st.sets(st.sampled_from(range(len(deadlines))), min_size=1))
    assert queue.full
    for item in gone:
        ticket = tickets[item]
        assert ticket is not None
        assert queue.cancel(ticket)
        assert not queue.cancel(ticket)
    assert not queue.full
    assert set(queue.items()) == set(range(len(deadlines))) - gone


def test_refuses_when_full() -> None:
    """push() gives None and changes nothing once the capacity is reached."""
    queue: RequestQueue[str] = RequestQueue(2)
    assert queue.push(1.0, "a") is not None
    assert queue.push(2.0, "b") is not None
    assert queue.push(0.5, "c") is None
    assert queue.items() == ["a", "b"]
    assert queue.clear() == ["a", "b"]
    assert queue.push(3.0, "d") is not None


def test_a_queue_without_capacity_is_refused() -> None:
    """A capacity of 0 could never take anything."""
    with pytest.raises(ValueError, match="room"):
        RequestQueue(0)
