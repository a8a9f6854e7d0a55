"""Ending: what SIGTERM and SIGINT do where a server cannot end in order, because it is not up yet or ends already."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
log = logging.getLogger(__name__)


def end_loading(number: int, frame: FrameType | None) -> None:
    """A signal's handler: one line, and the code that a shell gives for the signal."""
    log.warning("stopped by %s before the models were ready", signal.Signals(number).name)
    # raising would not do: what is raised inside a finalizer, which may be running, goes no further
    os._exit(128 + number)


def end_draining(number: int, frame: FrameType | None) -> None:
    """The handler of a second signal."""
    log.warning("stopped by a second %s, before all requests were answered", signal.Signals(number).name)
    os._exit(128 + number)


def prepare() -> None:
    """Have the signals end this process from now on, even where it is process 1.

    The system drops a signal to process 1, as which a container runs its command, unless there is a handler; so this
    comes before everything that takes time. Other verbs than `serve` keep Python's own SIGINT, and as any other process
    than 1 its SIGTERM too.
    """
    if sys.argv[1:2] == ["serve"]:
        for number in SIGNALS:
            signal.signal(number, end_loading)
    elif os.getpid() == 1:
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number))


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGINT end what the body does, at once; a loop's own handlers take their place."""
    before = {number: signal.signal(number, end_loading) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
