"""Row: one line of the kernels' benchmark; its Spec says what to measure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..reach import Reach, met


@dataclass(frozen=True, slots=True)
class Spec:
    """One row to measure.

    kind: "resnet50", "conv-rate", "linear", "level0" or "peer". levels: densities of the file's levels; density: of the
    level that runs, one of them. isa: the instruction set forced on our side, "" for the best. peer: its name, for a
    "peer" row. values: as export stores them. reach: None where nothing is asked.
    """

    kind: str
    pattern: str
    density: float
    threads: int
    levels: tuple[float, ...]
    batch: int = 1
    isa: str = ""
    peer: str = ""
    values: str = "float32"
    reach: Reach | None = None

    @property
    def name(self) -> str:
        """What `--rows` picks it by; tells apart all rows of one run."""
        batch = f"b{self.batch}" if self.kind == "linear" else ""
        values = "" if self.values == "float32" else self.values.replace("float", "f")
        parts = (
            self.kind,
            self.peer,
            self.pattern,
            values,
            f"{100 * self.density:g}",
            batch,
            f"{self.threads}t",
            self.isa,
        )
        return "-".join(part for part in parts if part)

    @property
    def level(self) -> int:
        """The level that runs."""
        return self.levels.index(self.density)

    @property
    def setting(self) -> tuple[object, ...]:
        """Rows that share it are measured together, taking turns."""
        return self.kind, self.pattern, self.threads, self.levels, self.batch, self.isa, self.values

    @property
    def work(self) -> str:
        """What runs, in words."""
        kept = f"{self.pattern}, {100 * self.density:g} % kept"
        return {
            "resnet50": f"ResNet-50, batch 1, {kept}",
            "conv-rate": f"FLOP/s on kept weights, ResNet-50's pruned convolutions, {kept}",
            "linear": f"linear, batch {self.batch}, {kept}, {self.values}",
            "level0": f"level 0 of {len(self.levels)}, ResNet-50, {kept}",
            "peer": f"ResNet-50, batch 1, {kept}",
        }[self.kind]


@dataclass(frozen=True, slots=True)
class Row:
    """One row, measured, or why it could not be.

    measured: the ratio the reach is about. ours_ms, reference_ms: every sample. kernel: of ours, those that ran, most
    time first. max_error: of our output, relative to the largest magnitude of torch's; reference_error likewise.
    note: what a reader must know. layers: per kind of layer, for "conv-rate" rows. unavailable: why nothing was
    measured, else "". other_load: cores that other processes kept busy meanwhile.
    """

    spec: Spec
    against: str = ""
    measured: float | None = None
    ours_ms: list[float] = field(default_factory=list)
    reference_ms: list[float] = field(default_factory=list)
    kernel: str = ""
    isa: str = ""
    max_error: float | None = None
    reference_error: float | None = None
    note: str = ""
    unavailable: str = ""
    other_load: float | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    layers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def met(self) -> bool | None:
        """None where nothing was asked or nothing could be measured."""
        return met(self.spec.reach, self.measured)

    def to_json(self) -> dict[str, Any]:
        """Everything, for the JSON line."""
        both = {"ours": self.ours_ms, "reference": self.reference_ms}
        timed = {name: samples for name, samples in both.items() if samples}
        return {
            "name": self.spec.name,
            "work": self.spec.work,
            "against": self.against,
            "reach": None if self.spec.reach is None else str(self.spec.reach),
            "measured": self.measured,
            "met": self.met,
            "median_ms": {name: statistics.median(samples) for name, samples in timed.items()},
            "best_ms": {name: min(samples) for name, samples in timed.items()},
            "samples_ms": both,
            "kernel": self.kernel,
            "isa": self.isa,
            "threads": self.spec.threads,
            "density": self.spec.density,
            "max_error": self.max_error,
            "reference_error": self.reference_error,
            "note": self.note,
            "unavailable": self.unavailable,
            "other_load": self.other_load,
            "versions": dict(self.versions),
            "layers": self.layers,
        }

    @staticmethod
    def from_json(spec: Spec, line: Mapping[str, Any]) -> Row:
        """The row of `spec` as another process printed it. Raises KeyError where the line lacks something."""
        same = ("against", "measured", "kernel", "isa", "max_error", "reference_error", "note", "unavailable")
        more = ("other_load", "versions", "layers")
        samples = line["samples_ms"]
        return Row(
            spec,
            ours_ms=samples["ours"],
            reference_ms=samples["reference"],
            **{name: line[name] for name in (*same, *more)},
        )


def speedup(ours_ms: list[float], reference_ms: list[float]) -> float:
    """How many times faster ours is, by the medians."""
    return statistics.median(reference_ms) / statistics.median(ours_ms)
