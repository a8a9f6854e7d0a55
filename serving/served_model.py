"""ServedModel: one checkpoint that the server offers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from nested_sparse.level import Level
from nested_sparse.runtime.scheduling import Request, Response, SchedulerStats
from nested_sparse.state import State
from nested_sparse.tensor_spec import TensorSpec

VERSION = "1"
"""The protocol requires a version. It is this one, unless a folder of models gives another."""
PLATFORM = "nested_sparse_onnxruntime"


class Engine(Protocol):
    """The part that runs requests: a Scheduler, or its stand-in in a test."""

    def run_or_queue(self, request: Request) -> Response | Future[Response]:
        """Run the request at once, or queue it. Raises its error, or has it in the future."""

    def replied(self, response: Response) -> None:
        """Note that the event loop has a response of a run in another thread, and sends it."""

    def close(self, grace_s: float) -> None:
        """Refuse new requests, finish the queued ones within `grace_s`, stop."""

    def stats(self) -> SchedulerStats:
        """Its state now."""


@dataclass(slots=True, eq=False)
class ServedModel:
    """One version of a model under its name, with the scheduler that runs it. Equal to nothing but itself.

    default_slo_ms: time from arrival to answer of a request that states none, and the most that any request gets. It
    may change.
    threads, isa: number of threads of a run, and the instruction set of its kernels, of int8 ones where it has them.
    version: a whole number above 0, in digits.
    samples: number of samples that a request may have; 0: the first dimension is not that of a batch.
    joins: whether requests that wait may run as one batch.
    resident_bytes: bytes of its weights that are in memory now; None where the system does not tell.
    state: the outputs that are inputs of the next request of a sequence; empty: it takes no requests of sequences.
    run_ms: profiled time of a run of one sample, in ms, at each level; empty: it was not profiled.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    levels: tuple[Level, ...]
    engine: Engine
    default_slo_ms: float
    threads: int
    isa: str
    version: str = VERSION
    samples: int = 0
    joins: bool = False
    resident_bytes: Callable[[], int | None] = lambda: None
    state: State = field(default_factory=dict)
    run_ms: tuple[float, ...] = ()
