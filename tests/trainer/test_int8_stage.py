"""Int8 fine-tuning: as the end of a training, alone, resumed, compiled, and what it leaves in the net."""

from __future__ import annotations

import copy
import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from small_models import assert_goes_on, nested_small_net, small_batches, snapshot
from small_runs import EPOCHS, GROW, QUICK, run
from torch import nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import TrainingError
from nested_sparse.quantization import MAX_COLUMNS
from nested_sparse.runtime import Session
from nested_sparse.trainer import Gradual, NestedModel, TrainConfig, export, fine_tune_int8, nest, train
from nested_sparse.trainer.model.int8 import clear_int8, not_rounded, round_to_int8
from nested_sparse.trainer.model.layers.int8_rounding import scale_and_zero

INT8 = replace(QUICK, int8_epochs=2)


def fit(net: NestedModel, **options: Any) -> Any:
    return train(net, small_batches(), F.cross_entropy, INT8, nesting=GROW, **options)


def ranges(net: NestedModel) -> dict[str, torch.Tensor]:
    return {name: layer.int8_ranges for name, layer in net.nested_layers().items() if layer.int8_ranges is not None}


def test_the_epochs_come_last_and_leave_a_net_that_rounds() -> None:
    """The epochs before are those of a run without them; every range is observed; masks stay."""
    plain, net = nested_small_net(), nested_small_net()
    before = run(plain)
    torch.manual_seed(11)
    reports = fit(net)
    assert [report.stage for report in reports[EPOCHS:]] == ["int8", "int8"]
    assert [report.losses for report in reports[:EPOCHS]] == [report.losses for report in before]
    assert 0 < reports[EPOCHS].learning_rate <= INT8.lr / 10
    for name, layer in net.nested_layers().items():
        assert torch.equal(layer.first_level, plain.nested_layers()[name].first_level)
    found = ranges(net)
    assert set(found) == set(net.nested_layers())
    for seen in found.values():
        assert seen.isfinite().all()
        assert (seen[:, 0] < seen[:, 1]).all()
    inputs = torch.rand(5, 1, 8, 8)
    net.eval()
    rounded = net(inputs)
    with not_rounded(net):
        exact = net(inputs)
    assert not torch.equal(rounded, exact)
    assert torch.equal(net(inputs), rounded)
    clear_int8(net)
    assert torch.equal(net(inputs), exact)


@pytest.mark.parametrize("stop_after", [EPOCHS - 1, EPOCHS, EPOCHS + 1, EPOCHS + 2])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, stop_after: int) -> None:
    """Stopped before the stage, between the stages, within it, and at the end; the ranges go on as well."""
    assert_goes_on(fit, tmp_path / "run.state", stop_after)


def test_a_compiled_net_trains_the_same() -> None:
    whole, compiled = nested_small_net(), nested_small_net()
    compiled.compile(backend="eager")
    for net in (whole, compiled):
        torch.manual_seed(11)
        fit(net)
    got = snapshot(compiled)
    for key, value in snapshot(whole).items():
        torch.testing.assert_close(got[key], value, rtol=1e-4, atol=1e-5)


def trained() -> NestedModel:
    net = nested_small_net()
    run(net)
    return net


def test_fine_tuning_alone_keeps_masks_and_lowers_the_loss(tmp_path: Path) -> None:
    net = trained()
    masks = {name: layer.first_level.clone() for name, layer in net.nested_layers().items()}
    config = TrainConfig(int8_epochs=6, recalibration_samples=48)
    reports = fine_tune_int8(net, small_batches(), F.cross_entropy, config, state_path=tmp_path / "state")
    assert [report.stage for report in reports] == ["int8"] * 6
    assert all(torch.equal(layer.first_level, masks[name]) for name, layer in net.nested_layers().items())
    assert sum(reports[-1].losses.values()) < sum(reports[0].losses.values())
    assert len(ranges(net)) == len(masks)
    again = trained()
    options = {"state_path": tmp_path / "state", "on_progress": pytest.fail}
    assert fine_tune_int8(again, small_batches(), F.cross_entropy, config, **options) == reports
    assert all(torch.equal(value, snapshot(net)[key]) for key, value in snapshot(again).items())


