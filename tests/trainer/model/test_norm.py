"""Level norms: a user's norm keeps its additional behaviour at every level, and in the file."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import InputError
from nested_sparse.runtime import Session
from nested_sparse.trainer import NestedModel, export, nest, nest_pretrained, recalibrate, train
from nested_sparse.trainer.config import TrainConfig
from nested_sparse.trainer.model.norm import LevelBatchNorm
from nested_sparse.trainer.nestings import FreezeThenGrow
from nested_sparse.trainer.schedules import OneShot

DENSITIES = (0.3, 0.7)


class NormAct(nn.BatchNorm2d):
    """A norm like timm's BatchNormAct2d: torch's forward written out, then dropout and activation."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Dropout(0.5), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        used = self.training or not self.track_running_stats
        mean = self.running_mean if not self.training or self.track_running_stats else None
        var = self.running_var if not self.training or self.track_running_stats else None
        x = F.batch_norm(x, mean, var, self.weight, self.bias, used, self.momentum or 0.0, self.eps)
        return self.act(self.drop(x))


class Gained(nn.BatchNorm2d):
    """A norm with an operation before it, and its own parameter after it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.gain = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(2 * x + 1) * self.gain


class Wide(nn.BatchNorm2d):
    """A norm with another epsilon than its attribute says."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, 1.0)


class ByHand(nn.BatchNorm2d):
    """A norm that does not call torch's batch_norm."""

    def forward(self, x: Tensor) -> Tensor:
        mean, var, weight, bias = (
            value[:, None, None] for value in (self.running_mean, self.running_var, self.weight, self.bias)
        )
        return ((x - mean) / (var + self.eps).sqrt() * weight + bias).tanh()


class Named(nn.BatchNorm2d):
    """A norm with one more attribute, which computes as torch's does."""

    kind = "named"


class Exp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


