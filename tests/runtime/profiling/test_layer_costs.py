"""Cost measurement: each layer at each density, by its pattern; nothing here rests on a time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from chain import small_chain, write
from nested_sparse.checkpoint import Checkpoint
from nested_sparse.device_costs import DeviceCosts
from nested_sparse.errors import BudgetError, InputError, PatternError
from nested_sparse.graph.nodes import graph_nodes
from nested_sparse.layouts import Blocks
from nested_sparse.runtime.profiling import copy_runs, dense_times, measure_costs
from nested_sparse.runtime.profiling.copy_runs import at_rest, told_apart
from nested_sparse.runtime.profiling.dense_times import _Copies, _owned
from nested_sparse.runtime.profiling.layer_costs import _dealt
from nested_sparse.runtime.session import random_inputs
from nested_sparse.slice import slice_checkpoint
from nested_sparse.trainer import export, nest
from nested_sparse.weight import NestedWeight
from support import layer_record, random_weight


def test_each_layer_is_measured_at_each_density(tmp_path: Path) -> None:
    """Its name, kind, shape, positions and points; the file that holds them is read again."""
    path = small_chain(tmp_path / "model.safetensors").path
    measured = measure_costs(path, densities=(0.1, 0.5, 0.8, 1.0), repeats=2, threads=1)
    costs = measured.costs
    assert (costs.threads, costs.values, costs.int8_isa) == (1, "float32", "")
    sizes = {name: (layer.op, layer.rows, layer.columns) for name, layer in costs.layers.items()}
    assert sizes == {"first": ("linear", 13, 24), "second": ("linear", 16, 13), "third": ("linear", 5, 16)}
    patterns = {name: list(layer.patterns) for name, layer in costs.layers.items()}
    assert patterns == {"first": ["block4x1"], "second": ["block2x1"], "third": ["unstructured"]}
    for layer in costs.layers.values():
        assert layer.positions == 1
        (line,) = layer.patterns.values()
        assert line.points[-1][0] == layer.size
        assert len(line.points) == 4
        assert all(
            abs(kept / layer.size - share) < 0.1
            for (kept, _), share in zip(line.points, (0.1, 0.5, 0.8, 1), strict=True)
        )
    assert DeviceCosts.from_mapping(json.loads(costs.to_json())) == costs
    assert sorted({(each.pattern, each.density) for each in measured.checks}) == [
        ("", 0.1),
        ("", 0.5),
        ("", 0.8),
        ("", 1.0),
    ]


class Words(nn.Module):
    """A recurrent layer of both directions, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(12, 4, bidirectional=True, batch_first=True), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.head(self.lstm(x)[0]))


@pytest.mark.parametrize("longer", [False, True])
def test_both_layers_of_a_recurrent_one_have_parts_of_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longer: bool
) -> None:
    """ONNX's node does the work of both, and each part is as large as the layer's share of their weights.

    longer: the mixed network takes longer than the times of its layers say, as a disturbance makes it now and then.
    """
    if longer:
        compared = dense_times._compared
        monkeypatch.setattr(_Copies, "sparse_ms", lambda self, costs, name, level: 1e3 if "lstm" in name else 0.0)
        monkeypatch.setattr(
            dense_times,
            "_compared",
            lambda *args: [replace(each, mixed_ms=each.sparse_ms + 1e4) for each in compared(*args)],
        )
    net = nest(Words().eval(), densities=(0.3, 0.6))
    path = export(net, (torch.randn(1, 6, 12),), tmp_path / "words.safetensors", verify=False)
    measured = measure_costs(path, densities=(0.3, 0.6), repeats=2, threads=1)
    layers = measured.costs.layers
    assert all((layer.dense_ms or 0) > 0 for layer in layers.values())
    for direction in ("", "_reverse"):
        inputs_ms, states_ms = (layers[f"lstm.{half}_l0{direction}"].dense_ms or 0 for half in ("ih", "hh"))
        assert inputs_ms == pytest.approx(3 * states_ms)
        assert inputs_ms > 1e3 or not longer
    assert (measured.costs.dense_ms or 0) > 0


def test_a_recurrent_layer_alone_has_the_time_of_its_network(tmp_path: Path) -> None:
    alone = export(nest(nn.GRU(4, 4), densities=(0.5,)), (torch.randn(3, 1, 4),), tmp_path / "alone.safetensors",
                   verify=False, fixed_batch=True)  # fmt: skip
    costs = measure_costs(alone, densities=(0.5,), repeats=1, threads=1).costs
    assert sum(layer.dense_ms or 0 for layer in costs.layers.values()) == pytest.approx(costs.dense_ms)


def test_dense_operators_are_measured_beside_them(tmp_path: Path) -> None:
    """Of each layer in its place, and of the whole network; whole runs of each kind, at each density that fits."""
    path = small_chain(tmp_path / "model.safetensors").path
    measured = measure_costs(path, repeats=1, threads=1)
    assert all((layer.dense_ms or 0) > 0 for layer in measured.costs.layers.values())
    assert (measured.costs.dense_ms or 0) > 0
    assert [each.density for each in measured.dense] == [0.05, 0.15, 0.35]
    names = set(measured.costs.layers)
    for each in measured.dense:
        assert each.sparse_ms > 0
        assert each.dense_ms == measured.costs.dense_ms
        assert (each.mixed_ms is not None) == (0 < len(each.layers) < len(names))
        assert names.issuperset(each.layers)


