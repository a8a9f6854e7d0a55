"""RequestQueue: earliest deadline first, bounded, pure."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, order=True)
class Ticket:
    """A place in the queue: by deadline, and by arrival among equals."""

    deadline_s: float
    sequence: int


class RequestQueue(Generic[T]):
    """At most `capacity` items, the earliest deadline first; no threads, no clock.

    A sorted list rather than a heap: at a few hundred items an insertion is one short memmove, the order is there to
    be walked without sorting, and a cancelled item leaves at once instead of lingering.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a queue needs room for at least 1 request, got {capacity}")
        self._capacity = capacity
        self._tickets: list[Ticket] = []
        self._items: list[T] = []
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def full(self) -> bool:
        """Whether push() would refuse."""
        return len(self._items) >= self._capacity

    def push(self, deadline_s: float, item: T) -> Ticket | None:
        """Queues `item`; its ticket, or None when the queue is full."""
        if self.full:
            return None
        self._sequence += 1
        ticket = Ticket(deadline_s, self._sequence)
        place = bisect.bisect(self._tickets, ticket)
        self._tickets.insert(place, ticket)
        self._items.insert(place, item)
        return ticket

    def cancel(self, ticket: Ticket) -> bool:
        """Takes the ticket's item out; False when it has already left."""
        place = bisect.bisect_left(self._tickets, ticket)
        if place == len(self._tickets) or self._tickets[place] != ticket:
            return False
        del self._tickets[place], self._items[place]
        return True

    def pop_expired(self, now_s: float) -> list[T]:
        """Takes out every item whose deadline is not after `now_s`."""
        count = bisect.bisect(self._tickets, now_s, key=lambda ticket: ticket.deadline_s)
        expired = self._items[:count]
        del self._tickets[:count], self._items[:count]
        return expired

    def pop(self, now_s: float) -> T | None:
        """Takes out the item with the earliest deadline after `now_s`; None if there is none. Leaves the expired."""
        place = bisect.bisect(self._tickets, now_s, key=lambda ticket: ticket.deadline_s)
        if place == len(self._items):
            return None
        del self._tickets[place]
        return self._items.pop(place)

    def peek(self) -> T | None:
        """The item with the earliest deadline, expired or not; None if there is none."""
        return self._items[0] if self._items else None

    def first_deadline_s(self) -> float | None:
        """The earliest deadline; None if nothing waits."""
        return self._tickets[0].deadline_s if self._tickets else None

    def clear(self) -> list[T]:
        """Takes out everything."""
        items, self._items, self._tickets = self._items, [], []
        return items

    def items(self) -> list[T]:
        """What waits, earliest deadline first."""
        return list(self._items)
