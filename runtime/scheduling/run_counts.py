"""RunCounts: the number and the time of a model's runs, by the number of samples that ran together."""

from __future__ import annotations

from nested_sparse.record import record

MOST_SIZES = 128
"""Numbers of samples that are told apart: clients choose them, and a table of all would grow without bound."""


@record(frozen=True, slots=True)
class SameSize:
    """The runs of one number of samples. compute_ns: their time, in sum."""

    count: int = 0
    compute_ns: int = 0


class RunCounts:
    """Counts runs that have ended well. Not locked.

    total: number of all runs. by_samples: by number of samples; without the runs of further numbers, once there are
    MOST_SIZES.
    """

    def __init__(self) -> None:
        self.total = 0
        self.by_samples: dict[int, SameSize] = {}

    def add(self, samples: int, compute_ns: int) -> None:
        """Count a run of so many samples."""
        self.total += 1
        before = self.by_samples.get(samples)
        if before is not None or len(self.by_samples) < MOST_SIZES:
            before = before or SameSize()
            self.by_samples[samples] = SameSize(before.count + 1, before.compute_ns + compute_ns)
