"""Device: the cores that several models share, by priority."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator, Sequence
from typing import Protocol

from ..policy import Waiting


class Tenant(Protocol):
    """What a device needs to know of a scheduler. Called with the device's lock held."""

    @property
    def priority(self) -> int:
        """Higher goes first."""

    def first_due_s(self) -> float | None:
        """Deadline of the request that is next; None where nothing waits."""

    def waiting(self) -> Sequence[Waiting]:
        """What waits, earliest deadline first."""

    def tighten_deadline(self, left_ms: float) -> None:
        """What it has under way is to end within `left_ms`, by running sparser from now on."""

    def usual_ms(self, waiting: Waiting) -> float:
        """What such a request is likely to take in this device's present state."""


class Device:
    """At most `slots` inferences at once; the next is that of the highest priority, and among equals the first due.

    Each model decides its own levels, but looks at what the others have waiting before it does (`ahead_of`), so a model
    of low priority runs sparser, or waits, before one of high priority has to. `changed` is the lock of all schedulers
    on the device, and what they wait on: decisions come one at a time.
    """

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots
        self.changed = threading.Condition()
        self._tenants: list[Tenant] = []
        self._ends_s: dict[Hashable, float] = {}

    @property
    def shared(self) -> bool:
        """Whether there is more than one model."""
        return len(self._tenants) > 1

    def join(self, tenant: Tenant) -> None:
        """One more model. With the lock held, as all below."""
        self._tenants.append(tenant)

    def leave(self, tenant: Tenant) -> None:
        """One model less; what it had waiting holds nobody up."""
        if tenant in self._tenants:
            self._tenants.remove(tenant)
        self.changed.notify_all()

    def is_turn_of(self, tenant: Tenant) -> bool:
        """Whether a slot is free and `tenant` has the request that comes next."""
        due_s = tenant.first_due_s()
        if due_s is None or len(self._ends_s) >= self.slots:
            return False
        mine = (-tenant.priority, due_s)
        for other in self._tenants:
            other_due_s = None if other is tenant else other.first_due_s()
            if other_due_s is not None and (-other.priority, other_due_s) < mine:
                return False
        return True

    def begin(self, run: Hashable, end_s: float) -> None:
        """A run took a slot and is expected to end at `end_s`."""
        self._ends_s[run] = end_s

    def end(self, run: Hashable) -> bool:
        """Its slot is free again; whether it had one."""
        had_slot = self._ends_s.pop(run, None) is not None
        self.changed.notify_all()
        return had_slot

    def busy_ms(self, now_s: float) -> float:
        """Predicted time until a slot is free."""
        if len(self._ends_s) < self.slots:
            return 0.0
        return max(0.0, (min(self._ends_s.values()) - now_s) * 1e3)

    def tighten_deadline(self, tenant: Tenant, left_ms: float) -> None:
        """Makes what is under way end sooner for `tenant`, unless it goes before it."""
        for each in self._tenants:
            if each.priority <= tenant.priority:
                each.tighten_deadline(left_ms)

    def queue_of(self, tenant: Tenant, slowdown: float) -> list[Waiting]:
        """What waits for `tenant` and before it, in the order of service; of other models what they will take."""
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


def _due(waiting: Waiting) -> float:
    return waiting.deadline_s


def _foreign(tenant: Tenant, slowdown: float, *, first: bool) -> Iterator[Waiting]:
    for each in tenant.waiting():
        # divided, because whoever plans with it multiplies by the factor of its own model
        yield Waiting(each.deadline_s, 0, 0, foreign_ms=tenant.usual_ms(each) / slowdown, first=first)
