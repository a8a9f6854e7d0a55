"""Experiment: all configurations under all conditions in one run, taking turns every few seconds."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from nested_sparse.errors import BenchError

from .cell import Cell, Load, MakeTrace, Span, rotated, segments
from .co_runner import CoRunner, co_runner
from .open_loop import Arrival, Event, Outcome, open_loop
from .reference import Graded, Reference
from .score import Score, missed_before_adapting, score_of
from .workload import Workload

CLIENT_NICE = -10


@contextmanager
def preferred() -> Iterator[None]:
    """Within, this process has a higher priority, where it may raise it.

    The client stands for another machine, which the server's co-runner would not slow down.
    """
    try:
        before = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, 0, CLIENT_NICE)
    except (OSError, AttributeError):  # not allowed, or no such thing here
        yield
        return
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)


@dataclass(frozen=True, slots=True)
class Contender:
    """A running server. level: its fixed level, None where it chooses; pid: 0 for a server that another user runs."""

    name: str
    address: str
    model: str
    level: int | None = None
    pid: int = 0


@dataclass(slots=True)
class CellResult:
    """rounds: by contender, the graded requests of each of its segments, in order of arrival."""

    cell: Cell
    span: Span
    rounds: dict[str, list[list[Graded]]] = field(default_factory=dict)

    @property
    def scores(self) -> dict[str, Score]:
        """By contender, over all its segments."""
        return {name: score_of([each for part in parts for each in part]) for name, parts in self.rounds.items()}

    def missed_before_adapting(self, name: str) -> list[int]:
        """By segment, what `name` missed after the co-runner came and before its level had adapted."""
        return [missed_before_adapting(part, self.span.begin_s) for part in self.rounds[name]]


@dataclass(slots=True)
class Experiment:
    """The servers and the conditions. unavailable: by kind of co-runner, why it is not possible here; set by run()."""

    contenders: Sequence[Contender]
    workload: Workload
    reference: Reference
    load: Load
    slo_ms: float
    traces: Mapping[str, MakeTrace]
    co_runners: Sequence[str]
    seed: int = 0
    connections: int = 1
    unavailable: dict[str, str] = field(default_factory=dict)

    def run(self, progress: Callable[[str], None] = lambda text: None) -> list[CellResult]:
        """Measure every cell. Rounds are the outermost loop, so that a drift of the machine affects all cells alike."""
        gc.collect()
        gc.freeze()  # a collection over all objects would delay the schedule by tens of milliseconds
        with ExitStack() as stack:
            ready = self._co_runners(stack)
            cells = [Cell(trace, kind) for trace in self.traces for kind in ready]
            turns = {cell: self._segments(cell) for cell in cells}
            results = {cell: CellResult(cell, self.load.span) for cell in cells}
            stack.enter_context(preferred())  # last: processes started before keep their own priority
            for turn in range(self.load.rounds):
                for number, cell in enumerate(cells):
                    progress(f"round {turn + 1} of {self.load.rounds}: {cell}")
                    for contender in self._in_turn(turn + number):
                        graded = self.segment(contender, turns[cell][turn], ready[cell.co_runner], self.load.span)
                        results[cell].rounds.setdefault(contender.name, []).append(graded)
        return [self._ordered(result) for result in results.values()]

    def segment(
        self, contender: Contender, arrivals: Sequence[Arrival], neighbour: CoRunner, span: Span
    ) -> list[Graded]:
        """One turn of one contender. Every request of it has ended when this returns."""
        events = [Event(span.begin_s, neighbour.start), Event(span.end_s, neighbour.stop)]
        items = self.workload.items
        try:
            outcomes: list[Outcome] = asyncio.run(
                open_loop(
                    contender.address,
                    contender.model,
                    arrivals,
                    items,
                    self.slo_ms,
                    events=events,
                    connections=self.connections,
                )
            )
        finally:
            neighbour.stop()
        return [self.reference.grade(outcome) for outcome in outcomes]

    def _segments(self, cell: Cell) -> list[list[Arrival]]:
        return segments(cell, self.traces[cell.trace], self.load, len(self.workload.items), self.seed)

    def _in_turn(self, turn: int) -> list[Contender]:
        by_name = {contender.name: contender for contender in self.contenders}
        return [by_name[name] for name in rotated(list(by_name), turn)]

    def _co_runners(self, stack: ExitStack) -> dict[str, CoRunner]:
        pids = [contender.pid for contender in self.contenders if contender.pid]
        ready: dict[str, CoRunner] = {}
        for kind in self.co_runners:
            try:
                ready[kind] = stack.enter_context(co_runner(kind, pids))
            except BenchError as error:
                self.unavailable[kind] = str(error)
        return ready

    def _ordered(self, result: CellResult) -> CellResult:
        result.rounds = {contender.name: result.rounds[contender.name] for contender in self.contenders}
        return result
