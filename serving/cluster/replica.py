"""Replica: the models of `serve`, with their schedulers and policies, behind the ingress of a cluster."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Coroutine, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from nested_sparse.errors import ServingError, StuckError, UnsupportedError
from nested_sparse.runtime.resources import Governor, ResourceMonitor

from ..commands.serve import SWITCH_S
from ..connections.front import LOAD_FORMAT, load_form, waited_s
from ..dataplane import Dataplane
from ..fault import EndedError, ending_of
from ..health import HealthServicer
from ..http.local_call import LocalCall, LocalContext
from ..load import file_problems
from ..metrics import Metrics
from ..model_health import ModelHealth
from ..rights.gate import Gate
from ..security import Security
from ..served_model import ServedModel
from ..server import receive_limit
from ..servicer import Servicer, generic_handler
from ..settings.parts import limit_config, loader_of, server_config
from ..settings.settings import Settings, read_settings
from .demand import Demand
from .forwarded import Answer, Forwarded

EVERYWHERE = "0.0.0.0"
"""Ray's ingress listens on every address of its machine."""
REPLICA_KEY = "nested-sparse-replica"
"""Trailing metadata that names the replica which answered."""
DEMAND = "needed_replicas"
"""Name of the figure by which the cluster scales, see Demand."""
log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Context(LocalContext):
    """The context of a forwarded call. left_s: seconds that were left to the client when the replica got the call."""

    left_s: float | None = None

    def time_remaining(self) -> float | None:
        """As gRPC's."""
        return self.left_s


class Replica:
    """Serves the models of `settings` to an ingress. Its methods belong to one event loop.

    name: of the replica, for the trailing metadata. Raises SettingsError, CheckpointError and what `serve` raises, and
    ServingError for settings that a cluster does not have.
    """

    def __init__(self, settings: Settings, name: str = "") -> None:
        check_settings(settings)
        self._name = name
        self._opened = ExitStack()
        with ExitStack() as opening:
            self._security = Security(server_config(settings).security, EVERYWHERE)
            models = _opened_models(settings, opening)
            self._opened = opening.pop_all()
        self._metrics = Metrics()
        for model in models:
            self._metrics.watch(model)
        self._dataplane = Dataplane(models)
        self._demand = Demand(models, self._metrics.tallies)
        limit = receive_limit(models, settings.limits.max_batch)
        self._servicer = Servicer(self._dataplane, self._metrics, limit_bytes=limit)
        gate = Gate(self._security.rights, "", self._metrics.count_unread)
        self._open_handlers = (generic_handler(self._servicer),)
        self._handlers = (gate, *self._open_handlers)
        self._health = ModelHealth(HealthServicer(), self._dataplane)
        self._grace_s = settings.limits.grace_s
        self._watches: list[asyncio.Task[None]] = []
        sys.setswitchinterval(SWITCH_S)

    async def call(self, forwarded: Forwarded) -> Answer:
        """The answer to a call. Every error of it is the ending of the answer; cancelling cancels the request."""
        self._watch()
        waited = forwarded.arrival.waited_s()
        waited_s.set(waited)
        for key, value in forwarded.metadata:
            if key == LOAD_FORMAT:
                load_form.set(str(value))
        left_s = None if forwarded.left_s is None else forwarded.left_s - waited
        context = _Context(forwarded.peer, forwarded.metadata, left_s=left_s)
        try:
            handlers = self._open_handlers if forwarded.own else self._handlers
            served = await LocalCall(handlers, forwarded.method, context).run(forwarded.data)
        except EndedError as error:
            return Answer(ending=error.ending)
        except Exception as error:
            return Answer(ending=ending_of(error, forwarded.method))
        data = served if isinstance(served, bytes) else served.SerializeToString()
        return Answer(data, (*context.trailers, (REPLICA_KEY, self._name)))

    def check_health(self) -> None:
        """As Ray Serve's: raises StuckError where a run of every model is stuck. Ray then replaces the replica."""
        self._health.update()
        if self._dataplane.stuck and len(self._dataplane.stuck) == len(self._dataplane.every()):
            names = ", ".join(sorted(model.name for model in self._dataplane.stuck))
            raise StuckError(f"an inference of {names} is stuck, and this replica answers for no other model")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """As Ray Serve's: the replicas that the requests of this one need, since the last call."""
        return {DEMAND: self._demand.replicas()}

    async def close(self) -> None:
        """Take no more calls, finish the running ones within the grace, and free the models."""
        for watch in self._watches:
            watch.cancel()
        await self._dataplane.drain(self._grace_s)
        await asyncio.to_thread(self._opened.close)

    def _watch(self) -> None:
        """Begin to look at the health of the models and at the token file, in the loop of the first call."""
        if not self._watches:
            watches: list[Coroutine[Any, Any, None]] = [self._health.watch()]
            watches += [rotation.watch() for rotation in self._security.rotations]
            self._watches = [asyncio.create_task(watch) for watch in watches]


def replica_settings(tables: Mapping[str, Mapping[str, Any]], cores: int) -> Settings:
    """The settings in `tables`, which are those of serve.toml. Raises SettingsError.

    cores: of the replica, the number of threads of its models where the tables do not say it.
    """
    if not isinstance(tables, Mapping) or not all(isinstance(table, Mapping) for table in tables.values()):
        raise ServingError(f"the application's args: expected tables as those of serve.toml, got {tables!r:.200}")
    models = {"threads": max(1, cores), **tables.get("models", {})}
    return read_settings(None, {**tables, "models": models})


def check_settings(settings: Settings) -> None:
    """Raise ServingError for what a cluster does not have, with what to do in place of it."""
    security, models = settings.security, settings.models
    for is_given, said in (
        (
            settings.address != type(settings.address)(),
            "[address]: the ports of a cluster are those of Ray's grpc_options; leave it out",
        ),
        (security.tls_cert is not None, "[security] tls_cert: Ray's ingress has no TLS; a proxy in front of it has"),
        (security.allow_shared_memory, "[security] allow_shared_memory: a client shares no memory with every replica"),
        (models.model_dir is not None, "[models] model_dir: replicas would load at different times; name files"),
        (bool(settings.fetching.urls), "[fetching] urls: replicas would change at different times; name files"),
        (settings.watching.otlp_endpoint is not None, "[watching] otlp_endpoint: a replica makes no spans"),
    ):
        if is_given:
            raise ServingError(f"a cluster does not have this setting: {said}")


def _opened_models(settings: Settings, opened: ExitStack) -> list[ServedModel]:
    """The models of the settings' files. `opened` closes them, the last one first."""
    for problem in file_problems(settings.models.files):
        raise problem
    governor = Governor(ResourceMonitor(), limit_config(settings.limits))
    loader = loader_of(lambda: settings, governor)
    models = []
    for path in settings.models.files:
        loaded = loader.load(path)
        opened.callback(loaded.close, settings.limits.grace_s)
        models.append(_stateless(loaded.model))
    opened.enter_context(governor)
    return models


def _stateless(model: ServedModel) -> ServedModel:
    """Raise UnsupportedError for a model that keeps states: the calls of a sequence may reach different replicas.

    A replica that got some calls of a sequence would go on from an old state, and its answer would be wrong.
    """
    if model.state:
        raise UnsupportedError(
            f"{model.name} keeps states between the requests of a sequence, and a cluster sends each request to any "
            "replica; serve it by `nested-sparse serve`"
        )
    return model
