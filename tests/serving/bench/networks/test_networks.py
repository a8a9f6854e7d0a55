"""`bench networks`: rows measured on small networks, and the command that prints them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from nested_sparse.network import DenseModule, Network
from nested_sparse.runtime.profiling import CostMeasurement, measure_costs
from nested_sparse.serving import cli
from nested_sparse.serving.bench.networks import measure
from nested_sparse.serving.bench.networks.measure import LEAST_ROUNDS, Settings, measure_network
from nested_sparse.serving.bench.networks.report import SLOWER, print_rows, report
from nested_sparse.serving.bench.networks.row import BatchTimes, Row, Seconds
from nested_sparse.trainer import networks
from nested_sparse.trainer.networks import NETWORKS, Size

LEVELS = (0.1, 0.4)
SETTINGS = Settings(LEVELS, (1, 3), repeats=4, seconds=0.05, shallow=True, cpu_time=False)


def with_model(model, *shape):
    """A network of one model, in both sizes."""
    size = Size(lambda: model, lambda batch: (torch.randn(batch, *shape),))
    return replace(NETWORKS["two-linears"], full=size, shallow=size)


@pytest.mark.parametrize("name", ["ds-cnn", "gat", "re-ranker"])
def test_a_row_has_the_figures_of_its_network(name):
    """Every level at every batch agrees with torch, and both sides have as many samples.

    Layers are chosen by measurement in one of them alone, as it takes long.
    """
    row = measure_network(NETWORKS[name], replace(SETTINGS, choice=name == "ds-cnn"))
    assert row.unavailable == ""
    assert row.max_error < 1e-4
    assert row.network.sparse_share > 0.5
    assert [times.batch for times in row.times] == [1, 3]
    for times in row.times:
        assert LEAST_ROUNDS <= len(times.dense_ms) <= 4
        assert len(times.levels_ms) == len(times.errors) == len(LEVELS)
        assert {len(samples) for samples in (times.dense_ms, *times.levels_ms)} == {len(times.dense_ms)}
        assert times.dense_error < 1e-4
    assert min(row.seconds.nest, row.seconds.export, row.seconds.plain_export) > 0
    assert sum(row.reasons.values()) == len(row.network.dense)
    json.dumps(row.to_json(), allow_nan=False)


@pytest.mark.parametrize("dense", [(), ("0",), ("0", "1")])
def test_layers_are_chosen_by_the_costs_of_each_batch(monkeypatch, dense):
    """By costs as given here: the network is exported again where a layer stays dense, and not where all would."""
    given, exports = [], []

    def measured(path, *, densities, batch, **_):
        costs = measure_costs(path, densities=densities, batch=batch, repeats=1, threads=1).costs
        slow = dense if batch == 3 else ()  # at batch 1 every layer is faster sparse
        layers = {name: replace(layer, dense_ms=0.0 if name in slow else 1e6) for name, layer in costs.layers.items()}
        given.append((densities, batch))
        return CostMeasurement(replace(costs, layers=layers), ())

    export = measure.export
    monkeypatch.setattr(measure, "measure_costs", measured)
    monkeypatch.setattr(measure, "export", lambda *args, **options: exports.append(1) or export(*args, **options))
    row = measure_network(with_model(nn.Sequential(nn.Linear(16, 24), nn.Linear(24, 8)), 16), SETTINGS)
    assert row.unavailable == ""
    assert given == [(LEVELS, 1), (LEVELS, 3)]
    assert set(row.measured) == ({"0"} if dense == ("0",) else set())
    assert len(exports) == (2 if dense == ("0",) else 1)
    assert bool(row.unprofitable) == (len(dense) == 2)
    assert all("at batch 3" in why for why in row.measured.values())


def test_a_network_that_cannot_be_nested_says_why():
    row = measure_network(with_model(nn.Sequential(nn.ReLU()), 4), SETTINGS)
    assert "none has weights" in row.unavailable
    assert row.times == ()
    json.dumps(row.to_json(), allow_nan=False)


def test_a_network_whose_forward_fails_says_why():
    """The failure is the model's own, of no class that this package knows."""
    row = measure_network(with_model(nn.Linear(5, 4), 7), SETTINGS)
    assert "torch.onnx.export: a and b must have same reduction dim" in row.unavailable


