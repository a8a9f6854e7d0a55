"""ModelHealth: tells grpc.health.v1 and the dataplane which models answer."""

from __future__ import annotations

import asyncio
import logging

from nested_sparse.proto import messages

from .dataplane import Dataplane
from .health import NOT_SERVING, SERVING, HealthServicer

PERIOD_S = 0.5
MOST_GONE = 256
"""Most names of models and versions that are remembered after these were taken away; older ones are unknown."""
log = logging.getLogger(__name__)


class ModelHealth:
    """Looks at each model's engine every `period_s`. While a run is stuck, the model is NOT_SERVING and takes no calls.

    A model's name stands for its latest version, and NAME/VERSION for each of them. A model that was taken away is
    NOT_SERVING, and unknown after MOST_GONE others: versions may come and go for months. The server as a whole ("" and
    the name of the inference service) is SERVING as long as one model is, or where there is none.
    """

    def __init__(self, servicer: HealthServicer, dataplane: Dataplane, period_s: float = PERIOD_S) -> None:
        self._servicer = servicer
        self._dataplane = dataplane
        self._period_s = period_s
        self._told: dict[str, int] = {}
        self._gone: dict[str, None] = {}  # in the order in which they went
        self._were_stuck: set[str] = set()

    async def watch(self) -> None:
        """Look until this coroutine is cancelled."""
        while True:
            self.update()
            await asyncio.sleep(self._period_s)

    def update(self) -> None:
        """Look once and pass on the changes."""
        models = self._dataplane.every()
        stuck = self._dataplane.stuck = {model for model in models if model.engine.stats().stuck}
        whole = NOT_SERVING if stuck and len(stuck) == len(models) else SERVING
        here = {f"{model.name}/{model.version}": model for model in models} | self._dataplane.models
        statuses = {name: NOT_SERVING if model in stuck else SERVING for name, model in here.items()}
        for name, status in {"": whole, messages.SERVICE_NAME: whole, **statuses}.items():
            self._gone.pop(name, None)
            self._tell(name, status, name in here and here[name] in stuck)
        known = {"", messages.SERVICE_NAME, *here, *self._gone}
        for name in [each for each in self._told if each not in known]:
            self._tell(name, NOT_SERVING, stuck=False)
            self._gone[name] = None
        while len(self._gone) > MOST_GONE:
            self._forget(next(iter(self._gone)))

    def _forget(self, name: str) -> None:
        del self._gone[name], self._told[name]
        self._were_stuck.discard(name)
        self._servicer.forget(name)

    def _tell(self, name: str, status: int, stuck: bool) -> None:
        if self._told.get(name) == status:
            return
        if "/" not in name:  # the state of a version is logged, once
            pass
        elif stuck:
            log.error("%s: an inference is stuck; the model takes no requests until it ends", name)
            self._were_stuck.add(name)
        elif name in self._were_stuck and status == SERVING:
            log.info("%s: the stuck inference has ended; the model takes requests again", name)
            self._were_stuck.discard(name)
        self._told[name] = status
        self._servicer.set(name, status)