def hooked(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    norm.register_forward_pre_hook(lambda module, args: (args[0].abs(),))
    norm.register_forward_hook(lambda module, args, out: out.sigmoid())
    return norm


def patched(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    norm.forward = types.MethodType(lambda self, x: nn.BatchNorm2d.forward(self, x).sin(), norm)  # type: ignore[method-assign]
    return norm


def parametrized(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    parametrize.register_parametrization(norm, "weight", Exp())
    return norm


NORMS = {  # and the operators between the two convolutions, where the first takes the norm's scale and shift
    NormAct: [],
    Gained: None,
    Wide: None,
    ByHand: None,
    Named: [],
    hooked: None,
    patched: ["Sin"],
    parametrized: None,
    nn.SyncBatchNorm: [],
}


def net_of(make: Callable[[int], nn.Module], **options: object) -> NestedModel:
    """A convolution, the norm, and another convolution; all values of each level's norm differ."""
    torch.manual_seed(0)
    arguments: dict[str, object] = {"densities": DENSITIES, "pattern": "block4x1", **options}
    net = nest(nn.Sequential(nn.Conv2d(2, 8, 3), make(8), nn.Conv2d(8, 4, 1)), **arguments).eval()  # type: ignore[arg-type]
    for norms in net.level_norms().values():
        for norm in norms.norms:
            norm.running_mean.normal_()  # type: ignore[operator, union-attr]
            norm.running_var.uniform_(0.5, 2.0)  # type: ignore[operator, union-attr]
            for parameter in norm.parameters():
                nn.init.uniform_(parameter, 0.5, 1.5)
    return net


def operators(path: Path) -> list[str]:
    with Checkpoint.open(path) as checkpoint:
        return [node.op_type for node in onnx.load_from_string(checkpoint.graph()).graph.node]


@pytest.mark.parametrize("make", NORMS, ids=lambda make: make.__name__)
def test_the_file_computes_what_the_norm_does(make: Callable[[int], nn.Module], tmp_path: Path) -> None:
    """At every level the file, with the level's values, agrees with the user's module between plain convolutions."""
    net = net_of(make)
    x = torch.randn(2, 2, 6, 6)
    path = export(net, (x,), tmp_path / "net.safetensors", verify=False)
    first, last = net.nested_layers().values()
    (norms,) = net.level_norms().values()
    with Session(path, threads=1) as session, torch.no_grad():
        for level in range(len(DENSITIES)):
            y = F.conv2d(x, first.masked_weight(level), first.bias[level])
            y = F.conv2d(norms.norms[level](y), last.masked_weight(level), last.bias[level])
            got = torch.from_numpy(session.run({"input": x.numpy()}, level=level)["output"])
            assert torch.allclose(got, y, atol=1e-5 * float(y.abs().max()))
            net.set_level(level)
            assert torch.allclose(net(x), y, atol=1e-6)
    if NORMS[make] is not None:
        assert operators(path) == ["NestedConv", *NORMS[make], "NestedConv"]


@pytest.mark.parametrize("make", [NormAct, Gained, hooked, parametrized], ids=lambda make: make.__name__)
def test_statistics_are_of_what_is_normalised(make: Callable[[int], nn.Module]) -> None:
    """Recalibration measures the input of batch_norm, whatever the module does to its own input; dropout stays off."""
    net = net_of(make)
    x = torch.randn(16, 2, 6, 6)
    (norms,) = net.level_norms().values()
    before = {"NormAct": lambda y: y, "Gained": lambda y: 2 * y + 1, "hooked": torch.abs, "parametrized": lambda y: y}
    recalibrate(net, [(x, None)], samples=16)
    for level, norm in enumerate(norms.norms):
        net.set_level(level)
        with torch.no_grad():
            y = before[make.__name__](net.model[0](x))  # type: ignore[index, operator]
        assert torch.allclose(norm.running_mean, y.mean((0, 2, 3)), atol=1e-5)  # type: ignore[arg-type]
        assert torch.allclose(norm.running_var, y.var((0, 2, 3)), atol=1e-4)  # type: ignore[arg-type]
    modes = {module: module.training for module in net.modules()}
    assert not any(modes.values())


def test_post_training_calibrates_them_too() -> None:
    """nest_pretrained sets the statistics of the tensors that the norm normalises."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 8, 3), Gained(8), nn.Conv2d(8, 4, 1)).eval()
    x = torch.randn(32, 2, 6, 6)
    net = nest_pretrained(model, [x], densities=DENSITIES, samples=32)
    (norms,) = net.level_norms().values()
    for level, norm in enumerate(norms.norms):
        net.set_level(level)
        with torch.no_grad():
            y = 2 * net.model[0](x) + 1  # type: ignore[index, operator]
        assert torch.allclose(norm.running_mean, y.mean((0, 2, 3)), atol=1e-4)  # type: ignore[arg-type]


def test_they_train() -> None:
    """Each level trains its own gain; a level's stage does not change those below."""
    net = net_of(Gained)
    gains: list[Tensor] = [norm.gain for norm in net.level_norms()["1"].norms]  # type: ignore[misc]
    x, y = torch.randn(8, 2, 6, 6), torch.randn(8, 4, 4, 4)
    seen: list[Tensor] = []

    def batches(epoch: int) -> list[tuple[Tensor, Tensor]]:
        seen.append(gains[0].detach().clone())
        return [(x, y)]

    config = TrainConfig(dense_epochs=1, search_epochs=1, recalibration_samples=0, distill_weight=0.0)
    train(net, batches, F.mse_loss, config, schedule=OneShot(), nesting=FreezeThenGrow(epochs_per_level=2))
    assert not torch.equal(seen[0], seen[-1])
    assert torch.equal(seen[-1], gains[0])
    assert not torch.equal(gains[0], gains[1])


class Sharing(nn.Module):
    """Two norms with one scale, and a norm whose shift is a parameter of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.two.weight = self.one.weight
        self.shift = self.two.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(self.conv(x))) + self.shift[:, None, None]


def test_what_norms_share_stays_shared() -> None:
    """Norms of a level share their part; all levels share the parts of the rest of the model."""
    net = nest(Sharing(), densities=DENSITIES)
    one, two = net.level_norms().values()
    for level in range(2):
        assert one.norms[level].weight is two.norms[level].weight
        assert two.norms[level].bias is net.model.shift
    assert one.norms[0].weight is not one.norms[1].weight
    assert two.norms[0].running_mean is not two.norms[1].running_mean


class Conditional(nn.BatchNorm2d):
    """A norm whose scale a linear layer computes."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.project, self.inner = nn.Linear(channels, channels), nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.inner(self.project(x.mean((2, 3))))[:, :, None, None]


def test_layers_within_a_norm_are_a_part_of_it(tmp_path: Path) -> None:
    """They are dense, with a reason, and each level has its own; the file agrees with torch."""
    net = net_of(Conditional)
    assert list(net.nested_layers()) == ["0", "2"]
    assert list(net.level_norms()) == ["1"]
    assert "part of 1" in net.dense_layers()["1.project"]
    export(net, (torch.randn(2, 2, 6, 6),), tmp_path / "net.safetensors")  # verifies


def test_a_coupled_group_ends_at_a_norm_of_the_users() -> None:
    """A user's norm may combine channels, so the group ends there; torch's own norms pass channels on."""
    for make, whole in ((NormAct, True), (nn.BatchNorm2d, False)):
        net = nest(
            nn.Sequential(nn.Conv2d(2, 16, 1), make(16), nn.Conv2d(16, 4, 1)), densities=(0.5,), pattern="channel"
        )
        assert bool(net.nested_layers()["0"].mask(0).all()) is whole


def test_a_forward_that_holds_the_original_is_refused() -> None:
    """A copy of the model would run the original's weights: copy.deepcopy copies no closures."""
    norm, conv = nn.BatchNorm2d(4), nn.Conv2d(2, 4, 1)
    plain = norm.forward
    norm.forward = lambda x: F.silu(plain(x))  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"1 \(BatchNorm2d\).*forward was replaced.*MethodType"):
        nest(nn.Sequential(conv, norm), densities=DENSITIES)


def test_a_replaced_forward_of_a_layer_is_kept() -> None:
    """The layer stays dense, with a reason."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    model[0].forward = types.MethodType(lambda self, x: nn.Linear.forward(self, x).relu(), model[0])
    net = nest(model, densities=(0.5, 1.0))
    assert "forward was replaced" in net.dense_layers()["0"]
    x = torch.randn(3, 4)
    assert torch.equal(net(x), model(x))


def test_lazy_norms_are_refused_by_name() -> None:
    """Lazy norms have no channels yet."""
    for lazy in (nn.LazyBatchNorm2d(), nn.LazyBatchNorm2d(affine=False)):
        with pytest.raises(InputError, match=r"'1'.*run one batch"):
            nest(nn.Sequential(nn.Conv2d(2, 4, 1), lazy), densities=DENSITIES)


def test_copies_are_independent() -> None:
    """A deep copy of the nested model has its own norms, hooks included."""
    net = net_of(hooked)
    other = copy.deepcopy(net)
    with torch.no_grad():
        for norms in other.level_norms().values():
            for norm in norms.norms:
                assert isinstance(norm, _BatchNorm)
                norm.running_mean += 1
    x = torch.randn(2, 2, 6, 6)
    assert not torch.equal(net(x), other(x))
    assert all(isinstance(norms, LevelBatchNorm) and not norms.plain for norms in other.level_norms().values())
