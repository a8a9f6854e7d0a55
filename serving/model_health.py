"""ModelHealth: tells grpc.health.v1 and the dataplane which models answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from nested_sparse.proto import messages

from .dataplane import Dataplane
from .health import NOT_SERVING, SERVING, HealthServicer
from .served_model import ServedModel

PERIOD_S = 0.5
log = logging.getLogger(__name__)


class ModelHealth:
    """Looks at each model's engine every `period_s`. While a run is stuck, the model is NOT_SERVING and takes no calls.

    The server as a whole ("" and the name of the inference service) is SERVING as long as one model is.
    """

    def __init__(
        self, servicer: HealthServicer, dataplane: Dataplane, models: Sequence[ServedModel], period_s: float = PERIOD_S
    ) -> None:
        self._servicer = servicer
        self._dataplane = dataplane
        self._models = models
        self._period_s = period_s
        self._told: dict[str, int] = {}

    async def watch(self) -> None:
        """Look until this coroutine is cancelled."""
        while True:
            self.update()
            await asyncio.sleep(self._period_s)

    def update(self) -> None:
        """Look once and pass on the changes."""
        stuck = {model.name for model in self._models if model.engine.stats().stuck}
        self._dataplane.stuck = stuck
        whole = NOT_SERVING if stuck and len(stuck) == len(self._models) else SERVING
        statuses = {model.name: NOT_SERVING if model.name in stuck else SERVING for model in self._models}
        for name, status in {"": whole, messages.SERVICE_NAME: whole, **statuses}.items():
            self._tell(name, status)

    def _tell(self, name: str, status: int) -> None:
        if self._told.get(name) == status:
            return
        if name in self._dataplane.models and status == NOT_SERVING:
            log.error("%s: an inference is stuck; the model takes no requests until it ends", name)
        elif name in self._dataplane.models and name in self._told:
            log.info("%s: the stuck inference has ended; the model takes requests again", name)
        self._told[name] = status
        self._servicer.set(name, status)
