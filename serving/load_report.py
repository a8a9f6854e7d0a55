"""LoadReport: the server's load in the answers of clients that ask for it, such as balancers, as ORCA writes it.

The report is an xds.data.orca.v3.OrcaLoadReport (github.com/cncf/xds). A client asks by the metadata LOAD_FORMAT, with
"bin", "text" or "json". "bin" is the form that gRPC's balancers read; the others are those of HTTP proxies.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psutil

from nested_sparse.errors import InputError
from nested_sparse.excerpt import excerpt

from .connections.front import LOAD_FORMAT
from .dataplane import Dataplane
from .metrics import Metrics
from .protocol.wire import length_prefix

FORMATS = ("bin", "text", "json")
TRAILER, BINARY_TRAILER = "endpoint-load-metrics", "endpoint-load-metrics-bin"
PERIOD_S = 0.5
"""Time for which a report is kept: to look at the system takes 0.2 ms (Xeon), and shares need a while to mean much."""
FIELDS = {"cpu_utilization": 1, "mem_utilization": 2, "rps_fractional": 6, "eps": 7, "application_utilization": 9}
NAMED_METRICS = 8
_FIXED64 = 1


@dataclass(frozen=True, slots=True)
class _Reading:
    """Counts since the start: seconds of all cores, and of busy ones; requests, failed ones, and seconds of runs."""

    at_s: float
    cores_s: float
    busy_s: float
    requests: int
    failures: int
    compute_s: float


class LoadReport:
    """Measures the load between two reports. Belongs to one event loop.

    cpu_utilization, mem_utilization: shares of the machine, this server and all else. application_utilization: seconds
    of runs per second. rps_fractional, eps: answered and failed requests per second, failed ones. Named metrics:
    requests that wait, and the largest slowdown of a model.
    """

    def __init__(self, dataplane: Dataplane, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._dataplane, self._metrics, self._clock = dataplane, metrics, clock
        self._last = self._reading()
        self._values: Mapping[str, float] = {}
        self._named: Mapping[str, float] = {}

    def trailers(self, form: str) -> tuple[tuple[str, str | bytes], ...]:
        """The trailing metadata in the form that a client asks for by LOAD_FORMAT. Raises InputError for another."""
        kind = form.lower()
        if kind not in FORMATS:
            raise InputError(f"{LOAD_FORMAT}: expected one of {', '.join(FORMATS)}, got '{excerpt(form)}'")
        if kind == "bin":
            return ((BINARY_TRAILER, self.binary()),)
        self._measure()
        if kind == "json":
            return ((TRAILER, f"JSON {json.dumps({**self._values, 'named_metrics': self._named})}"),)
        shown = {**self._values, **{f"named_metrics.{name}": value for name, value in self._named.items()}}
        return ((TRAILER, "TEXT " + ", ".join(f"{name}={value:.6g}" for name, value in shown.items())),)

    def _measure(self) -> None:
        now_s, last = self._clock(), self._last
        if self._values and now_s - last.at_s < PERIOD_S:
            return
        reading = self._last = self._reading()
        seconds = max(reading.at_s - last.at_s, 1e-3)
        cores_s = reading.cores_s - last.cores_s
        self._values = {
            "cpu_utilization": min(1.0, max(0.0, (reading.busy_s - last.busy_s) / cores_s)) if cores_s > 0 else 0.0,
            "mem_utilization": psutil.virtual_memory().percent / 100,
            "rps_fractional": max(0, reading.requests - last.requests) / seconds,  # a model and its counts may be gone
            "eps": max(0, reading.failures - last.failures) / seconds,
            "application_utilization": max(0.0, reading.compute_s - last.compute_s) / seconds,
        }
        stats = [model.engine.stats() for model in self._dataplane.models.values()]
        self._named = {
            "queue_length": float(sum(each.queue_length for each in stats)),
            "slowdown": max((each.slowdown for each in stats), default=1.0),
        }

    def _reading(self) -> _Reading:
        times = psutil.cpu_times()
        cores_s = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)  # user holds these too
        tallies = list(self._metrics.tallies.values())
        failures = sum(each.failures for each in tallies)
        return _Reading(
            self._clock(),
            cores_s,
            cores_s - times.idle - getattr(times, "iowait", 0.0),
            failures + sum(each.successes for each in tallies),
            failures,
            sum(each.compute_ns for each in tallies) / 1e9,
        )

    def binary(self) -> bytes:
        """The report as a message of xds.data.orca.v3.OrcaLoadReport."""
        self._measure()
        fields = [_number(FIELDS[name], value) for name, value in self._values.items()]
        for name, value in self._named.items():
            entry = length_prefix(1, len(name)) + name.encode() + _number(2, value)
            fields.append(length_prefix(NAMED_METRICS, len(entry)) + entry)
        return b"".join(fields)


def _number(field: int, value: float) -> bytes:
    """A field of type double."""
    return bytes([field << 3 | _FIXED64]) + struct.pack("<d", value)
