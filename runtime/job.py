"""Job: a request on its way through a scheduler, and several of them as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from nested_sparse.runtime.forecast import Waiting
from nested_sparse.runtime.request import Response
from nested_sparse.runtime.request_queue import Ticket
from nested_sparse.runtime.tensors import Array
from nested_sparse.tensor_spec import TensorSpec

Outputs = dict[str, Array]


@dataclass(eq=False, slots=True)
class Job:
    """inputs: checked. due_s: when the client wants the answer; waiting.deadline_s leaves time for the reply.

    least_accuracy: what the client asked for at least, -inf where it did not. fixed: it asked for one level.
    """

    inputs: dict[str, Array]
    future: Future[Response]
    waiting: Waiting
    received_s: float
    due_s: float
    least_accuracy: float
    fixed: bool
    ticket: Ticket | None = None

    def batches_with(self, other: Job) -> bool:
        """Whether both fit in one batch: equal but for its size."""
        return all(array.shape[1:] == other.inputs[name].shape[1:] for name, array in self.inputs.items())


def can_batch(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec | None]) -> bool:
    """Whether a model takes requests together: the first dimension of all its inputs and outputs is known and free."""
    return all(spec is not None and spec.shape and spec.shape[0] is None for spec in (*inputs, *outputs))


def joined(jobs: Sequence[Job]) -> dict[str, Array]:
    """The inputs of all of them, one after the other."""
    if len(jobs) == 1:
        return jobs[0].inputs
    return {name: np.concatenate([job.inputs[name] for job in jobs]) for name in jobs[0].inputs}


def parted(outputs: Outputs, jobs: Sequence[Job]) -> list[Outputs] | None:
    """Each job's part; None where an output does not have a row for each sample."""
    if len(jobs) == 1:
        return [outputs]
    ends = np.cumsum([job.waiting.batch for job in jobs])
    if any(array.ndim == 0 or len(array) != ends[-1] for array in outputs.values()):
        return None
    # copies: a part that is kept must not keep the whole batch alive
    pieces = {name: [piece.copy() for piece in np.split(array, ends[:-1])] for name, array in outputs.items()}
    return [{name: pieces[name][place] for name in outputs} for place in range(len(jobs))]
