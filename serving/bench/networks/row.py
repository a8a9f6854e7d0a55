"""Row: one network of `bench networks`, measured at every level and batch, or the reason why it could not be."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nested_sparse.network import MEASURED, DenseModule, Network

from ..kernels.row import speedup


def _is_measured(module: DenseModule) -> bool:
    return module.why.startswith(MEASURED)


@dataclass(frozen=True, slots=True)
class BatchTimes:
    """Samples of one batch size, in ms. dense: of ONNX Runtime; levels: of each of ours; errors: against torch."""

    batch: int
    dense_ms: Sequence[float]
    levels_ms: Sequence[Sequence[float]]
    errors: Sequence[float]
    dense_error: float

    @property
    def speedups(self) -> list[float]:
        """Per level, how many times as fast as the dense network it is."""
        return [speedup(list(samples), list(self.dense_ms)) for samples in self.levels_ms]

    def to_json(self) -> dict[str, Any]:
        """All fields, medians and speed-ups."""
        return {
            "batch": self.batch,
            "dense_ms": list(self.dense_ms),
            "levels_ms": [list(samples) for samples in self.levels_ms],
            "median_ms": {
                "dense": statistics.median(self.dense_ms),
                "levels": [statistics.median(samples) for samples in self.levels_ms],
            },
            "speedups": self.speedups,
            "slower_than_dense": [level for level, ratio in enumerate(self.speedups) if ratio < 1.0],
            "errors": list(self.errors),
            "dense_error": self.dense_error,
        }


@dataclass(frozen=True, slots=True)
class Seconds:
    """Time of making the files: nesting, our export without verification, and torch.onnx.export alone."""

    nest: float
    export: float
    plain_export: float

    @property
    def ratio(self) -> float:
        """Our two steps over torch's one."""
        return (self.nest + self.export) / self.plain_export


@dataclass(frozen=True, slots=True)
class Row:
    """One network.

    name, source, pattern: of the network. levels: densities. network: the figures of its file. seconds: of making the
    files. times: per batch. unprofitable: the reason why no layer is to be sparse, else "". unavailable: the reason why
    it was not measured, else "". other_load: number of cores that other processes kept busy meanwhile.
    """

    name: str
    source: str
    pattern: str
    levels: tuple[float, ...]
    network: Network | None = None
    seconds: Seconds | None = None
    times: Sequence[BatchTimes] = field(default_factory=tuple)
    unprofitable: str = ""
    unavailable: str = ""
    other_load: float | None = None

    @property
    def reasons(self) -> dict[str, int]:
        """Why modules stay dense, without times, and the number of such modules; the reason of most modules first."""
        modules = self.network.dense if self.network else ()
        return dict(Counter(MEASURED if _is_measured(module) else module.why for module in modules).most_common())

    @property
    def measured(self) -> dict[str, str]:
        """The layers that are dense by measurement, with their times in words."""
        return {
            module.name: module.why for module in (self.network.dense if self.network else ()) if _is_measured(module)
        }

    @property
    def max_error(self) -> float | None:
        """The largest error of any level and batch."""
        return max((error for times in self.times for error in times.errors), default=None)

    def to_json(self) -> dict[str, Any]:
        """All fields, for the JSON line."""
        network, seconds = self.network, self.seconds
        return {
            "name": self.name,
            "source": self.source,
            "pattern": self.pattern,
            "levels": list(self.levels),
            "flops": network and network.flops,
            "weights": network and network.weights,
            "sparse_share": network and network.sparse_share,
            "dense_layers": self.reasons,
            "dense_by_measurement": self.measured,
            "unprofitable": self.unprofitable,
            "max_error": self.max_error,
            "seconds": seconds
            and {
                "nest": seconds.nest,
                "export": seconds.export,
                "plain_export": seconds.plain_export,
                "ratio": seconds.ratio,
            },
            "batches": [times.to_json() for times in self.times],
            "unavailable": self.unavailable,
            "other_load": self.other_load,
        }
