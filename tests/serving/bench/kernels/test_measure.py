"""Measurement: rows measured on tiny models, and the command that prints them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import BenchError, PatternError
from nested_sparse.kernels import library
from nested_sparse.runtime.session.session import Session
from nested_sparse.serving import cli
from nested_sparse.serving.bench.kernels import model_cache
from nested_sparse.serving.bench.kernels.contenders import measure_contenders
from nested_sparse.serving.bench.kernels.layers import ConvKind, ConvTimes, dense_convolutions, layer_table, rate
from nested_sparse.serving.bench.kernels.measure import measure_rows, versions
from nested_sparse.serving.bench.kernels.row import Spec
from nested_sparse.serving.bench.kernels.table import LINEAR_ROUNDS, Settings
from nested_sparse.serving.bench.kernels.turns import INT8_TOLERANCE, WARM_UP
from nested_sparse.serving.bench.reach import Reach
from nested_sparse.value_type import FLOAT16

LEVELS = (0.2, 0.6)
SETTINGS = Settings(rounds=3, peers_folder=Path("peers"))


def spec(kind, **facts):
    return Spec(**{"kind": kind, "pattern": "block4x1", "density": 0.6, "threads": 1, "levels": LEVELS, **facts})


def test_levels_against_dense(cache):
    """Both levels and the dense twin share the rounds; the kernels are those of the list that fit the pattern."""
    specs = [spec("resnet50"), spec("resnet50", density=0.2)]
    upper, lower = measure_rows(specs, SETTINGS, cache)
    assert (upper.spec, lower.spec) == tuple(specs)
    assert upper.reference_ms == lower.reference_ms
    assert len(upper.ours_ms) == len(upper.reference_ms) == SETTINGS.rounds
    assert upper.measured == pytest.approx(np.median(upper.reference_ms) / np.median(upper.ours_ms))
    assert upper.isa == library.isa()
    assert library.kernel_for("conv", 4) in upper.kernel
    assert upper.max_error < 1e-3
    assert upper.versions == versions()
    assert upper.other_load >= 0.0


def test_linear_rows_have_the_given_batch(cache):
    """The rows have the given batch, and the kernel for this batch."""
    facts = {"pattern": "unstructured", "density": 0.25, "levels": (0.25,)}
    (single,) = measure_rows([spec("linear", **facts)], SETTINGS, cache)
    (batch,) = measure_rows([spec("linear", batch=32, **facts)], SETTINGS, cache)
    assert single.kernel == library.kernel_for("linear", 1)
    assert batch.kernel == library.kernel_for("linear", 1, rows=32)
    assert len(batch.ours_ms) == LINEAR_ROUNDS * SETTINGS.rounds


def test_float16_is_held_against_float32(cache):
    """Two files of one layer; ours has half the value bytes and torch's output on the rounded weights."""
    facts = {"pattern": "block4x1", "density": 0.25, "levels": (0.25,)}
    (row,) = measure_rows([spec("linear", values="float16", against="ours", **facts)], SETTINGS, cache)
    assert row.measured == pytest.approx(np.median(row.reference_ms) / np.median(row.ours_ms))
    assert row.kernel == library.kernel_for("linear", 4, value_type=FLOAT16)
    stored, floats = (cache.built("linear", "block4x1", (0.25,), values=each) for each in ("float16", "float32"))
    difference = np.abs(stored.expected[0] - floats.expected[0]).max()
    assert 0 < difference < 2e-3 * np.abs(floats.expected[0]).max()
    assert max(row.max_error, row.reference_error) < 1e-5


def test_level0_is_held_against_its_own_file(cache):
    """Time in the whole file / time alone, so that more is worse."""
    (row,) = measure_rows([spec("level0", density=0.2, against="alone", reach=Reach("<=", 1.03))], SETTINGS, cache)
    assert row.measured == pytest.approx(np.median(row.ours_ms) / np.median(row.reference_ms))
    alone = cache.built("resnet50", "block4x1", LEVELS[:1])
    with Checkpoint.open(alone.path) as checkpoint:
        assert len(checkpoint.levels) == 1
    np.testing.assert_allclose(alone.expected[0], cache.built("resnet50", "block4x1", LEVELS).expected[0], atol=1e-4)


