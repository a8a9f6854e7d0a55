"""Job: a request on its way through a scheduler; several jobs can be joined to one batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from nested_sparse.argument import finite, shown
from nested_sparse.errors import InputError
from nested_sparse.metadata import INDEPENDENT
from nested_sparse.tensor_spec import TensorSpec, batch_is_free

from ..policy import Waiting
from ..session import Array, Arrays, CheckedInputs, batch_size, check_inputs
from .outcome import Outcome
from .request import Request, Response, allowed_levels, rank_of, time_limit_ms
from .request_queue import Ticket
from .runner import Runner

Outputs = dict[str, Array]


class _Referable:
    """With a place for weak references, which a dataclass with slots lacks (weakref_slot takes Python 3.11)."""

    __slots__ = ("__weakref__",)


@dataclass(eq=False, slots=True)
class Job(_Referable):
    """A request that was taken in.

    inputs: the request's arrays, checked. future: takes the answer; an Outcome, until the job waits for its turn.
    time_limit_ms: time from `received_s` that the client grants; waiting.deadline_s leaves time for the reply.
    entered_s: time at which the scheduler got it; before that it waited elsewhere.
    least_accuracy: lowest accuracy that the client accepts; -inf where it stated none.
    fixed: the client asked for one level.
    client: its name.
    """

    inputs: CheckedInputs
    future: Future[Response] | Outcome
    waiting: Waiting
    received_s: float
    entered_s: float
    time_limit_ms: float
    least_accuracy: float
    fixed: bool
    client: str = ""
    ticket: Ticket | None = None

    def wait(self) -> None:
        """From now on another thread may run it, or end it: its answer gets a future."""
        self.future = Future()

    def is_wanted(self) -> bool:
        """Begin with a job that has waited; False where its client has cancelled it."""
        return not isinstance(self.future, Future) or self.future.set_running_or_notify_cancel()

    def leaves_choice(self, level: int) -> bool:
        """Whether the server chose `level`: the client named neither this level nor it as the lowest."""
        return not self.fixed and (level > self.waiting.lowest_level or self.waiting.lowest_level == 0)

    def batches_with(self, other: Job) -> bool:
        """Whether both may run as one batch: the model's rows are independent, and only the batch sizes differ."""
        if not (self.waiting.joins and other.waiting.joins):
            return False
        return all(_alike(spec, self.inputs, other.inputs) for spec in self.inputs.specs)


@dataclass(frozen=True, slots=True)
class Terms:
    """The rules of a scheduler that hold for each of its requests.

    default_slo_ms: time of a request that states none, and the most that any request gets.
    margin_ms, margin_share: time that is kept for the reply, in milliseconds and as a share of the request's time.
    joins: requests may run together.
    """

    default_slo_ms: float
    margin_ms: float
    margin_share: float
    joins: bool

    def budget_ms(self, limit_ms: float) -> float:
        """Time from arrival to the end of the run, of a request that has `limit_ms`; 0 or less where none is left."""
        return limit_ms * (1.0 - self.margin_share) - self.margin_ms

    def least_limit_ms(self, run_ms: float) -> float:
        """The shortest time limit that a run of `run_ms` fits into; infinite where the reply is given all the time."""
        return (run_ms + self.margin_ms) / (1.0 - self.margin_share) if self.margin_share < 1.0 else math.inf


def make_job(session: Runner, request: Request, terms: Terms, now_s: float) -> Job:
    """The job of a request. It came in at `now_s`, unless it states another time.

    Raises InputError, LevelError; DeadlineError where the client has stopped waiting.
    """
    if not isinstance(request, Request):
        raise InputError(f"request: expected a Request, got {shown(request)}")
    limit_ms = time_limit_ms(request, terms.default_slo_ms)
    inputs = check_inputs(session.inputs, request.inputs)
    lowest, highest = allowed_levels(request, session.levels)
    received_s = now_s if request.received_s is None else finite("received_s", request.received_s)
    budget_ms = terms.budget_ms(limit_ms)
    batch = batch_size(session.inputs, inputs)
    waiting = Waiting(
        deadline_s=received_s + budget_ms / 1e3,
        lowest_level=lowest,
        highest_level=highest,
        batch=batch,
        budget_ms=budget_ms,
        # the model may broadcast inputs of unequal batches: joined, rows of one request would meet those of another
        joins=terms.joins and _has_one_batch(session.inputs, inputs, batch),
        rank=rank_of(request),
        sizes=inputs.sizes,
    )
    return Job(
        inputs,
        Outcome(),
        waiting,
        received_s,
        now_s,
        time_limit_ms=limit_ms,
        least_accuracy=-math.inf if request.min_accuracy is None else float(request.min_accuracy),
        fixed=request.level is not None,
        client=request.client,
    )


def can_join(session: Runner) -> bool:
    """Whether the requests of a model may run as one batch, as its file says.

    They may if every input and output has a free batch, and the file says that rows are independent.
    """
    return session.rows == INDEPENDENT and batch_is_free((*session.inputs, *session.outputs))


def _has_one_batch(specs: Sequence[TensorSpec], inputs: Arrays, batch: int) -> bool:
    for spec in specs:
        axis = spec.batch_axis
        if axis is None or inputs[spec.name].shape[axis] != batch:
            return False
    return True


def _alike(spec: TensorSpec, one: Arrays, other: Arrays) -> bool:
    """Whether the input has the same shape in both, but for the batch."""
    axis, shape, others = spec.batch_axis or 0, one[spec.name].shape, other[spec.name].shape
    return shape[:axis] == others[:axis] and shape[axis + 1 :] == others[axis + 1 :]


def joined(jobs: Sequence[Job]) -> dict[str, Array]:
    """The inputs of all jobs, one after the other along the dimension of the batch."""
    first = jobs[0].inputs
    if len(jobs) == 1:
        return first
    return {
        spec.name: np.concatenate([job.inputs[spec.name] for job in jobs], spec.batch_axis or 0) for spec in first.specs
    }


def parted(outputs: Outputs, jobs: Sequence[Job], specs: Sequence[TensorSpec]) -> list[Outputs] | None:
    """The part of each job; None where an output does not have a row for each sample. specs: of the outputs."""
    if len(jobs) == 1:
        return [outputs]
    ends = np.cumsum([job.waiting.batch for job in jobs])
    parts: list[Outputs] = [{} for _ in jobs]
    for spec in specs:
        array, axis = outputs[spec.name], spec.batch_axis or 0
        if array.ndim <= axis or array.shape[axis] != ends[-1]:
            return None
        for part, piece in zip(parts, np.split(array, ends[:-1], axis), strict=True):
            # a copy: a part that is kept must not keep the whole batch alive, or change with it
            part[spec.name] = piece.copy()
    return parts
