"""ServedModel: one checkpoint as the server offers it."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from nested_sparse.level import Level
from nested_sparse.runtime.scheduling import Request, Response, SchedulerStats
from nested_sparse.tensor_spec import TensorSpec

VERSION = "1"
"""The protocol wants a version; a checkpoint has one."""
PLATFORM = "nested_sparse_onnxruntime"


class Engine(Protocol):
    """What runs the requests: nested_sparse.runtime.scheduling.scheduler.Scheduler, or a test's stand-in."""

    def submit(self, request: Request) -> Future[Response]:
        """Queue the request."""

    def close(self, grace_s: float) -> None:
        """Refuse new requests, finish the queued ones within `grace_s`, stop."""

    def stats(self) -> SchedulerStats:
        """Where it stands now."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model under its name, with the scheduler that runs it.

    default_slo_ms: the bound of a request that brings none.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    levels: tuple[Level, ...]
    engine: Engine
    default_slo_ms: float
    threads: int
    isa: str