def test_a_float_file_of_a_fine_tuned_net_holds_float_weights(tmp_path: Path) -> None:
    """Export compares the file with the net without rounding, and leaves the net as it was."""
    net = nested_small_net()
    fine_tune_int8(net, small_batches(), F.cross_entropy, TrainConfig(int8_epochs=1, recalibration_samples=48))
    net.eval()
    example = torch.rand(2, 1, 8, 8)
    rounded = net(example)
    with Session(export(net, (example,), tmp_path / "net.safetensors"), threads=1) as session, not_rounded(net):
        got = session.run({"input": example.numpy()})["output"]
        np.testing.assert_allclose(got, net(example).detach(), rtol=1e-4, atol=1e-4)
    assert torch.equal(net(example), rounded)


def test_weights_that_no_level_keeps_stay() -> None:
    net = trained()
    before = copy.deepcopy(net)
    fine_tune_int8(net, small_batches(), F.cross_entropy)
    moved = 0
    for name, layer in net.nested_layers().items():
        outside = ~layer.mask(net.level_count - 1)
        assert torch.equal(layer.values[outside], before.nested_layers()[name].values[outside])
        moved += not torch.equal(layer.values, before.nested_layers()[name].values)
    assert moved == len(net.nested_layers())


def test_layers_that_stay_float() -> None:
    net = nested_small_net()
    round_to_int8(net, ("0", "9"))
    assert set(ranges(net)) == {"3"}
    with pytest.raises(TrainingError, match=r"int8_keep_float: no layer matches 'fc'; the layers are: 0, 3, 9"):
        round_to_int8(net, ("fc",))
    wide = nest(nn.Sequential(nn.Linear(MAX_COLUMNS + 1, 1), nn.Linear(1, 4)), densities=(0.5, 1.0))
    round_to_int8(wide)
    assert set(ranges(wide)) == {"1"}


def test_a_second_training_starts_without_rounding() -> None:
    """The first stages of a run are float32, whatever the net did before."""
    net, other = trained(), trained()
    round_to_int8(net)
    config = replace(QUICK, dense_epochs=1, search_epochs=0)
    for each in (net, other):
        torch.manual_seed(1)
        train(each, small_batches(), F.cross_entropy, config, schedule=Gradual(), nesting=GROW)
    assert all(torch.equal(value, snapshot(other)[key]) for key, value in snapshot(net).items())


def test_wrong_settings() -> None:
    with pytest.raises(TrainingError, match=r"TrainConfig.int8_epochs: expected a whole number >= 0, got -1"):
        TrainConfig(int8_epochs=-1)
    with pytest.raises(TrainingError, match=r"int8_keep_float: expected a tuple of layer names, got 'fc'"):
        TrainConfig(int8_keep_float="fc")  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match=r"int8_epochs: expected a whole number >= 1, got 0"):
        fine_tune_int8(nested_small_net(), small_batches(), F.cross_entropy, TrainConfig())
    with pytest.raises(TrainingError, match="batches: expected a function of the epoch's number"):
        fine_tune_int8(nested_small_net(), [], F.cross_entropy)  # type: ignore[arg-type]


def test_an_int8_file_has_the_ranges_of_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with other calibration data. The file answers as the net does, which rounds in the same places.

    The answers of this network to random images hardly differ, so its layers would stay float32 by themselves.
    """
    monkeypatch.setattr(importlib.import_module("nested_sparse.trainer.export.int8.quantise"), "LEAST_SQNR_DB", 0.0)
    net = nested_small_net()
    fine_tune_int8(net, small_batches(), F.cross_entropy, TrainConfig(int8_epochs=2, recalibration_samples=48))
    net.eval()
    images = torch.cat([inputs for inputs, _ in small_batches()(0)])
    path = tmp_path / "net.safetensors"
    export(net, (images[:2],), path, values="int8", calibration=[(0.7 * images, None)])
    with Checkpoint.open(path) as checkpoint:
        graph = onnx.load_from_string(checkpoint.graph()).graph
    written = {node.output[0]: attributes(node) for node in graph.node if node.domain}
    for name in ("0", "3"):
        (node,) = (node for node in graph.node if attributes(node).get("layer") == name.encode())
        scales, zeros = scale_and_zero(ranges(net)[name])
        assert written[node.input[0]]["y_scale"] == scales.tolist()
        assert written[node.input[0]]["y_zero"] == zeros.int().tolist()
    with Session(path, threads=1) as session:
        for level in range(net.level_count):
            net.set_level(level)
            got = session.run({"input": images.numpy()}, level=level)["output"]
            expected = net(images).detach().numpy()
            with not_rounded(net):
                exact = net(images).detach().numpy()
            assert np.square(got - expected).mean() < 0.02 * np.square(exact).mean()


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
