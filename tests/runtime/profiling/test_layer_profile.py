"""Layer profile: it names the kernel that ran."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from int8_file import write_int8

from chain import small_chain
from nested_sparse.errors import InputError, LevelError
from nested_sparse.kernels import library
from nested_sparse.metadata import LayerEntry
from nested_sparse.runtime.profiling.layer_profile import LayerTime, _layer_times, layer_profile
from nested_sparse.trainer import export, nest
from nested_sparse.value_type import INT8


def test_layer_profile_names_layers_and_kernels(tmp_path: Path) -> None:
    """Every layer once, in order, with the kernel that the library chose."""
    path = small_chain(tmp_path / "model.safetensors").path
    times = layer_profile(path, level=1, repeats=3, threads=1)
    assert [each.layer for each in times] == ["first", "second", "third"]
    assert [each.kernel for each in times] == [library.kernel_for("linear", rows) for rows in (4, 2, 1)]
    assert all(each.ms >= 0 for each in times)
    batched = layer_profile(path, repeats=3, threads=1, batch=16)
    assert [each.kernel for each in batched] == [library.kernel_for("conv", rows) for rows in (4, 2, 1)]
    with pytest.raises(InputError, match="repeats"):
        layer_profile(path, repeats=0)
    with pytest.raises(LevelError):
        layer_profile(path, level=7)


def test_int8_layers_name_their_kernels(tmp_path: Path) -> None:
    """Of vectors as bytes or as floats, of many vectors, and of images; the other operators keep their names."""
    for form, ranges in (("static", {}), ("float32", {"x_scale": None, "x_zero": None})):
        path = write_int8(tmp_path / f"{form}.safetensors", QuantizedLinear={"activations": form, **ranges})
        for batch in (1, 16):
            ran = {each.layer: each.kernel for each in layer_profile(path, repeats=1, threads=1, batch=batch)}
            expected = library.kernel_for("linear", 1, rows=batch, value_type=INT8, floats=form == "float32")
            assert ran["linear"] == expected
            assert ran["conv"] == library.kernel_for("conv", 4, value_type=INT8)
            assert "DequantizeImage" in ran.values()


def test_layer_times_are_medians_after_the_warm_up() -> None:
    """A layer used twice is named twice, other operators keep their own name, other events are ignored."""
    one_row = [{"float": [1, 24]}]
    events = [
        {
            "cat": "Node",
            "name": f"{node}_kernel_time",
            "dur": duration,
            "args": {"op_name": operator, "input_type_shape": one_row},
        }
        for duration in (9000, 8000, 1000, 7000, 2000)
        for node, operator in (("fc", "NestedLinear"), ("fc.1", "NestedLinear"), ("fc.2", "Relu"))
    ]
    events.append({"cat": "Session", "name": "model_run", "dur": 1})
    layer = LayerEntry(
        "fc",
        "linear",
        rows=10,
        columns=24,
        block_rows=4,
        permuted=False,
        blocks=(30,),
        nnz=(120,),
        attributes={},
        pattern="block4x1",
    )
    kernel = library.kernel_for("linear", 4)
    assert _layer_times(events, {"fc": layer}) == [
        LayerTime("fc", kernel, 2.0),
        LayerTime("fc.1", kernel, 2.0),
        LayerTime("fc.2", "Relu", 2.0),
    ]


def test_depthwise_layers_are_weighed(tmp_path: Path) -> None:
    """A whole depthwise layer is multiplied as it lies; its neighbours and one of a single tap by block kernels."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv1d(8, 16, 3, padding=1),
        torch.nn.Conv1d(16, 16, 3, groups=16, padding=1),
        torch.nn.Conv1d(16, 16, 1, groups=16),
        torch.nn.Conv1d(16, 8, 1),
    ).eval()
    net = nest(model, densities=(0.3, 0.6), pattern="block4x1")
    path = export(net, (torch.randn(2, 8, 50),), tmp_path / "line.safetensors")
    ran = {layer.layer: layer.kernel for layer in layer_profile(path, repeats=1, threads=1)}
    blocks, single = library.kernel_for("conv", 4), library.kernel_for("conv", 1)
    assert ran == {"0": blocks, "1": f"weigh_{library.isa()}", "2": single, "3": blocks}
