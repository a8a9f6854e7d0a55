"""World: the device, the model and the promise that a simulation is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import InputError

from ..profiling import LatencyProfile
from ..rerouting import RouteTable
from .contention import Contention, quiet

LEVEL_MS = (2.4, 3.9, 6.7, 13.9)
ACCURACY = (0.755, 0.815, 0.875, 0.885)
"""Like the demo's: each level about twice the time of the one before, the last for little."""


@dataclass(frozen=True)
class World:
    """What does not depend on the policy.

    profile: undisturbed times, both what the policies are told and what is true but for noise and contention.
    accuracy: per level.  noise_sigma: of a request's time, lognormal around 1; it belongs to the request.
    routes: where a run may fall to a lower level; None: nowhere. The oracle takes them, too; for a policy, give the
    Scheduler a VirtualGuard of them.
    """

    profile: LatencyProfile = field(default_factory=lambda: LatencyProfile((1,), [[ms] for ms in LEVEL_MS]))
    accuracy: Sequence[float] = ACCURACY
    slo_ms: float = 45.0
    contention: Contention = field(default_factory=quiet)
    noise_sigma: float = 0.05
    seed: int = 0
    routes: RouteTable | None = None

    def __post_init__(self) -> None:
        if len(self.accuracy) != self.profile.level_count:
            raise InputError(
                f"world: the profile has {self.profile.level_count} levels, {len(self.accuracy)} accuracies are given"
            )
        if not self.slo_ms > 0:
            raise InputError(f"world: slo_ms: expected a number above 0, got {self.slo_ms}")

    @property
    def capacity_per_s(self) -> float:
        """Requests per second that the densest level could do if undisturbed, one at a time."""
        return 1e3 / self.profile.predict_ms(self.profile.level_count - 1)

    def noise(self, count: int) -> NDArray[np.float64]:
        """Factors (count,) on the time of each request, by number of arrival."""
        return np.random.default_rng(self.seed).lognormal(0.0, self.noise_sigma, count)
