"""Models: their sizes and versions."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort
import pytest
import torch
from torch import nn

from nested_sparse.trainer.zoo import DigitNet, MobileNetV2, PointNet2, ResNet50
from nested_sparse.trainer.zoo.pointnet2 import SetAbstraction


def conv_flops(model: nn.Module, x: torch.Tensor) -> int:
    """2 × multiply-adds of all convolutions, counted from the shapes in a pass."""
    counted = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda conv, _, y: counted.append(2 * conv.weight.numel() * y.shape[-2] * y.shape[-1])
            )
    model.eval()(x)
    return sum(counted)


def test_digit_net_has_the_size_it_says() -> None:
    """About 0.7 million weights and 0.21 GFLOP at width 32; other widths, channels and sizes work."""
    model = DigitNet()
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(0.7e6, rel=0.02)
    assert conv_flops(model, torch.zeros(1, 1, 32, 32)) == pytest.approx(0.21e9, rel=0.03)
    assert DigitNet(width=8, channels=3, classes=5)(torch.zeros(2, 3, 28, 28)).shape == (2, 5)


def test_resnet50_is_version_1_5() -> None:
    """8.2 GFLOP at 224 × 224 (4.1 with the stride in the first convolution would be 7.7), 1000 logits."""
    model = ResNet50()
    assert conv_flops(model, torch.zeros(1, 3, 224, 224)) == pytest.approx(8.17e9, rel=0.01)
    assert model.layer2[0].conv2.stride == (2, 2)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


def test_mobilenet_v2_has_the_size_it_says() -> None:
    """3.5 million weights and 0.6 GFLOP at 224 × 224; 17 blocks, of which ten have a shortcut."""
    model = MobileNetV2()
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(3.5e6, rel=0.01)
    assert conv_flops(model, torch.zeros(1, 3, 224, 224)) == pytest.approx(0.6e9, rel=0.01)
    assert sum(block.shortcut for block in model.blocks) == 10
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


def test_a_set_is_the_nearest_points_of_each_centre() -> None:
    """Against loops over centres and points; the MLP is left out, so a place's largest values are those of its set."""
    x = torch.randn(2, 5, 13, generator=torch.Generator().manual_seed(0))
    layer = SetAbstraction(4, 3, 2, (5,))
    layer.mlp = nn.Sequential()
    centres, found = layer(x[:, :3], x[:, 3:])
    for cloud in range(2):
        for centre in range(4):
            place = x[cloud, :3, 3 * centre]
            assert torch.equal(centres[cloud, :, centre], place)
            order = sorted(range(13), key=lambda point: float(((x[cloud, :3, point] - place) ** 2).sum()))
            members = [torch.cat([x[cloud, :3, point] - place, x[cloud, 3:, point]]) for point in order[:3]]
            assert torch.equal(found[cloud, :, centre], torch.stack(members).amax(0))


def test_of_equally_distant_neighbours_torch_and_onnx_runtime_take_the_same(tmp_path: Path) -> None:
    """Points on a coarse grid, several in one place, of which each has other values."""
    torch.manual_seed(0)
    layer = SetAbstraction(8, 4, 2, (8, 8)).eval()
    feeds = {"places": torch.randint(0, 3, (2, 3, 64)).float(), "values": torch.randn(2, 2, 64)}
    torch.onnx.export(layer, tuple(feeds.values()), tmp_path / "layer.onnx", input_names=list(feeds), verbose=False)
    session = ort.InferenceSession(tmp_path / "layer.onnx")
    _, found = session.run(None, {name: value.numpy() for name, value in feeds.items()})
    expected = layer(*feeds.values())[1]
    torch.testing.assert_close(torch.from_numpy(found), expected.detach())


def test_pointnet2_has_the_size_it_says() -> None:
    """About 0.10 million weights, of which the classifier has its part; 33 MFLOP in the convolutions and linears."""
    model = PointNet2()
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(0.104e6, rel=0.01)
    assert conv_flops(model, torch.zeros(1, 5, 512)) == pytest.approx(33.4e6, rel=0.01)
    with pytest.raises(ValueError, match="a cloud of 100 points has no 128 centres of 16 neighbours"):
        model(torch.zeros(1, 5, 100))


def test_the_former_name_is_the_same_module_content() -> None:
    from nested_sparse.trainer import models, zoo

    assert models.__all__ == zoo.__all__
    assert models.DigitNet is DigitNet
