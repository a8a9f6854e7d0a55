"""Device: the cores that several models share. It says whose turn is next."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator, Sequence
from typing import Protocol

from ..policy import Waiting


class Tenant(Protocol):
    """One model on a device: what the device needs to know of its queue. Called with the device's lock held."""

    @property
    def priority(self) -> int:
        """Higher goes first."""

    def next_due(self) -> tuple[int, float] | None:
        """Rank and deadline of the request that is next, in seconds of the clock; None where nothing waits."""

    def waiting(self) -> Sequence[Waiting]:
        """The requests that wait, in the order of service."""

    def tighten_deadline(self, left_ms: float) -> None:
        """Have the model's runs under way end within `left_ms`, by running sparser from now on."""

    def usual_ms(self, waiting: Waiting) -> float:
        """Time that such a request is likely to take in the present state of the device, in milliseconds."""

    def wake(self) -> None:
        """Have a worker of the model look whether it is the model's turn."""


class Device:
    """At most `slots` runs at once; the next run is that of the highest priority, and among equals the first due.

    Each model decides its own levels, but sees first the requests that wait at the others (`queue_of`). So a model of
    low priority runs sparser, or waits, before a model of high priority has to.

    A change that may give another model the turn, of the slots, the queues or the priorities, must be followed by
    wake(). It wakes the model whose turn it is and no other. When each change woke the workers of ten models, a server
    changed threads 20 000 times a second, and a quarter of its answers were late for it (decision 064).

    lock: of all schedulers on the device. It must be held for every call below. Decisions therefore come one at a time.
    """

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots
        self.lock = threading.RLock()
        self._tenants: list[Tenant] = []
        self._ends_s: dict[Hashable, float] = {}

    @property
    def shared(self) -> bool:
        """Whether there is more than one model."""
        return len(self._tenants) > 1

    def join(self, tenant: Tenant) -> None:
        """Add a model."""
        self._tenants.append(tenant)

    def leave(self, tenant: Tenant) -> None:
        """Take a model away; its requests delay those of other models no longer."""
        if tenant in self._tenants:
            self._tenants.remove(tenant)
        self.wake()

    def is_turn_of(self, tenant: Tenant) -> bool:
        """Whether a slot is free and `tenant` has the request that comes next."""
        return self._next() is tenant

    def wake(self) -> None:
        """Wake the model whose turn it is, where a slot is free."""
        tenant = self._next()
        if tenant is not None:
            tenant.wake()

    def _next(self) -> Tenant | None:
        """The model whose turn it is; among equals the one that joined first. None: no slot is free, or none waits."""
        if len(self._ends_s) >= self.slots:
            return None
        found, first = None, (0, (0, 0.0))
        for tenant in self._tenants:
            due = tenant.next_due()
            if due is not None and (found is None or (-tenant.priority, due) < first):
                found, first = tenant, (-tenant.priority, due)
        return found

    @property
    def idle(self) -> bool:
        """Whether a slot is free and nothing waits, so that a new request is next."""
        return len(self._ends_s) < self.slots and self._next() is None

    def begin(self, run: Hashable, end_s: float) -> None:
        """Give a slot to `run`, any hashable name of a run, which is expected to end at `end_s`."""
        self._ends_s[run] = end_s

    def end(self, run: Hashable) -> bool:
        """Free the slot of `run`; False where it had none."""
        had_slot = self._ends_s.pop(run, None) is not None
        self.wake()
        return had_slot

    def busy_ms(self, now_s: float) -> float:
        """Predicted time until a slot is free, in milliseconds."""
        if len(self._ends_s) < self.slots:
            return 0.0
        return max(0.0, (min(self._ends_s.values()) - now_s) * 1e3)

    def tighten_deadline(self, tenant: Tenant, left_ms: float) -> None:
        """Have runs end within `left_ms` for the sake of `tenant`: its own, and those of no higher priority."""
        for each in self._tenants:
            if each.priority <= tenant.priority:
                each.tighten_deadline(left_ms)

    def queue_of(self, tenant: Tenant, slowdown: float) -> list[Waiting]:
        """The requests of `tenant` and those that are served before them, in the order of service.

        slowdown: of `tenant`. A request of another model is given by the time that it will take (Waiting.foreign_ms).
        """
        own = tenant.waiting()
        if len(self._tenants) < 2:
            return list(own)
        first = [each for other in self._others(tenant, 1) for each in _foreign(other, slowdown, first=True)]
        equal = [each for other in self._others(tenant, 0) for each in _foreign(other, slowdown, first=False)]
        return sorted(first, key=_due) + sorted([*own, *equal], key=_due)

    def _others(self, tenant: Tenant, above: int) -> Iterator[Tenant]:
        for other in self._tenants:
            if other is not tenant and (
                other.priority > tenant.priority if above else other.priority == tenant.priority
            ):
                yield other


def _due(waiting: Waiting) -> tuple[int, float]:
    return waiting.due


def _foreign(tenant: Tenant, slowdown: float, *, first: bool) -> Iterator[Waiting]:
    for each in tenant.waiting():
        # divided, because the policy that plans with it multiplies it by the slowdown of its own model
        yield Waiting(each.deadline_s, 0, 0, foreign_ms=tenant.usual_ms(each) / slowdown, first=first, rank=each.rank)
