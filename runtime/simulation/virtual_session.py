"""VirtualSession: a session whose runs only take virtual time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nested_sparse.errors import InputError
from nested_sparse.excerpt import excerpt
from nested_sparse.level import ACCURACY, Level
from nested_sparse.tensor_spec import TensorSpec

from ..profiling import LatencyProfile
from ..session import Array, Arrays, Guard
from .contention import Contention, quiet
from .virtual_clock import VirtualClock
from .virtual_guard import VirtualGuard

INPUT, OUTPUT = "x", "y"


@dataclass(frozen=True, slots=True)
class VirtualRun:
    """One run that took place.

    level, end_level: those it began and ended at.  requests: numbers of the requests it answered.
    score: expected accuracy of its answers; NaN if the levels state none.
    """

    started_s: float
    ended_s: float
    level: int
    end_level: int
    requests: tuple[int, ...]
    score: float


class VirtualSession:
    """A run takes the profile's time × the noise of its requests, in which `contention` lets the clock advance.

    Its one input is x, float32 (batch, 3): column 0 is the number of the request, by which its noise is found, so that
    a request costs the same whenever, beside whatever and under whichever policy it runs (a batch: the mean of its
    members). Beyond the end of `noise`, and without any, it is 1. The output y is x + level.

    accuracy: per level, what a checkpoint would state; None: nothing.  fault: raised by every run, after its time.
    """

    def __init__(
        self,
        clock: VirtualClock,
        profile: LatencyProfile,
        accuracy: Sequence[float | None],
        contention: Contention | None = None,
        noise: Sequence[float] = (),
    ) -> None:
        self.name = "virtual"
        self.accuracy = tuple(accuracy)
        self.fault: Exception | None = None
        self.runs: list[VirtualRun] = []
        self.inputs = (TensorSpec(INPUT, "float32", (None, 3), (1, 3)),)
        self.outputs = (TensorSpec(OUTPUT, "float32", (None, 3), (1, 3)),)
        self.rows: str | None = None
        self.levels = tuple(
            Level(index, (index + 1) / profile.level_count, 1, 1, {} if stated is None else {ACCURACY: stated})
            for index, stated in enumerate(self.accuracy)
        )
        self._clock = clock
        self._profile = profile
        self._contention = quiet() if contention is None else contention
        self._noise = np.asarray(noise, np.float64)

    @staticmethod
    def numbered(request: int) -> dict[str, Array]:
        """Inputs of the request of that number, batch 1."""
        return {INPUT: np.array([[request, 0, 0]], np.float32)}

    def run(self, inputs: Arrays, level: int, guard: Guard | None = None) -> dict[str, Array]:
        """Lets the time of one run pass. An armed VirtualGuard may lower the level on the way.

        Raises InputError: a guard that knows no virtual time, or is not armed for this run.
        """
        rows = inputs[INPUT]
        numbers = tuple(int(number) for number in rows[:, 0].astype(np.int64))
        noise = float(np.mean([self._noise[each] if each < len(self._noise) else 1.0 for each in numbers]))
        started_s = self._clock()
        lowering = None
        if guard is None:
            end = level
            self._work(self._profile.predict_ms(level, len(rows)) * noise)
        elif isinstance(guard, VirtualGuard):
            self._work_guarded(level, len(rows), noise, guard)
            end, lowering = guard.level, guard.lowering
        else:
            raise InputError(f"guard: a virtual session needs a VirtualGuard, got {excerpt(guard)}")
        score = self.accuracy[end] if lowering is None else lowering.accuracy
        score = math.nan if score is None else score
        run = VirtualRun(
            started_s=started_s, ended_s=self._clock(), level=level, end_level=end, requests=numbers, score=score
        )
        self.runs.append(run)
        if self.fault is not None:
            raise self.fault
        return {OUTPUT: np.add(rows, end, dtype=np.float32)}

    def stop_run(self, thread: int, begun_before_s: float) -> None:
        """As Session.stop_run. In virtual time no run is under way while another thread could ask to end it."""

    def _work_guarded(self, level: int, batch: int, noise: float, guard: VirtualGuard) -> None:
        """Passes the time from one place where the level may fall to the next."""
        share = guard.table.remaining_share
        with guard.running(level, len(self.levels)) as cell:
            guard.begin(self._clock)
            left = 1.0
            for n in guard.places:
                self._pass_share(left - float(share[cell.value, n]), batch, noise, cell.value)
                guard.arrive(n)
                left = float(share[cell.value, n])
            self._pass_share(left, batch, noise, cell.value)

    def _pass_share(self, share: float, batch: int, noise: float, level: int) -> None:
        self._work(self._profile.predict_ms(level, batch) * share * noise)

    def _work(self, work_ms: float) -> None:
        self._clock.advance_to(float(self._contention.end_s(self._clock(), work_ms / 1e3)))
