"""Server: one gRPC port with inference, health and reflection, which ends in order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from grpc import aio
from grpc_health.v1 import health_pb2_grpc
from prometheus_client.registry import Collector

from nested_sparse.argument import finite, whole
from nested_sparse.errors import ServingError
from nested_sparse.excerpt import excerpt
from nested_sparse.proto import messages
from nested_sparse.runtime.resources import CpuQuota, Governor

from .connections.bounded import BoundedServices
from .connections.call_task import make_task
from .connections.connection_limits import ConnectionLimits
from .connections.front import Front
from .connections.grpc_log import silence_bad_names
from .connections.listening import MOST_PORT, address_text, check_listenable
from .connections.own_door import OwnDoor
from .connections.own_sockets import finish_sending, stop_listening
from .connections.unix_socket import UnixSocket
from .connections.uploads import Uploads, upload_budget
from .dataplane import Dataplane
from .device_state import DeviceMetrics, DeviceState
from .health import SERVICE_NAME as HEALTH_SERVICE_NAME
from .health import HealthServicer
from .http.http_limits import HttpLimits
from .load_service import LoadService
from .metrics import Metrics
from .metrics_server import MetricsServer
from .metrics_text import MetricsText
from .model_config import sample_bytes
from .model_health import ModelHealth
from .protocol.inflate import NOT_INFLATED
from .protocol.reflection import add_reflection
from .protocol.wire import HEADER_BYTES
from .repository.repository import Repository
from .rights.gate import Gate, check_stream
from .security import Security, SecurityConfig
from .sequences.store import SequenceLimits
from .served_model import ServedModel
from .servicer import Servicer, generic_handler
from .shared_memory.regions import Regions
from .tls.exposure import is_local
from .triton_metrics import TritonMetrics

if TYPE_CHECKING:
    from .http.http_server import HttpServer
    from .spans import Spans

LEAST_MESSAGE_BYTES = 4 << 20  # gRPC's own default
REPLY_GRACE_S = 1.0
"""Time for computed answers to reach their clients, and for clients to close their connections."""
QUIET_S = 0.1
"""After this time without a call, a draining server has refused all calls that were on their way to it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The server's addresses and limits. Raises ServingError for a value that is out of range.

    unix_socket: path of a socket for processes of this user, beside the port; http_unix_socket: of one for REST.
    port, metrics_port, http_port: 0 picks a free one; metrics_port None: no metrics; http_port and http_unix_socket
    None: no REST.
    grace_s: seconds that running requests get when the server stops.
    request_samples: number of samples of the example shape that fit in one request; it bounds the bytes that the
    server reads into memory.
    connections: limits of the connections of one client, and of all clients together; http_limits: those of REST.
    allow_shared_memory: whether clients may name shared memory of this machine, in place of a tensor's values.
    security: its TLS, and the rights of its clients.
    sequences: limits of the states that are kept for sequences of requests.
    otlp_endpoint: URL of an OpenTelemetry collector, which gets a span of each request; None: there are no spans.
    """

    host: str = "127.0.0.1"
    port: int = 8001
    unix_socket: Path | None = None
    metrics_port: int | None = None
    http_port: int | None = None
    http_unix_socket: Path | None = None
    grace_s: float = 30.0
    request_samples: int = 64
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)
    http_limits: HttpLimits = field(default_factory=HttpLimits)
    allow_shared_memory: bool = False
    security: SecurityConfig = field(default_factory=SecurityConfig)
    sequences: SequenceLimits = field(default_factory=SequenceLimits)
    otlp_endpoint: str | None = None

    def __post_init__(self) -> None:
        whole("port", self.port, 0, MOST_PORT, ServingError)
        for name in ("metrics_port", "http_port"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name), 0, MOST_PORT, ServingError)
        if self.has_http and find_spec("aiohttp") is None:
            raise ServingError(
                "http_port, http_unix_socket: REST takes aiohttp, which is not installed; "
                "pip install 'nested-sparse[http]'"
            )
        if self.otlp_endpoint is not None:
            check_endpoint(self.otlp_endpoint)
        finite("grace_s", self.grace_s, 0.0, error=ServingError)
        whole("request_samples", self.request_samples, 1, error=ServingError)

    @property
    def has_http(self) -> bool:
        """Whether the server answers over HTTP, too."""
        return self.http_port is not None or self.http_unix_socket is not None


def check_endpoint(url: str) -> None:
    """Raise ServingError for a collector that cannot be one, or where its library is not installed."""
    if not url.startswith(("http://", "https://")):
        raise ServingError(f"otlp_endpoint: expected a URL as http://127.0.0.1:4317, got '{excerpt(url)}'")
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.exporter") is None:
        raise ServingError(
            "otlp_endpoint: spans take OpenTelemetry, which is not installed; pip install 'nested-sparse[otel]'"
        )


def receive_limit(models: Iterable[ServedModel], request_samples: int) -> int:
    """Bytes a request may have: the largest model's inputs times `request_samples`, at least gRPC's default."""
    inputs = max((sum(sample_bytes(spec, request_samples) for spec in model.inputs) for model in models), default=0)
    return max(LEAST_MESSAGE_BYTES, min(inputs + HEADER_BYTES, 2**31 - 1))


def _watched(otlp_endpoint: str | None) -> tuple[Spans | None, Metrics]:
    """The metrics, and the spans where a collector is to have them."""
    if otlp_endpoint is None:
        return None, Metrics()
    from .spans import Spans, TracedMetrics  # its library is an extra

    spans = Spans(otlp_endpoint)
    return spans, TracedMetrics(spans)


class Server:
    """Serves models from start() until drain(); address, metrics_address, http_address, unix_address and
    http_unix_address say where, "" for a door that there is not.

    Raises ServingError for files of TLS or tokens that cannot be used, and for an exposed address without TLS.

    repository: more models, loaded already, which come and go from now on; drain() closes them.
    governor: its readings and limits are in the metrics and on the dashboard.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        config: ServerConfig,
        repository: Repository | None = None,
        governor: Governor | None = None,
    ) -> None:
        self.address = ""
        self.metrics_address = ""
        self.http_address = ""
        self.unix_address = self.http_unix_address = ""
        self._config = config
        self.security = Security(config.security, config.host)
        self._models = models
        self._repository = repository
        served = [*models, *(repository.models if repository is not None else ())]
        self._spans, self._metrics = _watched(config.otlp_endpoint)
        for model in served:
            self._metrics.watch(model)
        self._metrics.registry.register(TritonMetrics(self._metrics))
        self._governor = governor
        if governor is not None:
            self._metrics.registry.register(DeviceMetrics(partial(DeviceState.of, governor)))
        self._dataplane = Dataplane(served, config.sequences)
        self._metrics.watch_sequences(self._dataplane.sequences)
        limit = receive_limit(served, config.request_samples)
        memory = Regions(limit) if config.allow_shared_memory else None
        self._servicer = Servicer(
            self._dataplane,
            self._metrics,
            limit_bytes=limit,
            repository=repository,
            memory=memory,
            check_stream=lambda metadata: check_stream(self.security.rights, metadata),
        )
        self._health = HealthServicer()
        self._model_health = ModelHealth(self._health, self._dataplane)
        self._door: OwnDoor | None = None
        self._unix_socket = None if config.unix_socket is None else UnixSocket(config.unix_socket)
        self._watches: list[asyncio.Task[None]] = []
        self._grpc = self._build()
        self._exporter = MetricsServer(self._metrics.registry, self.security)
        self._http: HttpServer | None = None
        if repository is not None:
            repository.attach(self._dataplane, self._metrics, self._models_changed)

    def _build(self) -> aio.Server:
        limit = self._servicer.limit_bytes
        self._upload_bytes = upload_budget(limit)
        silence_bad_names()
        server = aio.server(
            options=(
                (
                    "grpc.so_reuseport",
                    0,
                ),  # otherwise a second server could listen on the same port and would take half the requests
                # a request above our limit and below this one gets our own answer, which says what to do
                ("grpc.max_receive_message_length", min(2 * limit, 2**31 - 1)),
                ("grpc.max_send_message_length", -1),
                NOT_INFLATED,
                *self._config.connections.options(),
            ),
        )
        self._front = Front(
            generic_handler(self._servicer),
            self._shortest_slo_ms(),
            self._metrics.shed_in_front,
            quota=CpuQuota(),
        )
        self._metrics.watch_front(self._front.wait_s)
        gate = Gate(self.security.rights, self._front.probe_path, self._metrics.count_unread)
        tracing = () if self._spans is None else (self._spans.gate,)
        self._handlers = (*tracing, gate, self._front)
        server.add_generic_rpc_handlers(self._handlers)
        services = BoundedServices(server, self._servicer.calls)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, services)
        self._load_service = LoadService(self._servicer.load)
        self._load_service.add_to(services)
        add_reflection(services, (messages.SERVICE_NAME, HEALTH_SERVICE_NAME))
        return server

    @property
    def models(self) -> list[ServedModel]:
        """All versions of all models that are served now."""
        return self._dataplane.every()

    def _shortest_slo_ms(self) -> float:
        return min((model.default_slo_ms for model in self._dataplane.models.values()), default=1000.0)

    def _models_changed(self) -> None:
        self._front.delay.promise(self._shortest_slo_ms())
        self._model_health.update()

    async def start(self) -> None:
        """Listen and answer. Raises ServingError if it cannot listen on an address."""
        host, port = self._config.host, self._config.port
        check_listenable(host, port)
        bound = self._listen(host, port)
        self.address = address_text(host, bound)
        if self._unix_socket is not None:
            self._unix_socket.open(self._grpc)
            self.unix_address = self._unix_socket.address
        self._door = OwnDoor(self._grpc, host, bound, self.security.tls is not None)
        if self._config.metrics_port is not None:
            await self._start_exporter(host, self._config.metrics_port)
        if self._config.has_http:
            await self._start_http(host)
        loop = asyncio.get_running_loop()
        if loop.get_task_factory() is None:
            loop.set_task_factory(make_task)
        await self._grpc.start()
        if self._door.address:
            self._front.open(self._door.address)
        self._model_health.update()
        uploads = Uploads(host, bound, self._servicer.calls.taken_bytes, self._upload_bytes)
        watches = (self._model_health.watch, uploads.watch, *(each.watch for each in self.security.rotations))
        self._watches = [asyncio.create_task(watch()) for watch in watches]

    def _listen(self, host: str, port: int) -> int:
        address = address_text(host, port)
        try:
            if self.security.tls is None:
                return int(self._grpc.add_insecure_port(address))
            return int(self._grpc.add_secure_port(address, self.security.tls.credentials()))
        except RuntimeError as error:
            raise ServingError(f"cannot listen on {address}: {error}") from None

    async def _start_exporter(self, host: str, port: int) -> None:
        check_listenable(host, port)
        self._servicer.metrics_port = await self._exporter.start(host, port)
        self.metrics_address = address_text(host, self._servicer.metrics_port)

    async def _start_http(self, host: str) -> None:
        from .http.dashboard.dashboard import Dashboard
        from .http.dashboard.history import History
        from .http.dashboard.own_state import OwnState
        from .http.http_server import HttpServer  # its library is an extra

        self._http = HttpServer(
            self._handlers,
            MetricsText(self._metrics.registry),
            self._servicer.limit_bytes,
            self._upload_bytes,
            Dashboard(History(OwnState(self._metrics.registry, self._dataplane, self._governor))),
            self._config.http_limits,
            on_unread=self._metrics.count_unread,
            is_local=is_local(host) and self._config.security.token_file is None,
        )
        port, path, tls = self._config.http_port, self._config.http_unix_socket, self.security.tls
        if port is not None:
            check_listenable(host, port)
            bound = await self._http.start(host, port, None if tls is None else tls.context())
            self.http_address = address_text(host, bound)
            if self._servicer.metrics_port is None:
                self._servicer.metrics_port = bound
        if path is not None:
            unix_socket = UnixSocket(path)
            await self._http.start_unix(unix_socket)
            self.http_unix_address = unix_socket.address
        self._servicer.has_rest = True

    def export(self, collector: Collector) -> None:
        """Export the metrics of `collector` beside the server's own."""
        self._metrics.registry.register(collector)

    def change(self, grace_s: float) -> None:
        """Take over another grace, and the changed times that the models promise."""
        self._config = replace(self._config, grace_s=grace_s)
        if self._repository is not None:
            self._repository.grace_s = grace_s
        self._front.delay.promise(self._shortest_slo_ms())

    async def drain(self) -> None:
        """End in order: NOT_SERVING, new requests refused, running ones finished within the grace, all closed."""
        end_s = time.monotonic() + self._config.grace_s
        for watch in self._watches:
            watch.cancel()
        if self._repository is not None:
            self._repository.refuse()
        await self._front.close()
        if self._door is not None:
            self._door.close()
        self._health.end()
        self._load_service.close()
        if not await self._dataplane.drain(self._config.grace_s):
            log.warning("requests still run after %g s of grace; they are answered UNAVAILABLE", self._config.grace_s)
        self._servicer.streaming.close()
        self._dataplane.sequences.close()
        await self._health.close(REPLY_GRACE_S)
        if self._http is not None:
            await self._http.close(REPLY_GRACE_S)
        await self._close_connections()
        left_s = max(0.0, end_s - time.monotonic())
        await asyncio.gather(*(asyncio.to_thread(model.engine.close, left_s) for model in self._models))
        if self._repository is not None:
            await self._repository.close(left_s)
        self._servicer.log.reset()
        await self._exporter.close()
        if self._spans is not None:
            await asyncio.to_thread(self._spans.close)

    async def _close_connections(self) -> None:
        """Refuse the calls that still wait for a handler, then end the connections after their last answer."""
        if not self.address:  # the server never listened
            return
        port = int(self.address.rpartition(":")[2])
        await self._servicer.calls.settle(QUIET_S, REPLY_GRACE_S)
        doors = [(self._config.host, port), *([(self.unix_address, 0)] if self.unix_address else [])]
        for end in (stop_listening, finish_sending):
            for door in doors:
                end(*door)
        await self._grpc.stop(REPLY_GRACE_S)
        if self._unix_socket is not None:
            self._unix_socket.close()
