"""Dataplane: the models of one server, free of any transport."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager

from nested_sparse.errors import NotFoundError, StuckError, UnavailableError
from nested_sparse.excerpt import excerpt
from nested_sparse.runtime.scheduling import Response

from .protocol.call import Call, wanted_outputs
from .sequences.store import SequenceLimits, SequenceStore
from .served_model import ServedModel

POLL_S = 0.01


class Dataplane:
    """Finds models by name and runs calls on them, until it drains. Belongs to one event loop.

    models: by name, the version that a call gets which names none: the latest.
    limits: of the sequences; None: the defaults. sequences: those that are kept, of all models.
    stuck: the models that take no calls, because one of their runs is stuck; ModelHealth sets it.
    """

    def __init__(self, models: Sequence[ServedModel], limits: SequenceLimits | None = None) -> None:
        self.sequences = SequenceStore(limits or SequenceLimits())
        self.models: dict[str, ServedModel] = {}
        self._versions: dict[str, dict[str, ServedModel]] = {}
        for model in models:
            self.replace(model.name, [*self.versions(model.name), model])
        self.stuck: set[ServedModel] = set()
        self._held: Counter[ServedModel] = Counter()
        self._draining = False
        self._running: set[asyncio.Future[Response]] = set()
        self._given_up = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def ready(self) -> bool:
        """Whether the server takes new calls."""
        return not self._draining

    def find(self, name: str, version: str = "") -> ServedModel:
        """The model called `name`, of this version; "" stands for the latest. Raises NotFoundError."""
        model = self.models.get(name)
        if model is None:
            raise NotFoundError(f"There is no model '{excerpt(name)}' here; RepositoryIndex lists those that are.")
        if version not in ("", model.version):
            versions = self._versions[name]
            model = versions.get(version)
            if model is None:
                known = ", ".join(map(repr, versions))
                raise NotFoundError(f"Model {name!r} has no version '{excerpt(version)}'; expected {known} or none.")
        return model

    def versions(self, name: str) -> list[ServedModel]:
        """The versions of the model called `name`, the latest last; none where there is no such model."""
        return list(self._versions.get(name, {}).values())

    def every(self) -> list[ServedModel]:
        """All versions of all models."""
        return [model for versions in self._versions.values() for model in versions.values()]

    def replace(self, name: str, models: Sequence[ServedModel]) -> list[ServedModel]:
        """From now on `models` are the versions called `name`. Returns those that were and no longer are."""
        before = self.versions(name)
        kept = sorted(models, key=lambda model: int(model.version))
        if kept:
            self._versions[name], self.models[name] = {model.version: model for model in kept}, kept[-1]
        else:
            self._versions.pop(name, None)
            self.models.pop(name, None)
        gone = [model for model in before if model not in kept]
        self.sequences.drop(gone)
        return gone

    @contextmanager
    def held(self, model: ServedModel) -> Iterator[None]:
        """Keep `model` open while the body waits for something between find() and infer()."""
        self._held[model] += 1
        try:
            yield
        finally:
            self._held[model] -= 1

    async def let_go(self, model: ServedModel) -> None:
        """Wait until no call holds a model that replace() has taken away. From then on no call can reach it."""
        while self._held[model]:
            await asyncio.sleep(POLL_S)
        del self._held[model]

    def check_ready(self) -> None:
        """Raise UnavailableError while draining."""
        if self._draining:
            raise UnavailableError("The server is draining and takes no new requests; send it to another one.")

    async def infer(self, model: ServedModel, call: Call) -> Response:
        """Run `call`; cancelling this coroutine cancels the request.

        Raises InputError, LevelError, StuckError; UnavailableError while draining, and when the drain ends first;
        OverloadedError and DeadlineError where the scheduler answers so.
        """
        self.check_ready()
        if model in self.stuck:
            raise StuckError(f"An inference of {model.name!r} is stuck; send the request to another server.")
        if call.outputs:
            wanted_outputs(call.outputs, model.outputs)  # before the run: nothing is computed for a wrong name
        answer = model.engine.run_or_queue(call.request)
        if isinstance(answer, Response):
            return answer
        try:
            return answer.result() if answer.done() else await self._answer(model, answer)
        finally:
            del answer  # it holds its error, whose traceback holds this frame and with it the request

    async def _answer(self, model: ServedModel, submitted: Future[Response]) -> Response:
        running = asyncio.wrap_future(submitted)
        self._running.add(running)
        self._idle.clear()
        try:
            response = await running
            model.engine.replied(response)
            return response
        except asyncio.CancelledError:
            if self._given_up:
                raise UnavailableError("The server stopped before this was done; send it to another one.") from None
            raise
        finally:
            self._running.discard(running)
            if not self._running:
                self._idle.set()
            del submitted, running  # as in infer()

    async def drain(self, grace_s: float) -> bool:
        """Take no more calls, wait at most `grace_s` for the running ones, and cancel those that last longer.

        Returns whether all of them finished.
        """
        self._draining = True
        if not self._running:  # wait_for would not look at the event where grace_s is 0
            return True
        try:
            await asyncio.wait_for(self._idle.wait(), grace_s)
        except asyncio.TimeoutError:
            self._given_up = True
            for running in self._running:
                running.cancel()
            return False
        return True