def test_costs_are_measured_at_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run has as many samples, the file says so, and positions are those of one sample."""
    seen = []
    for module in (copy_runs, dense_times):
        monkeypatch.setattr(
            module, "random_inputs", lambda specs, batch: seen.append(batch) or random_inputs(specs, batch)
        )
    path = small_chain(tmp_path / "model.safetensors").path
    costs = measure_costs(path, densities=(0.5, 1.0), batch=3, repeats=1, threads=1).costs
    assert costs.batch == 3
    assert set(seen) == {3}
    assert len(seen) >= 4  # a random copy, two in which every other layer is dense, and whole networks
    assert {layer.positions for layer in costs.layers.values()} == {1}
    assert json.loads(costs.to_json())["batch"] == 3
    assert DeviceCosts.from_mapping(json.loads(costs.to_json())) == costs
    one = measure_costs(path, densities=(1.0,), repeats=1, threads=1).costs
    assert one.batch == 1
    assert "batch" not in json.loads(one.to_json())  # as in files of versions that measured one sample


def test_a_model_of_a_fixed_batch_has_costs_of_that_batch(tmp_path: Path) -> None:
    """With and without the batch given; positions are those of one sample."""
    path = small_chain(tmp_path / "model.safetensors", batch=3).path
    costs = measure_costs(path, densities=(1.0,), repeats=1, threads=1).costs
    assert costs.batch == json.loads(costs.to_json())["batch"] == 3
    assert {layer.positions for layer in costs.layers.values()} == {1}
    with pytest.raises(InputError, match="the model takes 3 samples in each run, got 8"):
        measure_costs(path, batch=8)


def test_what_onnx_runtime_adds_belongs_to_the_layer_beside_it(tmp_path: Path) -> None:
    """Nodes of its own names: one that changes the form of an image goes with the node behind it."""
    path = small_chain(tmp_path / "model.safetensors").path
    with Checkpoint.open(path) as checkpoint:
        copies = _Copies(checkpoint, tmp_path, "")
        hidden = {node.texts["layer"].decode(): node.outputs[0] for node in graph_nodes(checkpoint.graph())}
    events = [
        ("dense0.1.MatMul/MatMulAddFusion", "Gemm", "first"),
        ("second", "NestedLinear", None),
        ("ReorderOutput", "ReorderOutput", "first"),
        ("ReorderInput_token_3", "ReorderInput", "third"),
        (f"{hidden['third']}_nchwc", "Conv", "third"),
        ("dense1.7.Relu", "Relu", "third"),
        ("dense7.7.Relu", "Relu", "third"),
    ]
    run = [{"name": name, "args": {"op_name": operator}} for name, operator, _ in events]
    owned = {str(event["name"]): layer for layer, event in _owned(run, copies, ["first", "third"])}
    assert owned == {name: layer for name, _, layer in events if layer}


def test_several_patterns_stand_side_by_side(tmp_path: Path) -> None:
    """Of a slice too, whose single level takes a copy for each density."""
    whole, cut = small_chain(tmp_path / "model.safetensors").path, tmp_path / "cut.safetensors"
    slice_checkpoint(whole, 1, cut)
    costs = measure_costs(cut, ["unstructured", "block4x1"], densities=(0.3, 0.9), repeats=1, threads=1).costs
    for layer in costs.layers.values():
        assert list(layer.patterns) == ["unstructured", "block4x1"]
        assert all(len(line.points) == 2 for line in layer.patterns.values())


def test_a_layer_that_is_whole_is_measured_whole(tmp_path: Path) -> None:
    """It has one time, and no line."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((8, 16)).astype(np.float32)
    first = NestedWeight("whole", values, np.zeros((2, 16), np.uint8), Blocks(4))
    records = [layer_record(rng, first, 2), layer_record(rng, random_weight(rng, "sparse", 5, 8, 1), 2)]
    costs = measure_costs(write(tmp_path / "model.safetensors", records, 2).path, repeats=1, threads=1).costs
    assert not costs.layers["whole"].patterns
    assert costs.layers["whole"].whole_ms is not None
    assert costs.layers["sparse"].whole_ms is None


@pytest.mark.parametrize("level_count", [1, 2, 3, 5, 9])
def test_the_densities_are_dealt_to_the_levels(level_count: int) -> None:
    """Each once, rising within a copy, in as few copies as possible."""
    densities = (0.03, 0.1, 0.25, 0.5, 1.0)
    dealt = _dealt(densities, level_count)
    assert len(dealt) == -(-5 // level_count)
    assert sorted(set(sum(dealt, ()))) == list(densities)
    assert all(list(each) == sorted(each) and len(each) == level_count for each in dealt)


def test_runs_are_told_apart() -> None:
    """By the event that follows the nodes of a run; what runs before the first one is not lost."""
    node = {"cat": "Node", "name": "fc_kernel_time", "dur": 1}
    run = {"cat": "Session", "name": "model_run", "dur": 5}
    load = {"cat": "Session", "name": "session_initialization"}
    fence = {"cat": "Node", "name": "fc_fence_before"}
    runs = list(told_apart([load, node, fence, node, run, node, run]))
    assert [[event["name"] for event in each] for each in runs] == [["fc", "fc"], ["fc"]]


def test_disturbed_runs_are_left_out() -> None:
    """The mean of the fastest quarter."""
    assert at_rest([9.0, 1.0, 2.0, 50.0, 7.0]) == 1.5
    assert at_rest([3.0]) == 3.0


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    """Before anything is measured."""
    path = small_chain(tmp_path / "model.safetensors").path
    with pytest.raises(BudgetError, match="densities must rise"):
        measure_costs(path, densities=(0.5, 0.1))
    with pytest.raises(InputError, match="repeats"):
        measure_costs(path, repeats=0)
    with pytest.raises(InputError, match="batch: expected"):
        measure_costs(path, batch=0)
    with pytest.raises(InputError, match="patterns: expected a list"):
        measure_costs(path, "block4x1")
    with pytest.raises(PatternError, match="'block3x1' is not known"):
        measure_costs(path, ["block3x1"])
