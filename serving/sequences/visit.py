"""Visit: one request of a sequence, from its arrival to its answer. Those of a sequence run one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import TracebackType

from nested_sparse.errors import DeadlineError, InputError, OverloadedError, SequenceError
from nested_sparse.excerpt import excerpts
from nested_sparse.proto.messages import InferParameter
from nested_sparse.runtime.session import Array, Arrays

from ..protocol.call import Call
from ..protocol.parameters import SEQUENCE
from ..served_model import ServedModel
from .first_state import first_state, given_batch
from .sequence import Sequence
from .source import StreamSource, stream_source
from .step import SequenceStep, faulty_step
from .store import SequenceStore

MOST_VISITS = 64
"""Requests of one sequence that may be under way at once."""
FULL_RETRY_MS = 10.0
"""Time after which a start that found a full line may find a place."""
MOST_WAIT_S = 1e6


class Visit:
    """A place in the line of a sequence, as a context. An error in its body leaves the state as it was before.

    Places are in the order in which visits are made. A visit behind one that failed fails too, if its client may have
    sent it for the state after that one: see Sequence. Raises SequenceError where there is no such sequence and the
    step starts none, or where it is such a visit; OverloadedError where there is no room for it.
    """

    def __init__(self, store: SequenceStore, model: ServedModel, client: str, step: SequenceStep) -> None:
        self._store, self._model, self._step = store, model, step
        source = self._source = stream_source.get()
        key = (model, client, step.id)
        found = store.find(key)
        if found is None:
            if not step.starts:
                raise self._unknown()
            found = store.add(key)
        found.arrive(source, step.starts)
        if not step.starts and found.refuses(source):
            _fail(store, found, source)
            raise self._uncertain()
        if found.visits >= MOST_VISITS:
            _fail(store, found, source)
            raise OverloadedError(
                f"shed: {MOST_VISITS} requests of {step} are under way already; send its first request again with "
                "sequence_start when some are answered, because those behind this one are refused",
                FULL_RETRY_MS if step.starts else None,  # any other request depends on one that was not taken in
            )
        if step.starts:
            found.begin(source)
        self._sequence: Sequence = found
        self._before = found.last if found.visits else None
        self._done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        found.last = self._done
        found.visits += 1

    def __enter__(self) -> Visit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sequence, before = self._sequence, self._before
        sequence.visits -= 1
        if kind is not None and sequence.last is self._done:
            sequence.fail(self._source)
        self._store.tidy(sequence)
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
        samples, kept = given_batch(self._model, given), given_batch(self._model, states)
        if None not in (samples, kept) and samples != kept:
            raise InputError(
                f"The number of samples of the request is {samples}, that of the states of {self._step} is {kept}; "
                "expected the same number from the start of a sequence to its end."
            )
        hidden = set(self._model.state)
        shown = tuple(spec.name for spec in self._model.outputs if spec.name not in hidden)
        return replace(call, request=replace(call.request, inputs={**given, **states}), outputs=call.outputs or shown)

    def keep(self, outputs: Arrays) -> None:
        """Go on from these outputs: the state of the next request, or none after the last. Raises OverloadedError."""
        sequence = self._sequence
        if sequence.gone:  # with its model, or for others
            return
        if self._step.ends:
            self._store.resize(sequence, 0)
            sequence.state = None
            return
        state = {taken: outputs[given] for given, taken in self._model.state.items()}
        self._store.resize(sequence, sum(array.nbytes for array in state.values()))
        sequence.state = state
        self._store.touch(sequence)

    async def _turn(self, left_s: float) -> None:
        before = self._before
        if before is None:
            return
        if not before.done():
            await asyncio.wait((before,), timeout=max(0.0, min(left_s, MOST_WAIT_S)))
        if not before.done():
            raise DeadlineError(f"expired: the request before it in {self._step} had not ended in time")
        if not before.result() and not self._step.starts:
            raise self._uncertain()

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

    def _uncertain(self) -> SequenceError:
        else_ = "" if self._source is None else ", or go on in a new stream from the state after its last answer"
        return SequenceError(
            f"a request before it in {self._step} failed, and this one may have been sent for the state after it; send "
            f"the first request again, with sequence_start{else_}"
        )

    def _unknown(self) -> SequenceError:
        return SequenceError(
            f"{self._model.name!r}, version {self._model.version}, keeps no {self._step} of this client: it was not "
            "begun, has ended, failed while other requests of it were under way, made way for others, was idle for "
            f"{self._store.limits.idle_s:g} s, or the model was loaded again; send its first request "
            "with sequence_start"
        )


def missed(
    store: SequenceStore, models: Iterable[ServedModel], client: str, parameters: Mapping[str, InferParameter]
) -> None:
    """Note a request with these parameters that failed before it had a place: those behind it may count on it.

    models: those that it may be for. Where its sequence cannot be told, and it came in a stream, it counts for all
    sequences of that stream.
    """
    if not any(name in parameters for name in SEQUENCE):
        return
    source, step, models = stream_source.get(), faulty_step(parameters), list(models)
    if source is not None and (step is None or not models):
        source.unread += 1
        return
    for model in models if step is not None else ():
        assert step is not None
        sequence = store.find((model, client, step.id))
        if sequence is None:
            continue
        sequence.arrive(source, step.starts)
        if step.starts:  # forgets the old state at once, as one that has a place
            sequence.overlapped = True
        _fail(store, sequence, source)


def _fail(store: SequenceStore, sequence: Sequence, source: StreamSource | None) -> None:
    """A request failed at the end of the line, without a place in it."""
    sequence.fail(source)
    store.tidy(sequence)
