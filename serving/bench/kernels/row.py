"""Row: one line of the kernels' benchmark; its Spec says what to measure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..reach import Reach, met
from .int8 import INT8
from .model_cache import LINEAR, MOBILENETV2, RESNET50

FILE_BYTES, RESIDENT_BYTES = "file-bytes", "resident-bytes"
DENSE, DENSE_INT8, OURS, ALONE = "dense", "dense-int8", "ours", "alone"
"""The other sides of rows: ONNX Runtime on the dense model, in float32 or int8; our float32; a file of its own."""


@dataclass(frozen=True, slots=True)
class Spec:
    """One row to measure.

    kind: a network's name, "conv-rate", "level0", FILE_BYTES, RESIDENT_BYTES or "peer", which are ResNet-50's. levels:
    densities of the file's levels; density: of the level that runs, one of them. isa: the instruction set forced on our
    side, "" for the best. peer: its name, for a "peer" row. values: as export stores them. against: one of DENSE,
    DENSE_INT8, OURS, ALONE, for other rows than those of a peer. reach: None where nothing is asked.
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
    against: str = DENSE
    reach: Reach | None = None

    @property
    def name(self) -> str:
        """The name by which `--rows` picks it; no two rows of one run share a name."""
        batch = f"b{self.batch}" if self.kind == LINEAR else ""
        values = "" if self.values == "float32" or self.peer else self.values.replace("float", "f")
        parts = (
            self.kind,
            self.peer,
            self.pattern,
            values,
            f"{100 * self.density:g}",
            batch,
            f"{self.threads}t",
            self.isa,
            "" if self.against == self.usual_against else f"vs-{self.against}",
        )
        return "-".join(part for part in parts if part)

    @property
    def usual_against(self) -> str:
        """The other side of rows of this kind and these values whose names do not say it."""
        by_kind = {FILE_BYTES: OURS, RESIDENT_BYTES: OURS, "level0": ALONE, "peer": DENSE}
        return by_kind.get(self.kind) or {"float32": DENSE, "float16": OURS, INT8: DENSE_INT8}[self.values]

    @property
    def network(self) -> str:
        """The network that runs."""
        return self.kind if self.kind in (LINEAR, MOBILENETV2) else RESNET50

    @property
    def level(self) -> int:
        """The level that runs."""
        return self.levels.index(self.density)

    @property
    def setting(self) -> tuple[object, ...]:
        """Rows with the same setting are measured together, in turns."""
        return self.kind, self.pattern, self.threads, self.levels, self.batch, self.isa, self.values

    @property
    def work(self) -> str:
        """The measured work, in words."""
        kept = f"{self.pattern}, {100 * self.density:g} % kept, {self.values}"
        resnet = f"ResNet-50, batch 1, {kept}"
        return {
            RESNET50: resnet,
            MOBILENETV2: f"MobileNetV2, batch 1, {kept} of the 1 × 1 convolutions and the linear layer",
            "conv-rate": f"FLOP/s on kept weights, ResNet-50's pruned convolutions, {kept}",
            LINEAR: f"linear, batch {self.batch}, {kept}",
            "level0": f"level 0 of {len(self.levels)}, ResNet-50, {kept}",
            FILE_BYTES: f"bytes of the file up to the level, {resnet}",
            RESIDENT_BYTES: f"resident bytes of the level, {resnet}",
            "peer": resnet,
        }[self.kind]


@dataclass(frozen=True, slots=True)
class Row:
    """One row, measured, or the reason why it could not be.

    measured: the ratio that the reach bounds. ours_ms, reference_ms: every sample; ours_bytes, reference_bytes in a row
    of bytes. kernel: our kernels that ran, the one with the most time first. max_error: of our output against
    torch's (turns.Tolerance); reference_error: the same of the other side. note: how to read the row. layers:
    lines per kind of layer, for "conv-rate" rows. unavailable: the reason why it was not measured, else "". other_load:
    number of cores that other processes kept busy meanwhile.
    """

    spec: Spec
    against: str = ""
    measured: float | None = None
    ours_ms: list[float] = field(default_factory=list)
    reference_ms: list[float] = field(default_factory=list)
    ours_bytes: int | None = None
    reference_bytes: int | None = None
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
        """Whether the bound is met; None without a bound or a measurement."""
        return met(self.spec.reach, self.measured)

    def to_json(self) -> dict[str, Any]:
        """All fields, for the JSON line."""
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
            "ours_bytes": self.ours_bytes,
            "reference_bytes": self.reference_bytes,
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
        more = ("ours_bytes", "reference_bytes", "other_load", "versions", "layers")
        samples = line["samples_ms"]
        return Row(
            spec,
            ours_ms=samples["ours"],
            reference_ms=samples["reference"],
            **{name: line[name] for name in (*same, *more)},
        )


def speedup(ours_ms: list[float], reference_ms: list[float]) -> float:
    """Ratio of the medians, reference / ours: how many times faster our side is."""
    return statistics.median(reference_ms) / statistics.median(ours_ms)
