"""The tool conflicts: cosines of two levels' gradients on the sparser level's weights."""

from __future__ import annotations

import argparse
import importlib
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_recipe import tiny
from torch import Tensor, nn

from nested_sparse.trainer import NestedModel, TrainConfig, nest
from nested_sparse.trainer.stage import Work

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    sys.path.insert(0, str(TOOLS))
    try:
        return importlib.import_module("conflicts")
    finally:
        sys.path.remove(str(TOOLS))


def small_net() -> NestedModel:
    """Two linear layers with a norm whose statistics a forward pass would change, and dropout."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(12, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Dropout(0.0), nn.Linear(10, 3))
    return nest(model, densities=(0.2, 0.5, 0.9))


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [
        (torch.randn(8, 12, generator=generator), torch.randint(0, 3, (8,), generator=generator)) for _ in range(count)
    ]


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / math.sqrt(float((a * a).sum()) * float((b * b).sum())))


def test_the_figures_are_those_of_gradients_taken_one_by_one(tool: ModuleType) -> None:
    """The same gradients by `backward`, one level after the other, on a second net; the measured net stays as it is."""
    net, other, given = small_net(), small_net().train(), batches(5)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    net.set_level(1)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    random = torch.get_rng_state()
    found = tool.conflicts(Work(net, TrainConfig(), F.cross_entropy), given)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert all(bool((parameter.grad == 1).all()) for parameter in net.parameters() if parameter.grad is not None)
    assert (net.level, net.training) == (1, True)
    assert torch.equal(random, torch.get_rng_state())

    cosines: list[list[float]] = []
    gradients: list[list[Tensor]] = []
    for images, labels in given:
        of_levels = []
        for level in range(3):
            other.set_level(level)
            other.zero_grad()
            F.cross_entropy(other(images), labels).backward()  # type: ignore[no-untyped-call]
            of_levels.append(torch.cat([layer.values.grad.flatten() for layer in other.nested_layers().values()]))
        gradients.append(of_levels)
    for sparser, denser in ((0, 1), (0, 2), (1, 2)):
        own = torch.cat([layer.mask(sparser).flatten() for layer in other.nested_layers().values()])
        cosines.append([cosine(each[sparser][own], each[denser][own]) for each in gradients])
        sums = [sum((each[level][own] for each in gradients), torch.zeros(())) for level in (sparser, denser)]
        got = found[tool.ALL][sparser, denser]
        assert got.cosine == pytest.approx(sum(cosines[-1]) / 5, abs=1e-4)
        assert got.cosine_of_sums == pytest.approx(cosine(*sums), abs=1e-4)
        assert got.negative == sum(each < 0 for each in cosines[-1]) / 5
    assert len({round(each, 3) for of_pair in cosines for each in of_pair}) > 5, "the test's cosines are all alike"


def test_levels_of_one_answer_agree_and_opposed_losses_do_not(tool: ModuleType) -> None:
    """Two whole levels have one gradient. Where the sign of the loss turns with the level, each batch is a conflict."""
    net = small_net()
    for layer in net.nested_layers().values():
        layer.first_level.zero_()
    alike = tool.conflicts(Work(net, TrainConfig(), F.cross_entropy), batches(2))
    assert alike[tool.ALL][0, 2].negative == 0
    assert alike[tool.ALL][0, 2].cosine == pytest.approx(1.0)

    def opposed(outputs: Any, targets: Any) -> Tensor:
        return F.cross_entropy(outputs, targets) * (-1.0 if net.level == 2 else 1.0)

    turned = tool.conflicts(Work(net, TrainConfig(), opposed), batches(2))
    assert turned[tool.ALL][0, 2].negative == 1
    assert turned[tool.ALL][0, 2].cosine == pytest.approx(-1.0)
    assert turned[tool.ALL][0, 1].cosine == pytest.approx(1.0)
    assert "100 %, -1.00, -1.00" in tool.table(turned)


def test_moments_of_a_run_and_a_state_of_it_give_one_table(tool: ModuleType, tmp_path: Path) -> None:
    """Measuring does not change the training, and the state after an epoch has the figures of that moment."""
    recipe = tiny(tmp_path, "nesting.name=interleaved", "nesting.epochs=1")
    options = argparse.Namespace(after=[2, 3], state=None, batches=2, soft_weight=0.5)
    during = dict(tool.measured(recipe, options))
    assert [*during] == [2, 3]
    data, net = tool.start(recipe)

    class StoppedError(Exception):
        """Ends the run after its second epoch."""

    def stop(report: Any) -> None:
        if report.done_epochs == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        tool.train_by(recipe, data, net, tmp_path / "run.state", stop)
    options.state = tmp_path / "run.state"
    assert dict(tool.measured(recipe, options)) == {2: during[2]}
