"""VirtualClock: time, and the order of events."""

from __future__ import annotations

from nested_sparse.runtime.simulation import VirtualClock


def test_events_come_in_order_at_their_own_time() -> None:
    """By time, and of one time as given; an event may add another that is due on the same way."""
    clock = VirtualClock(5.0)
    seen: list[tuple[str, float]] = []

    def note(name: str) -> None:
        seen.append((name, clock()))

    clock.at(7.0, lambda: note("c"))
    clock.at(6.0, lambda: (note("a"), clock.at(6.5, lambda: note("b"))))
    clock.at(7.0, lambda: note("d"))
    clock.at(9.0, lambda: note("later"))
    clock.advance_to(clock() + 3.0)
    assert seen == [("a", 6.0), ("b", 6.5), ("c", 7.0), ("d", 7.0)]
    assert clock() == 8.0


def test_time_never_goes_back() -> None:
    """An event that is overdue, and a time that is over."""
    clock = VirtualClock(5.0)
    seen: list[float] = []
    clock.at(1.0, lambda: seen.append(clock()))
    clock.advance_to(2.0)
    assert (seen, clock()) == ([5.0], 5.0)


def test_next_event() -> None:
    """It stops there, and says when there is none."""
    clock = VirtualClock(0.0)
    clock.at(3.0, lambda: None)
    clock.at(4.0, lambda: None)
    assert clock.advance_to_next_event()
    assert clock() == 3.0
    assert clock.advance_to_next_event()
    assert not clock.advance_to_next_event()
    assert clock() == 4.0
