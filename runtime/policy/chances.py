"""Chances: the share of the latest runs that would have been in time, had they been a run that is planned now."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

RUNS = 64
"""Latest runs, and latest replies, that are remembered: enough for a chance of 98 %, and soon forgotten."""
KEPT_S = 10.0
"""They are forgotten after this time in any case: a co-runner of a minute ago says nothing."""
UNSEEN = 2.0
"""Times that a reply takes, seen from here, reckoned with on the way to the client: before its request is known here,
and behind its reply, other threads wait for a core in the same way (docs/decisions/057)."""


class Chances:
    """Knows by how much runs scatter around their prediction, and how long replies take behind them.

    On a device with nothing else to do both are next to nothing. Beside busy processes each change of thread waits for
    a core. A run that was predicted to end just in time is then late as often as not, and its reply waits again.

    Run and reply are taken as independent: the n-th run goes with the n-th reply. Clock readings are in seconds. Not
    thread-safe: the scheduler locks.
    """

    def __init__(self) -> None:
        self._runs = _Latest(1.0)
        self._replies = _Latest(0.0)

    def note_run(self, ratio: float, now_s: float) -> None:
        """Learn from a run that took `ratio` times as long as expected, without any allowance for scatter."""
        if math.isfinite(ratio) and ratio > 0:
            self._runs.add(ratio, now_s)

    def explain_runs(self, count: int) -> None:
        """Leave out the latest `count` runs: they do not scatter, the device has changed, and the slowdown knows it."""
        self._runs.drop(count)

    def note_reply(self, reply_ms: float, now_s: float) -> None:
        """Learn from a reply that could be sent `reply_ms` after its run had ended."""
        if math.isfinite(reply_ms):
            self._replies.add(UNSEEN * max(reply_ms, 0.0), now_s)

    def forget(self, now_s: float) -> None:
        """Forget values that are too old; to be called before the chances are asked for."""
        self._runs.forget(now_s)
        self._replies.forget(now_s)

    def to_end(self, expected_ms: float, slack_ms: float) -> float:
        """The chance that runs of `expected_ms` in sum take `slack_ms` at most, whatever the reply takes."""
        runs = self._runs
        if runs.most * expected_ms <= slack_ms:
            return 1.0
        return float(np.count_nonzero(runs.values * expected_ms <= slack_ms)) / len(runs.values)

    def in_time(self, expected_ms: float, slack_ms: float) -> float:
        """The chance that runs of `expected_ms` in sum, and the last one's reply, take `slack_ms` at most."""
        runs, replies = self._runs, self._replies
        if runs.most * expected_ms + replies.most <= slack_ms:
            return 1.0
        ratios, replies_ms = runs.values, replies.values
        count = max(len(ratios), len(replies_ms))
        if len(ratios) < count:
            ratios = np.resize(ratios, count)
        elif len(replies_ms) < count:
            replies_ms = np.resize(replies_ms, count)
        return float(np.count_nonzero(ratios * expected_ms + replies_ms <= slack_ms)) / count


class _Latest:
    """The latest values, RUNS at most.

    A decision asks for the largest of them, and for all of them only where that leaves a doubt. So both are made when
    they are asked for: with arrays at each decision, this took 27 µs of it, and takes 6.
    """

    def __init__(self, usual: float) -> None:
        self._usual = usual
        self._seen: deque[tuple[float, float]] = deque()
        self._most: float | None = None
        self._values: NDArray[np.float64] | None = None

    @property
    def most(self) -> float:
        """The largest value; `usual` where there is none."""
        if self._most is None:
            self._most = max((value for _, value in self._seen), default=self._usual)
        return self._most

    @property
    def values(self) -> NDArray[np.float64]:
        """All values; `usual` where there is none."""
        if self._values is None:
            self._values = np.array([value for _, value in self._seen] or [self._usual])
        return self._values

    def add(self, value: float, now_s: float) -> None:
        """Take one in, in place of the oldest."""
        if len(self._seen) == RUNS:
            self._left(self._seen.popleft()[1])
        if not self._seen:
            self._most = value
        elif self._most is not None:
            self._most = max(self._most, value)
        self._seen.append((now_s, value))
        self._values = None

    def drop(self, count: int) -> None:
        """Take the latest `count` out."""
        for _ in range(min(count, len(self._seen))):
            self._left(self._seen.pop()[1])

    def forget(self, now_s: float) -> None:
        """Take out the values that are too old."""
        while self._seen and now_s - self._seen[0][0] > KEPT_S:
            self._left(self._seen.popleft()[1])

    def _left(self, value: float) -> None:
        self._values = None
        if value == self._most:
            self._most = None
