"""Ray Serve: the ingress and the replicas as an application of it.

`application` is for `import_path`, and `add_to_ingress` for `grpc_servicer_functions`, of a Serve config file:
docs/deploy/ray-serve.yaml is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

try:
    import ray
    from ray import serve
    from ray.exceptions import ObjectLostError, RayActorError
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
except ImportError as error:
    raise ImportError(
        f"a cluster takes Ray Serve, which is not installed here ({error}); pip install 'nested-sparse[ray]'"
    ) from error

from nested_sparse.errors import ServingError

from .forwarded import Answer, Forwarded
from .ingress import SERVICE_NAMES, Ingress, add_services
from .replica import Replica, replica_settings
from .slack_policy import SlackPolicy

APPLICATION = "nested-sparse"
"""Name that the application must have: by it the ingress finds the replicas."""
MOST_ONGOING = 256
"""Calls that one replica holds: as many as its scheduler queues, which orders them by deadline and sheds. With few of
them the others would wait in Ray's router, which knows no deadlines."""
MOST_WAITING = 1024
"""Calls that wait in one ingress while no replica takes more."""


class RayReplica:
    """A Replica as Ray Serve runs it: an actor, with as many threads as Ray gives it cores."""

    def __init__(self, tables: Mapping[str, Mapping[str, Any]]) -> None:
        cores = int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))
        self._replica = Replica(replica_settings(tables, cores), serve.get_replica_context().replica_id.unique_id)

    async def call(self, forwarded: Forwarded) -> Answer:
        """As Replica.call."""
        return await self._replica.call(forwarded)

    def check_health(self) -> None:
        """As Replica.check_health; Ray Serve calls it every health_check_period_s."""
        self._replica.check_health()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """As Replica's; Ray Serve calls it for its autoscaling policy."""
        return self._replica.record_autoscaling_stats()

    async def __del__(self) -> None:
        """Ray Serve awaits it when the replica ends in order."""
        if hasattr(self, "_replica"):
            await self._replica.close()


REPLICA = serve.deployment(
    name="Replica",
    max_ongoing_requests=MOST_ONGOING,
    max_queued_requests=MOST_WAITING,
    health_check_period_s=1.0,
    health_check_timeout_s=10.0,
    graceful_shutdown_wait_loop_s=0.2,
    ray_actor_options={"num_cpus": 1},
    logging_config={"enable_access_log": False},  # a line for each call, which the counts make needless
    autoscaling_config={
        "min_replicas": 1,
        "max_replicas": 4,
        "upscale_delay_s": 5.0,
        "downscale_delay_s": 120.0,
        "policy": {"policy_function": SlackPolicy},
    },
)(RayReplica)
"""The deployment, with the options that a Serve config may change."""


def application(tables: Mapping[str, Mapping[str, Any]]) -> serve.Application:
    """The application that serves by `tables`: those of serve.toml, as the `args` of a Serve config.

    The numbers of replicas and of their cores are Ray's own options of the deployment "Replica". Raises SettingsError
    and ServingError for tables that cannot be served.
    """
    replica_settings(tables, 1)
    return REPLICA.bind(tables)


def add_to_ingress(_: Any, server: Any) -> None:
    """Add our services to Ray's gRPC ingress, for its `grpc_servicer_functions`. Called in its event loop.

    The handlers are ours, not Ray's: they know the client's deadline, they send a call of a dead replica to another
    one, and a status leaves with its details.
    """
    if not hasattr(server, "add_passthrough_service"):
        raise ServingError(f"Ray {ray.__version__} has no services of its own in its ingress; install ray[serve]>=2.60")
    for name in SERVICE_NAMES:
        server.add_passthrough_service(name)
    ingress = Ingress(
        _Asker().ask,
        lost=(RayActorError, ObjectLostError),
        full=(BackPressureError,),
        absent=(DeploymentUnavailableError, RayServeException),
    )
    add_services(ingress, server)
    _background.add(asyncio.get_running_loop().create_task(ingress.watch_health()))


_background: set[asyncio.Task[None]] = set()
"""Tasks that live as long as the ingress' process; the loop itself keeps no reference to them."""


class _Asker:
    """Sends calls to the replicas of the application, by Ray Serve's router."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._finding = asyncio.Lock()

    async def ask(self, forwarded: Forwarded) -> Answer:
        """The answer of a replica. Raises RayActorError where it dies first, and Ray Serve's own errors."""
        if self._handle is None:
            async with self._finding:
                if self._handle is None:
                    self._handle = await asyncio.to_thread(serve.get_app_handle, APPLICATION)
        response = self._handle.call.remote(forwarded)
        try:
            answer: Answer = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        return answer