def test_a_wrong_output_is_never_timed(monkeypatch):
    """torch's answers are changed by 1 %; then no sample is taken."""
    made = measure._made

    def wrong(*arguments):
        files = made(*arguments)
        dense, *levels = files.answers
        return replace(files, answers=[dense, *([1.01 * array for array in level] for level in levels)])

    monkeypatch.setattr(measure, "_made", wrong)
    monkeypatch.setattr(measure, "interleaved", lambda *_: pytest.fail("timed"))
    row = measure_network(NETWORKS["two-linears"], SETTINGS)
    assert "level 0, batch 1: differs from torch" in row.unavailable


def made_row(**changes):
    """A row of given times: level 0 is twice as fast, level 1 takes 5/4 of the time."""
    times = BatchTimes(8, [3.0, 2.0, 2.5], [[1.25, 1.5, 1.0], [3.125, 9.0, 1.0]], [1e-7, 3e-6], 1e-7)
    dense = (
        DenseModule("a", 1, 2, "too small"),
        DenseModule("b", 0, 2, "a table"),
        DenseModule("c", 1, 2, "too small"),
    )
    network = Network(flops=4_000_000, sparse_flops=3_000_000, weights=10, dense=dense)
    row = Row("made", "nowhere", "block4x1", LEVELS, network, Seconds(0.5, 1.0, 3.0), (times,), other_load=0.0)
    return replace(row, **changes)


def test_ratios_of_given_times():
    line = made_row().to_json()
    (batch,) = line["batches"]
    assert batch["speedups"] == [2.0, 0.8]
    assert batch["slower_than_dense"] == [1]
    assert batch["median_ms"] == {"dense": 2.5, "levels": [1.25, 3.125]}
    assert line["sparse_share"] == 0.75
    assert line["max_error"] == 3e-6
    assert line["seconds"]["ratio"] == 0.5
    assert line["dense_layers"] == {"too small": 2, "a table": 1}


def test_the_table_marks_what_is_slower_and_lists_what_is_dense(capsys):
    print_rows([made_row(), made_row(name="absent", network=None, seconds=None, times=(), unavailable="no layer")])
    said = capsys.readouterr().out
    assert f"0.80 {SLOWER}" in said
    assert "2.00" in said
    assert "75.0%" in said
    assert "made: dense: 2 × too small; 1 × a table" in said
    assert "absent: not available: no layer" in said
    assert "Slower than dense at one level or more: made at batch 8" in said
    assert "Other processes" not in said
    print_rows([made_row(other_load=0.7)])
    assert "up to 0.7 cores busy during 1 of 1 rows" in capsys.readouterr().out
    assert report([made_row()])["bench"] == "networks"


@pytest.fixture
def command(monkeypatch):
    """The command with two networks, of which the second one has no layer that can be nested."""
    few = {"two-linears": NETWORKS["two-linears"]}
    few["no-layers"] = replace(with_model(nn.Sequential(nn.ReLU()), 4), name="no-layers")
    monkeypatch.setattr(networks, "NETWORKS", few)
    return lambda *arguments: CliRunner().invoke(cli.app, ["bench", "networks", "--quick", *arguments])


def test_the_command_prints_a_table_and_one_line(command):
    result = command("--repeats", "3", "--levels", "0.4", "--levels", "0.1", "--batches", "2")
    assert result.exit_code == 0
    line = json.loads(result.stdout.splitlines()[-1])
    assert [row["name"] for row in line["rows"]] == ["two-linears", "no-layers"]
    for row in line["rows"][:1]:
        assert row["levels"] == [0.1, 0.4]
        assert [batch["batch"] for batch in row["batches"]] == [2]
        assert len(row["batches"][0]["dense_ms"]) == 3
        assert row["name"] in result.stdout
    assert "no-layers: not available: " in result.stdout
    assert line["versions"]["onnxruntime"]


def test_json_is_the_only_output(command):
    result = command("--rows", "two-*", "--json", "--cpu-time")
    (line,) = result.stdout.splitlines()
    (row,) = json.loads(line)["rows"]
    assert (row["name"], row["levels"]) == ("two-linears", list(measure.LEVELS))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--rows", "resnet51"), "no row is called 'resnet51'; there are: two-linears, no-layers"),
        (("--levels", "1.5"), "--levels"),
        (("--levels", "0.0"), "densities"),
        (("--batches", "0"), "--batches"),
        (("--repeats", "2"), "--repeats"),
    ],
)
def test_bad_options_are_refused(command, arguments, said):
    result = command(*arguments)
    assert result.exit_code != 0
    assert said in f"{result.output} {result.exception}"
