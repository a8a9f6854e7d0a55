"""RequestQueue: a bounded queue of items by rank, then the earliest deadline first, without threads or a clock."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, order=True)
class Ticket:
    """A place in the queue: ordered by rank, the lowest first, then by deadline, then by arrival."""

    rank: int
    deadline_s: float
    sequence: int


class RequestQueue(Generic[T]):
    """At most `capacity` items, in the order of their tickets.

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

    def push(self, deadline_s: float, item: T, rank: int = 0) -> Ticket | None:
        """Queue `item`; gives its ticket, or None when the queue is full."""
        if self.full:
            return None
        self._sequence += 1
        ticket = Ticket(rank, deadline_s, self._sequence)
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
        expired: list[T] = []
        place = 0
        while place < len(self._tickets):
            rank = self._tickets[place].rank
            count = bisect.bisect(self._tickets, now_s, lo=place, hi=self._end_of(rank), key=_deadline_s) - place
            expired += self._items[place : place + count]
            del self._tickets[place : place + count], self._items[place : place + count]
            place = self._end_of(rank)
        return expired

    def pop(self, now_s: float) -> T | None:
        """Take out the first item whose deadline is after `now_s`; None if there is none. Expired items stay."""
        place = next((place for place, ticket in enumerate(self._tickets) if ticket.deadline_s > now_s), None)
        if place is None:
            return None
        del self._tickets[place]
        return self._items.pop(place)

    def peek(self) -> T | None:
        """The first item, expired or not; None if there is none."""
        return self._items[0] if self._items else None

    def first(self) -> Ticket | None:
        """The ticket of the first item; None if nothing waits."""
        return self._tickets[0] if self._tickets else None

    def clear(self) -> list[T]:
        """Take out all items."""
        items, self._items, self._tickets = self._items, [], []
        return items

    def items(self) -> list[T]:
        """All items, in their order."""
        return list(self._items)

    def _end_of(self, rank: int) -> int:
        """The place behind the last item of `rank`, which is the last rank as a rule."""
        if not self._tickets or self._tickets[-1].rank <= rank:
            return len(self._tickets)
        return bisect.bisect(self._tickets, rank, key=_rank)


def _rank(ticket: Ticket) -> int:
    return ticket.rank


def _deadline_s(ticket: Ticket) -> float:
    return ticket.deadline_s