def test_conv_rate_counts_the_kept_weights(cache):
    """The FLOP of all kinds of layer, from their times and rates, are the level's own less the linear layer's."""
    (row,) = measure_rows([spec("conv-rate")], SETTINGS, cache)
    built = cache.built("resnet50", "block4x1", LEVELS)
    with Session(built.path) as session:
        flops = session.levels[1].flops
    with Checkpoint.open(built.path) as checkpoint:
        flops -= sum(2 * layer.nnz[1] for layer in checkpoint.layers if layer.op == "linear")
    counted = sum(line["ours_gflops"] * line["ours_ms"] * 1e6 for line in row.layers)
    assert counted == pytest.approx(flops, rel=1e-6)
    dense = sum(2 * line["dense_gflops"] * line["dense_ms"] for line in row.layers)
    assert dense > 0
    assert len(row.ours_ms) == len(row.reference_ms) == SETTINGS.rounds
    assert sum(line["count"] for line in row.layers) == 15


def test_rates_from_given_times():
    """Sums of a run's layers, then the median of the runs, then FLOP over it."""
    kind, other = ConvKind(8, 3, 1, 16, 16, False), ConvKind(4, 1, 2, 16, 32, True)
    ours = [ConvTimes(kind, 6_000_000, 9, [1.0, 2.0, 7.0]), ConvTimes(other, 2_000_000, 9, [1.0, 2.0, 1.0])]
    assert rate(ours) == pytest.approx(8.0 / 4.0)
    (line, second) = layer_table(ours, [ConvTimes(kind, 18_000_000, 9, [9.0, 9.0, 1.0])])
    assert line == {
        "layer": "3×3 16 → 16 at 8²",
        **{"side": 8, "kernel": 3, "stride": 1, "channels": 16, "rows": 16, "added": False},
        "count": 1,
        "ours_ms": 2.0,
        "ours_gflops": pytest.approx(3.0),
        "dense_ms": 9.0,
        "dense_gflops": pytest.approx(2.0),
    }
    assert second["layer"] == "1×1/2 16 → 32 at 4² + add"
    assert second["dense_ms"] is None
    with pytest.raises(BenchError, match="no convolution"):
        rate([])


def test_dense_events_are_read_by_their_shapes():
    """A convolution with a sum fused into it; the verifying run and the warm-up do not count."""
    shapes = {
        "op_name": "FusedConv",
        "input_type_shape": [{"float": [1, 4, 9, 9]}, {"float": [8, 4, 3, 3]}, {"float": [8]}, {"float": [1, 8, 9, 9]}],
        "output_type_shape": [{"float": [1, 8, 9, 9]}],
    }
    relu = {**shapes, "op_name": "Relu"}
    events = [{"name": "conv", "dur": dur, "args": shapes} for dur in (*[10**9] * (1 + WARM_UP), 2000, 4000)]
    (node,) = dense_convolutions([*events, {"name": "relu", "dur": 1, "args": relu}])
    assert node == ConvTimes(ConvKind(9, 3, 1, 4, 8, True), *[2 * 8 * 4 * 9 * 81] * 2, [2.0, 4.0])


def test_a_wrong_output_is_never_timed(cache):
    built = cache.built("resnet50", "block4x1", LEVELS)
    wrong = replace(built, expected=(built.expected[0], 1.01 * built.expected[1]))
    believed = SimpleNamespace(built=lambda *_, **__: wrong, dense=cache.dense)
    assert measure_contenders([spec("resnet50", density=0.2)], believed, 1)
    with pytest.raises(BenchError, match="differs from torch"):
        measure_contenders([spec("resnet50")], believed, 1)


def test_a_dense_int8_network_is_compared_within_its_own_tolerance(cache):
    """Both dense sides share the rounds of our level; int8 is near torch, not equal."""
    floats, int8 = measure_rows([spec("mobilenetv2"), spec("mobilenetv2", against="dense-int8")], SETTINGS, cache)
    assert floats.ours_ms == int8.ours_ms
    assert floats.reference_error < 1e-3 < int8.reference_error < INT8_TOLERANCE.most
    assert int8.against == "ONNX Runtime dense int8, static, per channel, 1 thread(s)"


def test_a_dense_int8_linear_layer_finds_its_ranges_at_run_time(cache):
    facts = {"pattern": "block16x1", "density": 0.25, "levels": (0.25,), "against": "dense-int8"}
    (row,) = measure_rows([spec("linear", **facts)], SETTINGS, cache)
    assert row.against == "ONNX Runtime dense int8 of run-time ranges, 1 thread(s)"
    assert 1e-5 < row.reference_error < 0.05


