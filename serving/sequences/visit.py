"""Visit: one request of a sequence, from its arrival to its answer. Those of a sequence run one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType

from nested_sparse.errors import DeadlineError, InputError, OverloadedError, SequenceError
from nested_sparse.excerpt import excerpts
from nested_sparse.runtime.session import Array, Arrays

from ..protocol.call import Call
from ..served_model import ServedModel
from .first_state import first_state
from .step import SequenceStep
from .store import Sequence, SequenceStore

MOST_VISITS = 64
"""Requests of one sequence that may be under way at once."""
MOST_WAIT_S = 1e6


class Visit:
    """A place in the line of a sequence, as a context. An error in its body leaves the state as it was before.

    Places are in the order in which visits are made. A visit that waited behind one that fails, fails too: its client
    sent it for the state after that one. Raises SequenceError where there is no such sequence and the step starts none,
    OverloadedError where there is no room for it.
    """

    def __init__(self, store: SequenceStore, model: ServedModel, client: str, step: SequenceStep) -> None:
        self._store, self._model, self._step = store, model, step
        key = (model, client, step.id)
        found = store.find(key)
        if found is None:
            if not step.starts:
                raise self._unknown()
            found = store.add(key)
        elif found.visits >= MOST_VISITS:
            raise OverloadedError(f"shed: {MOST_VISITS} requests of {step} are under way already", None)
        self._sequence: Sequence = found
        self._before = found.last if found.visits else None
        self._done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        found.last = self._done
        found.visits += 1
        store.touch(found)

    def __enter__(self) -> Visit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sequence, before = self._sequence, self._before
        sequence.visits -= 1
        self._store.touch(sequence)
        if sequence.state is None and not sequence.visits:
            self._store.remove(sequence)
        if before is None or before.done():
            self._done.set_result(kind is None)
        else:  # those behind go on waiting for those before
            before.add_done_callback(lambda _: self._done.set_result(False))

    async def ready(self, call: Call, left_s: float) -> Call:
        """`call` with the states that it takes, when its turn has come. At a start the sequence begins anew.

        Without outputs named, those that are states are left out of the answer. left_s: time that it may wait.
        Raises DeadlineError, InputError, OverloadedError, SequenceError.
        """
        await self._turn(left_s)
        sequence, given = self._sequence, call.request.inputs
        if sequence.gone:
            raise self._unknown()
        if self._step.starts:
            sequence.state = None
            self._store.resize(sequence, 0)
            states: Mapping[str, Array] = first_state(
                self._model, given, lambda nbytes: self._store.resize(sequence, nbytes)
            )
        else:
            states = self._kept(given)
        hidden = set(self._model.state)
        shown = tuple(spec.name for spec in self._model.outputs if spec.name not in hidden)
        return replace(call, request=replace(call.request, inputs={**given, **states}), outputs=call.outputs or shown)

    def keep(self, outputs: Arrays) -> None:
        """Go on from these outputs: the state of the next request, or none after the last. Raises OverloadedError."""
        sequence = self._sequence
        if sequence.gone:  # with its model
            return
        if self._step.ends:
            self._store.resize(sequence, 0)
            sequence.state = None
            return
        state = {taken: outputs[given] for given, taken in self._model.state.items()}
        self._store.resize(sequence, sum(array.nbytes for array in state.values()))
        sequence.state = state

    async def _turn(self, left_s: float) -> None:
        before = self._before
        if before is None:
            return
        if not before.done():
            await asyncio.wait((before,), timeout=max(0.0, min(left_s, MOST_WAIT_S)))
        if not before.done():
            raise DeadlineError(f"expired: the request before it in {self._step} had not ended in time")
        if not before.result() and not self._step.starts:
            raise SequenceError(
                f"the request before it in {self._step} failed; the state is that after the last request that was "
                "answered: send those after it again"
            )

    def _kept(self, given: Arrays) -> Mapping[str, Array]:
        """The state, for a request with the inputs `given`."""
        state = self._sequence.state
        if state is None:
            raise self._unknown()
        if both := sorted(name for name in state if name in given):
            raise InputError(
                f"The request brings [{excerpts(both)}], which the server keeps in {self._step}; give first values "
                "with sequence_start only."
            )
        return state

    def _unknown(self) -> SequenceError:
        return SequenceError(
            f"{self._model.name!r}, version {self._model.version}, keeps no {self._step} of this client: it was not "
            f"begun, has ended, made way for others, was idle for {self._store.limits.idle_s:g} s, or the model was "
            "loaded again; send its first request with sequence_start"
        )
