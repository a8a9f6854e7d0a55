"""HttpLimits: limits on what the clients of the HTTP port may hold."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Limits of the HTTP port.

    connections: most at once. The next one closes that which has waited longest without a request under way; where all
    have one, it is closed itself.
    silent_s: most seconds from the connection, or from the last answer, to the end of the next request's head; also the
    most that a client may take to read nothing of its answer.
    body_s, body_bytes_per_s: a body may take body_s and as long as it takes at that rate.
    """

    connections: int = 256
    silent_s: float = 30.0
    body_s: float = 30.0
    body_bytes_per_s: int = 64 << 10
