"""Forked: what a child process made by fork(2) does with the objects that it inherited.

Threads do not survive a fork, locks stay as other threads held them, and an open file is the parent's as much as the
child's. So what holds any of these registers itself here, and is told in the child before the child goes on.
"""

from __future__ import annotations

import contextlib
import os
from typing import Protocol
from weakref import WeakSet


class Inheritable(Protocol):
    """An object that a child process must not use as it is."""

    def forget(self) -> None:
        """In the child: let go of the parent's threads, locks, files and leases without touching them."""


_registered: WeakSet[Inheritable] = WeakSet()


def heed_forks(inheritable: Inheritable) -> None:
    """Have `inheritable.forget()` called in every child that this process forks, for as long as the object lives."""
    _registered.add(inheritable)


def _forget_all() -> None:
    for each in list(_registered):
        each.forget()


with contextlib.suppress(AttributeError):  # where there is no fork there is nothing to heed
    os.register_at_fork(after_in_child=_forget_all)
