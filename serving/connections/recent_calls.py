"""RecentCalls: the number of calls that each client has made of late."""

from __future__ import annotations

MODEST_SHARE = 0.5
"""Of an equal share of all calls: a client that makes fewer is modest."""


class RecentCalls:
    """Counts calls by client over about `window_s`, whole windows of which are forgotten at once.

    Free of any clock: its owner reads it. Seconds.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._begun_s = 0.0
        self._now: dict[str, int] = {}
        self._before: dict[str, int] = {}
        self._calls = self._clients = 0

    def note(self, client: str, now_s: float) -> bool:
        """Note a call; returns whether its client is modest beside others."""
        age_s = now_s - self._begun_s
        if age_s >= self._window_s:
            self._before = self._now if age_s < 2 * self._window_s else {}
            self._now, self._begun_s = {}, now_s
            self._calls, self._clients = sum(self._before.values()), len(self._before)
        before = self._before.get(client, 0)
        now = self._now[client] = self._now.get(client, 0) + 1
        self._clients += before == 0 and now == 1
        self._calls += 1
        return (before + now) * self._clients < MODEST_SHARE * self._calls
