"""Forked: objects that a child process made by fork(2) must not use as it inherited them.

Threads do not survive a fork. Locks stay as other threads held them. Parent and child share an open file. So an object
that holds a thread, a lock or a file registers itself here, and its `forget` is called in the child before all else.
"""

from __future__ import annotations

import contextlib
import os
from typing import Protocol
from weakref import WeakSet


class Inheritable(Protocol):
    """An object that a child process must not use as it is."""

    def forget(self) -> None:
        """In the child: drop the references to threads, locks, files and leases of the parent, without using them."""


_registered: WeakSet[Inheritable] = WeakSet()


def heed_forks(inheritable: Inheritable) -> None:
    """Have `inheritable.forget()` called in every child that this process forks, as long as the object exists."""
    _registered.add(inheritable)


def _forget_all() -> None:
    for each in list(_registered):
        each.forget()


with contextlib.suppress(AttributeError):  # a system without fork
    os.register_at_fork(after_in_child=_forget_all)
