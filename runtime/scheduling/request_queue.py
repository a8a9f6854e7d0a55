"""RequestQueue: a bounded queue of items, earliest deadline first, without threads or a clock."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, order=True)
class Ticket:
    """A place in the queue: ordered by deadline, and by arrival among equal deadlines."""

    deadline_s: float
    sequence: int


class RequestQueue(Generic[T]):
    """At most `capacity` items, the earliest deadline first.

    It is a sorted list and not a heap. At a few hundred items an insertion is one short memmove, the items can be read
    in order without sorting, and a cancelled item leaves at once.
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
        """Queue `item`; gives its ticket, or None when the queue is full."""
        if self.full:
            return None
        self._sequence += 1
        ticket = Ticket(deadline_s, self._sequence)
        place = bisect.bisect(self._tickets, ticket)
        self._tickets.insert(place, ticket)
        self._items.insert(place, item)
        return ticket

    def cancel(self, ticket: Ticket) -> bool:
        """Take the ticket's item out; False when it has left already."""
        place = bisect.bisect_left(self._tickets, ticket)
        if place == len(self._tickets) or self._tickets[place] != ticket:
            return False
        del self._tickets[place], self._items[place]
        return True

    def pop_expired(self, now_s: float) -> list[T]:
        """Take out every item whose deadline is not after `now_s`."""
        count = bisect.bisect(self._tickets, now_s, key=lambda ticket: ticket.deadline_s)
        expired = self._items[:count]
        del self._tickets[:count], self._items[:count]
        return expired

    def pop(self, now_s: float) -> T | None:
        """Take out the item with the earliest deadline after `now_s`; None if there is none. Expired items stay."""
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
        """Take out all items."""
        items, self._items, self._tickets = self._items, [], []
        return items

    def items(self) -> list[T]:
        """All items, earliest deadline first."""
        return list(self._items)
