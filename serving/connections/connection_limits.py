"""ConnectionLimits: limits on the memory and the sockets of the server that its clients may hold."""

from __future__ import annotations

import math
import resource
from dataclasses import dataclass, fields

from nested_sparse.errors import ServingError

MOST_CONNECTIONS = 1000
INT_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of gRPC connections. The effect of each in gRPC's core was measured (docs/decisions/023).

    connections: open at once; the next one is closed at once. None: as many as the process may have files, less half.
    streams: calls open at once on one connection; clients wait with the next one. Core counts a call until the server
    has let go of it, a while after its answer, and refuses what is too much: with fewer an honest burst would be.
    age_s, age_grace_s: a connection is asked to end after its age and is closed when the grace is over too, so that a
    call that never sends its request does not stay for ever. idle_s: one without calls is closed.
    handshake_s: from the connection to the client's first frame. settings_s: to its answer to ours.
    keepalive_s, ping_timeout_s: a silent client is pinged, and closed when it does not answer.
    ping_interval_s: clients may ping this often, calls or none; three that come sooner end the connection.
    metadata_bytes: of the headers of one call; above it gRPC refuses some, above twice that all.
    Raises ServingError: a value that is not a finite number above 0.
    """

    connections: int | None = None
    streams: int = 1024
    age_s: float = 3600.0
    age_grace_s: float = 300.0
    idle_s: float = 600.0
    handshake_s: float = 10.0
    settings_s: float = 20.0
    keepalive_s: float = 60.0
    ping_timeout_s: float = 20.0
    ping_interval_s: float = 1.0
    metadata_bytes: int = 8192

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not 0 < value < math.inf:
                raise ServingError(f"{field.name}: expected a number above 0, got {value}")

    def options(self) -> tuple[tuple[str, int], ...]:
        """Channel arguments for grpc.aio.server."""
        return (
            ("grpc.max_allowed_incoming_connections", self.connections or _affordable_connections()),
            ("grpc.max_concurrent_streams", self.streams),
            ("grpc.max_connection_age_ms", _ms(self.age_s)),
            ("grpc.max_connection_age_grace_ms", _ms(self.age_grace_s)),
            ("grpc.max_connection_idle_ms", _ms(self.idle_s)),
            ("grpc.server_handshake_timeout_ms", _ms(self.handshake_s)),
            ("grpc.http2.settings_timeout", _ms(self.settings_s)),
            ("grpc.keepalive_time_ms", _ms(self.keepalive_s)),
            ("grpc.keepalive_timeout_ms", _ms(self.ping_timeout_s)),
            (
                "grpc.http2.ping_timeout_ms",
                _ms(self.ping_timeout_s),
            ),  # gRPC 1.81 obeys this one in place of the one above
            ("grpc.keepalive_permit_without_calls", 1),  # else pings of a client without calls may come every 2 h
            ("grpc.http2.min_ping_interval_without_data_ms", _ms(self.ping_interval_s)),
            ("grpc.max_metadata_size", self.metadata_bytes),
            ("grpc.absolute_max_metadata_size", self.metadata_bytes * 2),
        )


def _ms(seconds: float) -> int:
    return max(1, min(INT_MAX, round(seconds * 1000)))


def _affordable_connections() -> int:
    """Half of the files that this process may open: the other half is for the models, the metrics and the log."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(MOST_CONNECTIONS, soft // 2))
