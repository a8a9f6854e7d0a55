"""DeviceCosts: lines through measured points, the file, and files that are edited, broken, foreign or huge."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nested_sparse.device_costs import MOST_BYTES, DeviceCosts, LayerCosts
from nested_sparse.errors import BudgetError
from nested_sparse.time_curve import TimeCurve

LINE = TimeCurve(((0, 0.5), (10, 0.51), (100, 0.6)), ((10, 0.515), (100, 0.6)))
COSTS = DeviceCosts(
    device="a processor",
    isa="avx2",
    int8_isa="",
    threads=2,
    values="float32",
    other_ms=0.25,
    layers={
        "conv": LayerCosts("conv", 8, 27, 64, {"unstructured": LINE, "block4x1": LINE}),
        "0": LayerCosts("linear", 4, 3, 1, {}, whole_ms=0.125, dense_ms=0.0625),
    },
    dense_ms=0.375,
)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """Every number comes back exactly."""
    path = tmp_path / "costs.json"
    path.write_text(COSTS.to_json())
    assert DeviceCosts.read(path) == COSTS
    assert DeviceCosts.from_mapping(json.loads(COSTS.to_json())) == COSTS


def test_files_without_dense_times_are_read() -> None:
    """As older versions wrote them, and files whose layers ONNX Runtime has no operators for."""
    raw = json.loads(COSTS.to_json())
    del raw["dense_ms"], raw["layers"]["0"]["dense_ms"]
    read = DeviceCosts.from_mapping(raw)
    assert read.dense_ms is None
    assert read.layers["0"] == LayerCosts("linear", 4, 3, 1, {}, whole_ms=0.125)
    assert "dense_ms" not in read.to_json()


def at(path: str, value: Any) -> Callable[[Any], None]:
    """A change of the entry at `path`, whose keys stand between slashes; DELETE takes the entry away."""

    def change(raw: Any) -> None:
        *outer, last = path.split("/")
        for key in outer:
            raw = raw[key]
        if value is DELETE:
            del raw[last]
        else:
            raw[last] = value

    return change


DELETE = object()
LINE_AT = "layers/conv/patterns/unstructured"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (at("format", "nested-sparse profile"), "no file of costs"),
        (at("format", DELETE), "format: expected a text, got None"),
        (at("version", 2), "version 2, this package reads 1"),
        (at("version", DELETE), "version None"),
        (at("threads", 0), "threads: expected a whole number from 1"),
        (at("threads", True), "threads: .* got True"),
        (at("device", 3), "device: expected a text, got 3"),
        (at("other_ms", -1.0), "other_ms: expected a number from 0 to 1e.09, got -1.0"),
        (at("other_ms", float("nan")), "other_ms: .* got nan"),
        (at("other_ms", "2"), "other_ms: .* got '2'"),
        (at("layers", []), r"layers: expected an object with names, got \[\]"),
        (at("layers", {}), "layers: expected 1 to 10000 of them, got 0"),
        (at("layers/conv", 3), "conv: expected an object with names, got 3"),
        (at("layers/conv/rows", 0), "conv: rows: expected a whole number from 1"),
        (at("layers/conv/columns", 2.5), "conv: columns: expected a whole number"),
        (at("layers/conv/positions", -1), "conv: positions: expected a whole number"),
        (at("layers/conv/patterns/checks", {}), r"conv: patterns: expected names of patterns \(unstructured.*'checks'"),
        (at("layers/conv/patterns", {}), "conv: patterns: expected at least one, or whole_ms"),
        (at("layers/0/whole_ms", float("inf")), "0: whole_ms: expected a number"),
        (at("layers/0/dense_ms", -1), "0: dense_ms: expected a number from 0 to 1e.09, got -1"),
        (at("batch", 0), "batch: expected a whole number from 1"),
        (at("batch", None), "batch: .* got None"),
        (at("dense_ms", "fast"), "dense_ms: .* got 'fast'"),
        (at(f"{LINE_AT}/knots", DELETE), "conv: unstructured: knots: expected a list, got None"),
        (at(f"{LINE_AT}/knots", [[1, 1.0]]), "conv: unstructured: knots: expected kept weights that rise from 0"),
        (at(f"{LINE_AT}/knots", [[0, 1.0], [5, 0.9]]), "knots: .* times that never fall"),
        (at(f"{LINE_AT}/knots", [[0, 1.0], [5, 2.0], [10, 2.1]]), "knots: .* whose slopes never fall"),
        (at(f"{LINE_AT}/knots", [[0, 1.0], [5, 2.0], [5, 2.0]]), "knots: expected kept weights that rise"),
        (at(f"{LINE_AT}/knots", []), "conv: unstructured: knots: expected 1 to 65 pairs"),
        (at(f"{LINE_AT}/points", [[1, 1.0]] * 66), "conv: unstructured: points: expected 0 to 65 pairs"),
        (at(f"{LINE_AT}/points", [[217, 1.0]]), "points: expected pairs of kept weights, 0 to 216, and ms"),
        (at(f"{LINE_AT}/points", [[1, 1.0, 2.0]]), "points: expected pairs"),
        (at(f"{LINE_AT}/points", [3]), "points: expected pairs"),
    ],
)
def test_a_wrong_entry_is_named(change: Callable[[Any], None], said: str, tmp_path: Path) -> None:
    """With its place, what was expected, what came, and how to make a file."""
    raw = copy.deepcopy(json.loads(COSTS.to_json()))
    change(raw)
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(BudgetError, match=f"^{re.escape(str(path))}.*{said}"):
        DeviceCosts.read(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"threads": ' + b"1" * 10_000 + b"}", "is not JSON"),
        (b"[]", r"expected an object with names, got \[\]"),
        (b"null", "expected an object with names, got None"),
        (b" " * (MOST_BYTES + 1), f"expected at most {MOST_BYTES} bytes"),
    ],
)
def test_other_files_are_refused(content: bytes, said: str, tmp_path: Path) -> None:
    """Broken, foreign and huge ones."""
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(BudgetError, match=said):
        DeviceCosts.read(path)


def test_what_cannot_be_read_is_refused_without_waiting(tmp_path: Path) -> None:
    """No file, a folder, and a pipe into which nothing is written."""
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing", ".", "pipe", "n\0l"):
        with pytest.raises(BudgetError, match="cannot be read"):
            DeviceCosts.read(tmp_path / name)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (("convolution", "conv", 8, 27), r"none of layer 'convolution', only of 'conv', '0'"),
        (("conv", "linear", 8, 27), "is a conv of 8x27 weights there, and a linear of 8x27 in the model"),
        (("conv", "conv", 8, 9), "and a conv of 8x9 in the model"),
    ],
)
def test_costs_belong_to_a_name_and_a_size(layer: tuple[str, str, int, int], said: str) -> None:
    """The costs of another network are refused."""
    assert COSTS.layer("conv", "conv", 8, 27) is COSTS.layers["conv"]
    with pytest.raises(BudgetError, match=said):
        COSTS.layer(*layer)
