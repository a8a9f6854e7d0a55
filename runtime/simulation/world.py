"""World: the device, the model and the SLO of a simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import InputError

from ..profiling import LatencyProfile
from ..rerouting import RouteTable
from .contention import Contention, quiet
from .hand_overs import HandOvers

LEVEL_MS = (2.4, 3.9, 6.7, 13.9)
ACCURACY = (0.755, 0.815, 0.875, 0.885)
"""Like the demo's: each level about twice the time of the one before, the last for little."""


@dataclass(frozen=True)
class World:
    """The parts of a simulation that do not depend on the policy.

    profile: undisturbed times; policies are told them, and they are true except for noise and contention.
    accuracy: per level.  noise_sigma: of a request's time, lognormal around 1; it belongs to the request.
    routes: where a run may fall to a lower level; None: nowhere. The oracle takes them, too; for a policy, give the
    Scheduler a VirtualGuard of them.
    hand_over_ms: mean wait of a request at each change of thread, which the oracle does not know of.
    """

    profile: LatencyProfile = field(default_factory=lambda: LatencyProfile((1,), [[ms] for ms in LEVEL_MS]))
    accuracy: Sequence[float] = ACCURACY
    slo_ms: float = 45.0
    contention: Contention = field(default_factory=quiet)
    noise_sigma: float = 0.05
    seed: int = 0
    routes: RouteTable | None = None
    hand_over_ms: float = 0.0

    def __post_init__(self) -> None:
        if len(self.accuracy) != self.profile.level_count:
            raise InputError(
                f"world: the profile has {self.profile.level_count} levels, {len(self.accuracy)} accuracies are given"
            )
        if not self.slo_ms > 0:
            raise InputError(f"world: slo_ms: expected a number above 0, got {self.slo_ms}")

    @property
    def capacity_per_s(self) -> float:
        """Requests per second that the undisturbed densest level can answer, one at a time."""
        return 1e3 / self.profile.predict_ms(self.profile.level_count - 1)

    def hand_overs(self, count: int) -> HandOvers:
        """The waits of each request, by number of arrival."""
        return HandOvers.drawn(count, self.hand_over_ms, self.seed)

    def noise(self, count: int) -> NDArray[np.float64]:
        """Factors (count,) on the time of each request, by number of arrival."""
        return np.random.default_rng(self.seed).lognormal(0.0, self.noise_sigma, count)