def test_our_int8_is_held_against_both_dense_sides_and_our_float32(cache):
    """Three rows of one level share its samples; the kernels are int8 ones; torch in float32 is the measure."""
    sides = ("dense-int8", "dense", "ours")
    rows = measure_rows([spec("resnet50", values="int8", against=side) for side in sides], SETTINGS, cache)
    assert rows[0].ours_ms == rows[1].ours_ms == rows[2].ours_ms
    assert rows[0].reference_ms != rows[1].reference_ms != rows[2].reference_ms
    assert rows[2].against == "ours in float32, level 1 of 2"
    assert rows[1].reference_error < 1e-3 < rows[0].max_error < INT8_TOLERANCE.most
    assert "float32" in rows[0].note
    (linear,) = measure_rows([spec("linear", values="int8", against="dense-int8")], SETTINGS, cache)
    assert 0 < linear.max_error < 0.1
    assert library.kernel_for("linear", 4) not in linear.kernel


def test_bytes_are_the_files_and_the_processes(cache):
    """A weight in int8 takes between an eighth and a half of one in float32: values and indices, padded to quads."""
    for kind in ("file-bytes", "resident-bytes"):
        specs = [spec(kind, density=density, values="int8", against="ours") for density in LEVELS]
        rows = measure_rows(specs, SETTINGS, cache)
        for row in rows:
            assert row.measured == row.ours_bytes / row.reference_bytes
            assert row.ours_ms == []
        if kind == "file-bytes":
            built = cache.built("resnet50", "block4x1", LEVELS, values="int8")
            with Checkpoint.open(built.path) as checkpoint:
                assert [row.ours_bytes for row in rows] == [level.nbytes for level in checkpoint.levels]
            assert all(0.125 < row.measured < 0.6 for row in rows)


def test_an_unknown_pattern_is_our_error(cache):
    with pytest.raises(PatternError):
        measure_rows([spec("linear", pattern="zebra")], SETTINGS, cache)


@pytest.fixture
def tiny(monkeypatch, cache):
    """The command with tiny models in the place of its own."""
    monkeypatch.setattr(model_cache, "ModelCache", lambda folder: cache)
    return lambda *arguments: CliRunner().invoke(cli.app, ["bench", "kernels", "--repeats", "2", *arguments])


def test_the_command_prints_a_table_and_one_line(tiny):
    """Every row asked for is in both, the layers where asked, and what cannot be measured with its reason."""
    result = tiny("--density", "0.2", "--density", "0.6", "--layers")
    assert result.exit_code == 0
    line = json.loads(result.stdout.splitlines()[-1])
    names = [row["name"] for row in line["rows"]]
    assert names == [f"{kind}-block4x1-{percent}-1t" for kind in ("resnet50", "conv-rate") for percent in (60, 20)]
    for row in line["rows"]:
        assert row["name"] in result.stdout
        assert row["unavailable"] == ""
        assert row["measured"] > 0
        assert len(row["samples_ms"]["ours"]) == 2
        assert row["kernel"] in {f"{library.kernel_for('conv', 4)}, {library.kernel_for('linear', 4)}", *_reversed()}
    assert "3×3/2 16 → 32" in result.stdout
    assert line["cpu"]
    assert line["versions"]["onnxruntime"]


def _reversed():
    return {f"{library.kernel_for('linear', 4)}, {library.kernel_for('conv', 4)}"}


def test_the_command_reports_rows_that_it_cannot_measure(tiny):
    result = tiny("--pattern", "zebra", "--quick")
    assert result.exit_code == 0
    assert "resnet50-zebra-13.38-1t: not available: pattern 'zebra' is not known" in result.stdout
    rows = json.loads(result.stdout.splitlines()[-1])["rows"]
    assert [row["measured"] for row in rows] == [None, None]
    assert all("zebra" in row["unavailable"] for row in rows)


def test_json_is_the_only_output(tiny):
    result = tiny("--rows", "linear-unstructured-*", "--json")
    (line,) = result.stdout.splitlines()
    (row,) = json.loads(line)["rows"]
    assert (row["name"], row["reach"], row["threads"]) == ("linear-unstructured-25-b1-1t", "≥ 2", 1)


def test_an_unknown_row_is_one_line(tiny):
    result = tiny("--rows", "nonsense")
    assert isinstance(result.exception, BenchError)


def test_help_has_an_example():
    result = CliRunner().invoke(cli.app, ["bench", "kernels", "--help"])
    assert result.exit_code == 0
    assert "Example" in result.stdout
    for option in ("--rows", "--quick", "--threads", "--peers", "--layers"):
        assert option in result.stdout
