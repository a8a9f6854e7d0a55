"""CountsSource: reads the counts of a running server, over gRPC and from its metrics.

Levels, outcomes and percentiles come from the metrics only: the protocol's ModelStatistics has no place for them, and
fields of our own would make its messages differ from Triton's. The server therefore names the port of its metrics among
the extensions in ServerMetadata, "prometheus_metrics(9001)", where any string may stand.
"""

from __future__ import annotations

import http.client
import re
import time
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import grpc

from nested_sparse.errors import InputError, UnavailableError
from nested_sparse.excerpt import excerpt
from nested_sparse.proto import messages

from ..connections.listening import MOST_PORT
from ..servicer import METRICS_EXTENSION
from .access import Access
from .counts import Counts, MetricCounts, ModelCounts
from .prometheus import read_metrics

MOST_METRIC_BYTES = 32 << 20
DRAINING = "draining"
"""The reason that our index gives while the server drains."""
ANNOUNCED = re.compile(re.escape(METRICS_EXTENSION) + r"\((\d{1,5})\)")
ADDRESS = re.compile(r"(?P<host>\[[^\]]+\]|[^:/\[\]]+):(?P<port>\d{1,5})")


class CountsSource:
    """One server of the Open Inference Protocol, ours or another; facts that it does not give are left out.

    address: HOST:PORT of its gRPC. metrics: HOST:PORT of its Prometheus text; None: the one that it announces, if any.
    access: the TLS and the token for both; None: neither.
    The connection is made again by itself when the server comes back. Raises InputError: no such form of address.
    """

    def __init__(
        self,
        address: str,
        metrics: str | None = None,
        *,
        access: Access | None = None,
        timeout_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for each in (address, metrics):
            if each is not None:
                _check_address(each)
        self.address = address
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._clock = clock
        # by default gRPC waits longer after each failure, and asks an HTTP proxy
        options = (("grpc.max_reconnect_backoff_ms", 1000), ("grpc.enable_http_proxy", 0))
        self._access = access or Access()
        self._channel = self._access.channel(address, options)
        self._opener = self._access.opener()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def read(self) -> Counts:
        """The counts of now. Raises UnavailableError: no server of the protocol answers in time."""
        metadata = self._ask("ServerMetadata")
        ready = bool(self._ask("ServerReady").ready)
        statistics = self._ask("ModelStatistics", optional=True)
        index = self._ask("RepositoryIndex", optional=True)
        notes = [f"it has no {name}" for name, it in (("statistics", statistics), ("index", index)) if it is None]
        metrics, note = self._read_metrics(metadata.extensions)
        general = "ready" if ready else "not ready"
        states = _states(index.models if index is not None else (), general)
        counted = statistics.model_stats if statistics is not None else ()
        names = dict.fromkeys((*states, *(each.name for each in counted)))
        models = tuple(
            _model(name, states.get(name, general), [each for each in counted if each.name == name], metrics.get(name))
            for name in names
        )
        server = f"{metadata.name} {metadata.version}".strip()
        state = DRAINING if not ready and DRAINING in states.values() else general
        return Counts(self._clock(), server, state, models, "; ".join(filter(None, (*notes, note))))

    def _ask(self, method: str, *, optional: bool = False) -> Any:
        """The response; None from a server that lacks a method that is optional. Raises UnavailableError."""
        call = self._channel.unary_unary(
            f"/{messages.SERVICE_NAME}/{method}",
            request_serializer=getattr(messages, f"{method}Request").SerializeToString,
            response_deserializer=getattr(messages, f"{method}Response").FromString,
        )
        try:
            return call(
                getattr(messages, f"{method}Request")(), timeout=self._timeout_s, metadata=self._access.metadata
            )
        except grpc.RpcError as error:
            status, details = error.code(), error.details()
        if optional and status is grpc.StatusCode.UNIMPLEMENTED:
            return None
        if status in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            raise UnavailableError(
                f"the server at {self.address} refuses {method} ({excerpt(details)}); give --token-file with a token "
                "that has the right of reading"
            )
        if status is grpc.StatusCode.DEADLINE_EXCEEDED:
            details = f"no answer within {self._timeout_s:g} s"
        raise UnavailableError(
            f"no inference server answers at {self.address} ({method}: {status.name}, {excerpt(details)}); "
            "start one with `nested-sparse serve FILE`, or say where it listens: nested-sparse top HOST:PORT"
        )

    def _read_metrics(self, extensions: list[str]) -> tuple[dict[str, MetricCounts], str]:
        """The metrics by model, and the reason where there are none."""
        address = self._metrics or self._announced(extensions)
        if address is None:
            return {}, "no metrics: levels, outcomes and percentiles are not known (serve --metrics-port)"
        url = f"{self._access.scheme}://{address}/metrics"
        try:
            request = urllib.request.Request(url, headers=dict(self._access.metadata))
            with self._opener.open(request, timeout=self._timeout_s) as response:
                text = response.read(MOST_METRIC_BYTES).decode()
            return read_metrics(text), ""
        except http.client.HTTPException:
            return {}, f"no metrics from {url}: it does not speak HTTP"
        except (OSError, ValueError, KeyError) as error:  # urllib's errors are OSErrors
            reason = getattr(error, "reason", None) or error
            return {}, f"no metrics from {url}: {excerpt(reason)}"

    def _announced(self, extensions: list[str]) -> str | None:
        ports = [match[1] for match in map(ANNOUNCED.fullmatch, extensions) if match and _is_port(match[1])]
        host = ADDRESS.fullmatch(self.address)
        return f"{host['host']}:{ports[0]}" if ports and host else None


def _check_address(text: str) -> None:
    match = ADDRESS.fullmatch(text)
    if match is None:
        raise InputError(f"address: expected HOST:PORT, as 127.0.0.1:8001 or [::1]:8001, got {text!r}")
    if not _is_port(match["port"]):  # gRPC would dial the port modulo 65536
        raise InputError(f"address: expected HOST:PORT with a port from 1 to {MOST_PORT}, got {text!r}")


def _is_port(digits: str) -> bool:
    return 1 <= int(digits) <= MOST_PORT


def _states(index: Iterable[Any], general: str) -> dict[str, str]:
    """By model: `general` where a version is ready; else why the last one of the index is not, where that is told."""
    states: dict[str, str] = {}
    ready: set[str] = set()
    for each in index:
        if each.state == "READY":
            ready.add(each.name)
        states[each.name] = general if each.name in ready else str(each.reason or each.state.lower() or general)
    return states


def _model(name: str, state: str, versions: Sequence[Any], metrics: MetricCounts | None) -> ModelCounts:
    """The counts of all versions of a model together."""
    stats = [each.inference_stats for each in versions]
    return ModelCounts(
        name,
        state,
        answered=sum(each.success.count for each in stats),
        failed=sum(each.fail.count for each in stats),
        queue_ms=sum(each.queue.ns for each in stats) / 1e6,
        compute_ms=sum(each.compute_infer.ns for each in stats) / 1e6,
        metrics=metrics,
    )
