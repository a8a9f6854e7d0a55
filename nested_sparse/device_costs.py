"""DeviceCosts: the time that each layer takes on one device, as a curve over the weights it keeps; a JSON file.

`nested-sparse profile FILE --costs OUT.json` measures them, and a budget by latency reads them (nested_sparse.latency).
The file may come from another device and may have been edited by hand, so every entry is checked.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .argument import as_float, as_whole, file_path, shown
from .errors import BudgetError
from .excerpt import excerpt, excerpts
from .layouts import PATTERNS
from .regular_file import read_regular
from .time_curve import TimeCurve

FORMAT = "nested-sparse costs"
VERSION = 1
MOST_BYTES = 1 << 24
"""Largest file that is read; a layer with two patterns takes some 600 bytes."""
MOST_LAYERS = 10_000
MOST_POINTS = 65
ROUNDING = 1e-6
"""Share of a slope by which the next may be smaller: what rounding makes of equal ones."""
MOST_BATCH = 1 << 40
MOST_WEIGHTS = 1 << 62
LONGEST_MS = 1e9
"""Longest time that is taken for a measurement: eleven days."""


@dataclass(frozen=True, slots=True)
class LayerCosts:
    """The times of one layer.

    op: its kind. rows, columns: its weight is (rows, columns). positions: output pixels or rows in one sample.
    patterns: the curve of each measured pattern. whole_ms: the time with all weights kept, of a layer that the measured
    file keeps whole at every level; None for others. dense_ms: the time of ONNX Runtime's operator with the dense
    weight in the layer's place, among sparse layers, with all that it takes there: the norm, the clamp, other forms of
    images; None where it was not measured.
    """

    op: str
    rows: int
    columns: int
    positions: int
    patterns: Mapping[str, TimeCurve]
    whole_ms: float | None = None
    dense_ms: float | None = None

    def ms_when_whole(self, pattern: str) -> float:
        """Time with all weights kept. pattern: the one whose curve is taken where the layer was not measured whole."""
        if self.whole_ms is not None:
            return self.whole_ms
        curve = self.patterns.get(pattern)
        return min(float(each.ms(self.size)) for each in ([curve] if curve else self.patterns.values()))

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.rows * self.columns


@dataclass(frozen=True, slots=True)
class DeviceCosts:
    """The times of a network's layers on one device, in a run of one batch.

    device: words for the processor. isa, int8_isa: instruction sets of the kernels; int8_isa is "" without int8 layers.
    threads: threads of a run. values: value type of the file's layers, e.g. "int8". other_ms: the time of a run beside
    the layers. layers: by dotted path in the torch model. dense_ms: the time of a run of the plain network, without
    levels, in ONNX Runtime alone; None where it was not measured. batch: samples of the measured runs.
    where: the file, for errors.
    """

    device: str
    isa: str
    int8_isa: str
    threads: int
    values: str
    other_ms: float
    layers: Mapping[str, LayerCosts]
    dense_ms: float | None = None
    batch: int = 1
    where: str = field(default="costs", compare=False)

    def to_json(self) -> str:
        """The text of the file, one line for each layer."""
        head = {
            "format": FORMAT,
            "version": VERSION,
            "device": self.device,
            "isa": self.isa,
            "int8_isa": self.int8_isa,
            "threads": self.threads,
            "values": self.values,
            **({} if self.batch == 1 else {"batch": self.batch}),
            "other_ms": self.other_ms,
            **({} if self.dense_ms is None else {"dense_ms": self.dense_ms}),
        }
        lines = [f"    {json.dumps(name)}: {json.dumps(_layer_json(layer))}" for name, layer in self.layers.items()]
        body = json.dumps(head, indent=2, allow_nan=False).removesuffix("\n}")
        return f'{body},\n  "layers": {{\n' + ",\n".join(lines) + "\n  }\n}\n"

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> DeviceCosts:
        """The costs in a file. Raises BudgetError, which names the file and the faulty entry; InputError: no path."""
        path = file_path("costs", path)
        where = excerpt(path)
        try:
            content = read_regular(path, MOST_BYTES)
        except OSError as error:
            raise BudgetError(f"{where}: cannot be read ({error.strerror or error}); {_ADVICE}") from None
        try:
            raw = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise BudgetError(f"{where}: is not JSON ({excerpt(error)}); {_ADVICE}") from None
        return cls.from_mapping(raw, where)

    @classmethod
    def from_mapping(cls, raw: object, where: str = "costs") -> DeviceCosts:
        """The costs in the form of the file, as json.loads returns it. Raises BudgetError, which names `where`."""
        entries = _Entries(raw, where)
        if entries.get("format", str) != FORMAT:
            raise BudgetError(f"{where}: is no file of costs: it has no format {FORMAT!r}; {_ADVICE}")
        if entries.raw.get("version") != VERSION:
            raise BudgetError(
                f"{where}: has version {shown(entries.raw.get('version'))}, this package reads {VERSION}; {_ADVICE}"
            )
        layers = _Entries(entries.get("layers", dict), f"{where}: layers")
        if not 1 <= len(layers.raw) <= MOST_LAYERS:
            raise BudgetError(f"{where}: layers: expected 1 to {MOST_LAYERS} of them, got {len(layers.raw)}")
        return cls(
            device=entries.get("device", str),
            isa=entries.get("isa", str),
            int8_isa=entries.get("int8_isa", str),
            threads=entries.whole("threads", 1, 1 << 16),
            values=entries.get("values", str),
            other_ms=entries.ms("other_ms"),
            layers={
                str(name): _layer(_Entries(each, f"{where}: {excerpt(name)}")) for name, each in layers.raw.items()
            },
            dense_ms=entries.optional_ms("dense_ms"),
            batch=entries.whole("batch", 1, MOST_BATCH) if "batch" in entries.raw else 1,
            where=where,
        )

    def layer(self, name: str, op: str, rows: int, columns: int) -> LayerCosts:
        """The costs of a layer with a weight of this size. Raises BudgetError where there are none."""
        found = self.layers.get(name)
        if found is None:
            known = excerpts(self.layers)
            raise BudgetError(
                f"{self.where}: there are none of layer '{excerpt(name)}', only of {known}; {_OF_THIS_NET}"
            )
        if (found.op, found.rows, found.columns) != (op, rows, columns):
            raise BudgetError(
                f"{self.where}: layer '{excerpt(name)}' is a {found.op} of {found.rows}x{found.columns} weights there, "
                f"and a {op} of {rows}x{columns} in the model; {_OF_THIS_NET}"
            )
        return found


_ADVICE = "make one with `nested-sparse profile FILE --costs OUT.json`"
_OF_THIS_NET = "profile a file of this model, e.g. one that was nested with other densities and exported untrained"


_WORDS = {"str": "a text", "dict": "an object with names", "list": "a list"}


class _Entries:
    """An object of JSON, of which every entry is checked. where: its place, for errors."""

    def __init__(self, raw: object, where: str) -> None:
        if not isinstance(raw, Mapping):
            raise BudgetError(f"{where}: expected an object with names, got {shown(raw)}; {_ADVICE}")
        self.raw, self.where = raw, where

    def get(self, key: str, kind: type) -> Any:
        value = self.raw.get(key)
        if not isinstance(value, Mapping if kind is dict else kind):
            raise self.error(key, _WORDS[kind.__name__], value)
        return value

    def whole(self, key: str, least: int, most: int) -> int:
        number = as_whole(self.raw.get(key))
        if number is None or not least <= number <= most:
            raise self.error(key, f"a whole number from {least} to {most}", self.raw.get(key))
        return number

    def ms(self, key: str) -> float:
        number = _time(self.raw.get(key))
        if number is None:
            raise self.error(key, f"a number from 0 to {LONGEST_MS:g}", self.raw.get(key))
        return number

    def optional_ms(self, key: str) -> float | None:
        return None if self.raw.get(key) is None else self.ms(key)

    def error(self, key: str, expected: str, got: object) -> BudgetError:
        return BudgetError(f"{self.where}: {key}: expected {expected}, got {shown(got)}; {_ADVICE}")


def _time(value: object) -> float | None:
    number = as_float(value)
    return number if number is not None and math.isfinite(number) and 0 <= number <= LONGEST_MS else None


def _layer(entries: _Entries) -> LayerCosts:
    rows, columns = entries.whole("rows", 1, MOST_WEIGHTS), entries.whole("columns", 1, MOST_WEIGHTS)
    patterns = _Entries(entries.get("patterns", dict), entries.where)
    unknown = [name for name in patterns.raw if name not in PATTERNS]
    if unknown:
        raise entries.error("patterns", f"names of patterns ({', '.join(PATTERNS)})", unknown[0])
    whole_ms = entries.optional_ms("whole_ms")
    if not patterns.raw and whole_ms is None:
        raise entries.error("patterns", "at least one, or whole_ms", patterns.raw)
    return LayerCosts(
        op=entries.get("op", str),
        rows=rows,
        columns=columns,
        positions=entries.whole("positions", 0, MOST_WEIGHTS),
        patterns={
            name: _curve(_Entries(each, f"{entries.where}: {name}"), rows * columns)
            for name, each in patterns.raw.items()
        },
        whole_ms=whole_ms,
        dense_ms=entries.optional_ms("dense_ms"),
    )


def _curve(entries: _Entries, size: int) -> TimeCurve:
    knots, points = _pairs(entries, "knots", size), _pairs(entries, "points", size, least=0)
    kept, ms = np.array(knots, np.float64).T
    slopes = np.diff(ms) / np.maximum(np.diff(kept), 1)
    if kept[0] or (np.diff(kept) <= 0).any() or (slopes < 0).any() or (np.diff(slopes) < -ROUNDING * slopes[1:]).any():
        expected = "kept weights that rise from 0, with times that never fall and whose slopes never fall"
        raise entries.error("knots", expected, entries.raw.get("knots"))
    return TimeCurve(knots, points)


def _pairs(entries: _Entries, key: str, size: int, least: int = 1) -> tuple[tuple[int, float], ...]:
    pairs = entries.get(key, list)
    if not least <= len(pairs) <= MOST_POINTS:
        raise entries.error(key, f"{least} to {MOST_POINTS} pairs of kept weights and ms", pairs)
    checked = []
    for each in pairs:
        pair: Sequence[object] = each if isinstance(each, list | tuple) and len(each) == 2 else (None, None)
        kept, ms = as_whole(pair[0]), _time(pair[1])
        if kept is None or not 0 <= kept <= size or ms is None:
            raise entries.error(key, f"pairs of kept weights, 0 to {size}, and ms", each)
        checked.append((kept, ms))
    return tuple(checked)


def _layer_json(layer: LayerCosts) -> dict[str, Any]:
    curves = {
        name: {"knots": [list(knot) for knot in curve.knots], "points": [list(point) for point in curve.points]}
        for name, curve in layer.patterns.items()
    }
    whole = {key: ms for key in ("whole_ms", "dense_ms") if (ms := getattr(layer, key)) is not None}
    sizes = {key: getattr(layer, key) for key in ("op", "rows", "columns", "positions")}
    return {**sizes, **whole, "patterns": curves}
