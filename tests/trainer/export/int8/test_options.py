"""Options of an int8 export: layers that stay float32, by name and by their error; wrong values; methods."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from int8_exports import WORST_ERROR, exported, facts, images, nested, worst_error
from torch import Tensor, nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import ExportError
from nested_sparse.trainer import NestedModel, export, nest
from nested_sparse.trainer.export.int8.byte_range import METHODS
from nested_sparse.trainer.export.int8.quantise import LEAST_SQNR_DB
from nested_sparse.value_type import FLOAT32, INT8

module = importlib.import_module("nested_sparse.trainer.export.int8.quantise")


def clamped() -> NestedModel:
    """The activation cuts off what the first layer makes of a far value."""
    torch.manual_seed(0)
    return nested(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU6(), nn.Conv2d(8, 4, 3, padding=1)))


def value_types(path: Path) -> dict[str, Any]:
    with Checkpoint.open(path) as checkpoint:
        return {layer.name: layer.value_type for layer in checkpoint.layers}


def test_kept_layers_stay_float32(tmp_path: Path) -> None:
    """By name and by pattern; bytes begin behind them. Their share of the file is that of a float32 file."""
    net, x = clamped(), images(8)
    for keep in (("0",), ["0"], ("[0]",)):
        path = exported(net, x, tmp_path / "net.safetensors", keep_float=keep, force=True)
        assert value_types(path) == {"0": FLOAT32, "2": INT8}
        operators, count = facts(path)
        assert (operators["NestedConv"], operators["QuantizedConv"], count) == (1, 1, 2)
    assert worst_error(net, path, (x,)) < WORST_ERROR


def test_a_layer_that_loses_too_much_stays_float32(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One far value takes most of the bytes; the layer is named in the log, and in the file with its figure."""
    net, x = clamped(), images(64, size=12)
    x[0, 0, 5, 5] = 1000
    with caplog.at_level(logging.WARNING):
        path = exported(net, x, tmp_path / "net.safetensors", calibration_method="minmax")
    assert value_types(path) == {"0": FLOAT32, "2": INT8}
    (said,) = (record.getMessage() for record in caplog.records if "stays float32" in record.getMessage())
    with Checkpoint.open(path) as checkpoint:
        ratios = {layer.name: layer.sqnr_db for layer in checkpoint.layers}
    assert min(ratios["0"]) < LEAST_SQNR_DB <= min(ratios["2"])
    assert said.startswith(
        f"layer '0' stays float32: int8 would have a signal-to-noise ratio of {min(ratios['0']):.1f}"
    )


def test_a_network_that_loses_too_much_is_not_exported(tmp_path: Path) -> None:
    """Where no layer is left, the error says so, and no file is written."""
    torch.manual_seed(0)
    net, x = nested(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1))), images(64, size=12)
    x[0, 0, 5, 5] = 1000
    with pytest.raises(ExportError, match="int8 loses too much in every layer"):
        exported(net, x, tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())


# ---- the check of the file ----


class Gated(nn.Module):
    """An image and a gate for each of its samples."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        gated: Tensor = self.last(torch.relu(self.first(x)) * gate)
        return gated


@pytest.mark.parametrize("example", [torch.zeros, torch.ones, torch.randn])
def test_an_example_need_not_look_like_the_data(tmp_path: Path, example: Any) -> None:
    """It says shapes. The file is compared with torch on the calibration's samples."""
    net, x = clamped(), images(32) * 0.01 + 0.2
    export(net, (example(1, 3, 8, 8),), tmp_path / "net.safetensors", values="int8", calibration=[(x, None)])


def test_a_constant_input_of_any_size_is_as_in_the_calibration(tmp_path: Path) -> None:
    """Random values in its place would be ones that the calibration never saw."""
    torch.manual_seed(0)
    net, gate = nested(Gated()), torch.full((16, 1, 1, 1), 1e-3)
    calibration = [((images(16), gate), None)]
    export(net, (images(1), gate[:1]), tmp_path / "net.safetensors", values="int8", calibration=calibration)


def test_a_file_that_lost_too_much_is_refused_with_the_layers_to_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prediction is switched off, so that only the check stands between the loss and the file."""
    monkeypatch.setattr(module, "LEAST_SQNR_DB", -120.0)
    net, x = clamped(), images(64, size=12)
    x[0, 0, 5, 5] = 1000
    with pytest.raises(ExportError, match=r"root mean square of .*keep_float.* is lowest in '0' \(-?\d+\.\d dB\), '2'"):
        exported(net, x, tmp_path / "net.safetensors", calibration_method="minmax", verify=True)
    assert not list(tmp_path.iterdir())


# ---- options ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calibration": None}, "needs calibration for convolutions such as '0'"),
        ({"calibration": None, "activations": "static"}, "activations='static' needs calibration"),
        ({"calibration_method": "entropy"}, "calibration_method: expected one of"),
        ({"calibration_samples": 0}, "calibration_samples"),
        ({"activations": "int4"}, "activations: expected one of"),
        ({"keep_float": "0"}, "keep_float: expected names of layers.* in a list, got '0'"),
        ({"keep_float": 3}, "keep_float: expected names of layers.*got 3"),
        ({"keep_float": ("0", 2)}, "keep_float: expected names of layers"),
        ({"keep_float": ("nope",)}, "no layer matches 'nope'; the layers are: 0, 2"),
        ({"keep_float": ("*",)}, "values=.int8.: no layer is left for it \\(named by keep_float: '"),
    ],
)
def test_wrong_options(options: Mapping[str, Any], message: str, tmp_path: Path) -> None:
    """Each is named, with what was expected."""
    with pytest.raises(ExportError, match=message):
        exported(clamped(), images(4), tmp_path / "net.safetensors", **options)
    assert not list(tmp_path.iterdir())


def test_blocks_for_a_gpu_are_refused(tmp_path: Path) -> None:
    """With the layers that have them, and two ways out."""
    net = nest(nn.Sequential(nn.Linear(8, 40), nn.Linear(40, 33)), densities=(0.2, 0.6), pattern="block32x1").eval()
    with pytest.raises(ExportError, match=r"at most 16 rows.*'0', '1'; export with values='float16', or .*block16x1"):
        exported(net, torch.ones(4, 8), tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [{"calibration": [(images(2), None)]}, {"keep_float": ("0",)}, {"activations": "dynamic"}],
    ids=["calibration", "keep_float", "activations"],
)
def test_options_of_int8_need_int8(options: Mapping[str, Any], tmp_path: Path) -> None:
    """A float32 export refuses them; empty ones are none."""
    net, path = clamped(), tmp_path / "net.safetensors"
    with pytest.raises(ExportError, match="go with values='int8'"):
        export(net, (images(2),), path, **options)


@pytest.mark.parametrize("method", METHODS)
def test_methods_are_used(method: str, tmp_path: Path) -> None:
    """Another method gives other scales, and every one a file that agrees with torch."""
    net, x = clamped(), images(16)
    path = exported(net, x, tmp_path / "net.safetensors", calibration_method=method)
    assert worst_error(net, path, (x,)) < WORST_ERROR
    other = exported(net, x, tmp_path / "other.safetensors")
    default = next(iter(METHODS))
    assert (path.read_bytes() == other.read_bytes()) == (method == default)
