"""Models that are sparse already: their zeros stay, and a densest level that drops nothing is the model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_models import small_net
from torch import Tensor, nn
from torch.nn.utils import prune

from nested_sparse.errors import BudgetError
from nested_sparse.runtime import Session
from nested_sparse.trainer import NestedModel, export, nest_pretrained


def inputs(count: int = 48) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(5))


def settled_net() -> nn.Sequential:
    """`small_net` whose norms have statistics."""
    model = small_net().train()
    model(inputs())
    return model.eval()


def pruned(how: str) -> nn.Sequential:
    """`settled_net` with 30 % of the weights of two layers."""
    model = settled_net()
    for place in (3, 9):
        layer = model[place]
        prune.l1_unstructured(layer, "weight", amount=0.7)
        if how == "zeros":
            prune.remove(layer, "weight")
    return model


def kept(net: NestedModel, level: int) -> dict[str, Tensor]:
    return {name: layer.mask(level) for name, layer in net.nested_layers().items()}


@pytest.mark.parametrize("how", ["masks", "zeros"])
@pytest.mark.parametrize("densities", [(0.1, 1.0), (0.1, 0.2, 0.5)])
def test_the_densest_level_is_the_given_model(how: str, densities: tuple[float, ...], tmp_path: Path) -> None:
    """Its outputs, in torch and from the file, are the model's; its masks are the model's own zeros."""
    model = pruned(how)
    net = nest_pretrained(model, [inputs()], densities=densities, keep_dense=("0",), samples=48)
    torch.testing.assert_close(net(inputs()), model(inputs()), rtol=0, atol=1e-6)
    for name in ("3", "9"):
        weight = model.get_submodule(name).weight
        assert torch.equal(kept(net, -1 + len(densities))[name], weight != 0)
        values = net.nested_layers()[name].values
        assert torch.equal(torch.where(kept(net, 0)[name], values, 0), torch.where(kept(net, 0)[name], weight, 0))
    path = export(net, (inputs(2),), tmp_path / "net.safetensors")
    with Session(path, threads=1) as session:
        got = torch.from_numpy(session.run({"input": inputs().numpy()})["output"])
    torch.testing.assert_close(got, model(inputs()), rtol=0, atol=1e-5)


def test_a_level_below_the_models_own_density_is_solved() -> None:
    """No zero of the model returns, and the values are those of least squares, not the model's."""
    model = pruned("zeros")
    net = nest_pretrained(model, [inputs()], densities=(0.1, 0.2), keep_dense=("0",), samples=48)
    for name in ("3", "9"):
        weight = model.get_submodule(name).weight
        assert not bool((kept(net, 1)[name] & (weight == 0)).any())
        values = torch.where(kept(net, 1)[name], net.nested_layers()[name].values, 0)
        assert not torch.equal(values, torch.where(kept(net, 1)[name], weight, 0))


def test_a_dense_model_at_density_one_is_the_given_model() -> None:
    """The sparser levels are then masks over the same values, and still follow the model."""
    model = settled_net()
    net = nest_pretrained(model, [inputs()], densities=(0.5, 1.0), keep_dense=("0",), keep_values=True)
    torch.testing.assert_close(net(inputs()), model(inputs()), rtol=0, atol=1e-6)
    net.set_level(0)
    error = (net(inputs()) - model(inputs())).square().mean()
    assert 0 < error.item() < 0.5 * float(model(inputs()).detach().var())


def test_levels_above_the_models_own_density_are_refused() -> None:
    """Two of them would be the same level."""
    with pytest.raises(BudgetError, match=r"levels 1 and 2 keep the same weights: .* zeros leave"):
        nest_pretrained(pruned("zeros"), [inputs()], densities=(0.1, 0.5, 0.8), keep_dense=("0",))
