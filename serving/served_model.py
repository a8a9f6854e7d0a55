"""ServedModel: one checkpoint that the server offers."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from nested_sparse.level import Level
from nested_sparse.runtime.scheduling import Request, Response, SchedulerStats
from nested_sparse.tensor_spec import TensorSpec

VERSION = "1"
"""The protocol requires a version; a checkpoint has one version."""
PLATFORM = "nested_sparse_onnxruntime"


class Engine(Protocol):
    """The part that runs requests: a Scheduler, or its stand-in in a test."""

    def submit(self, request: Request) -> Future[Response]:
        """Queue the request."""

    def close(self, grace_s: float) -> None:
        """Refuse new requests, finish the queued ones within `grace_s`, stop."""

    def stats(self) -> SchedulerStats:
        """Its state now."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model under its name, with the scheduler that runs it.

    default_slo_ms: time from arrival to answer of a request that states none, and the most that any request gets.
    threads, isa: number of threads of a run, and the instruction set of its kernels.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    levels: tuple[Level, ...]
    engine: Engine
    default_slo_ms: float
    threads: int
    isa: str
