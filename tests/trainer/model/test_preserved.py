"""Preserved state: export and similar functions leave model, buffers, examples and torch unchanged."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nested_sparse.errors import ExportError, NestedSparseError
from nested_sparse.runtime import Session
from nested_sparse.trainer import (
    NestedModel,
    accuracy_per_level,
    export,
    measure_reroutes,
    nest,
    nest_pretrained,
    recalibrate,
)
from nested_sparse.trainer.export.verify import Alike, verify_export
from nested_sparse.trainer.model.preserved import Preserved, preserved


class Base(nn.Module):
    """The state that the forwards below use."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc = nn.BatchNorm1d(6), nn.Linear(6, 4)
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.seen: list[int] = []
        self.count = 0


class Normalises(Base):
    """A forward that normalises its input in place."""

    def forward(self, x: Tensor) -> Tensor:
        x -= 0.5
        x.div_(0.25)
        return self.fc(self.norm(x))


class Counts(Base):
    """A forward that counts its calls in a buffer, a list and a number, and reads none of them."""

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.mean.copy_(0.9 * self.mean + 0.1 * x.detach().mean(0))
        self.count += 1
        return self.fc(x)


class Remembers(Base):
    """A forward that keeps a running mean and subtracts it."""

    def forward(self, x: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
        return self.fc(x - self.mean)


class Draws(Base):
    """A forward that draws random numbers from three generators."""

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.rand(6) * random.random() * float(np.random.rand())
        return self.fc(x + 0 * noise)


def example() -> Tensor:
    return torch.randn(3, 6, generator=torch.Generator().manual_seed(1))


def everything(net: NestedModel) -> dict[str, object]:
    """A copy of all state that must not change."""
    return {
        "tensors": {name: value.tolist() for name, value in net.state_dict().items()},
        "identities": [id(each) for each in [*net.parameters(), *net.buffers()]],
        "gradients": [each.requires_grad for each in net.parameters()],
        "modes": [module.training for module in net.modules()],
        "attributes": [(list(each.seen), each.count) for each in net.modules() if isinstance(each, Base)],
        "hooks": [len(each._forward_hooks) + len(each._forward_pre_hooks) for each in net.modules()],
        "forwards": ["forward" in vars(each) for each in net.modules()],
        "level": net.level,
        "random": (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()),
        "torch": (
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            torch.get_default_device(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.is_inference_mode_enabled(),
        ),
    }


@pytest.mark.parametrize("kind", [Normalises, Counts, Remembers, Draws])
def test_export_leaves_everything_as_it_was(kind: type[Base], tmp_path: Path) -> None:
    """The state stays for each kind of forward, also for those that cannot be exported."""
    net = nest(kind(), densities=(0.3, 0.6))
    net.train()
    net.model.fc.weight.requires_grad_(False)
    net.set_level(0)
    x = example()
    before, given = everything(net), x.clone()
    try:
        export(net, (x,), tmp_path / "net.safetensors")
    except NestedSparseError:
        assert kind in (Remembers, Draws)
    assert everything(net) == before
    assert torch.equal(x, given)


@pytest.mark.parametrize("kind", [Normalises, Counts])
def test_a_forward_that_writes_is_exported(kind: type[Base], tmp_path: Path) -> None:
    """Writes into inputs, or into buffers that the answer does not depend on, are allowed."""
    net = nest(kind(), densities=(0.3, 0.6)).eval()
    path = export(net, (example(),), tmp_path / "net.safetensors")
    with Session(path, threads=1) as session, torch.no_grad(), preserved(net.model):
        for level in range(2):
            net.set_level(level)
            got = session.run({"input": example().numpy()}, level=level)
            assert list(got) == ["output"]
            np.testing.assert_allclose(got["output"], net(example()), atol=1e-5)


def test_state_between_calls_is_refused_by_name(tmp_path: Path) -> None:
    """A file cannot give an answer that depends on earlier calls: the error names the buffer; no file is written."""
    net = nest(Remembers(), densities=(0.3, 0.6)).eval()
    with pytest.raises(ExportError, match=r"keeps state between calls: it changes 'mean'"):
        export(net, (example(),), tmp_path / "net.safetensors", verify=False)
    assert list(tmp_path.iterdir()) == []


def test_verify_leaves_everything_as_it_was(tmp_path: Path) -> None:
    """verify_export alone keeps examples, buffers and level, too."""
    net = nest(Normalises(), densities=(0.3, 0.6)).eval()
    path = export(net, (example(),), tmp_path / "net.safetensors", verify=False)
    net.set_level(0)
    x = example()
    before, given = everything(net), x.clone()
    verify_export(net, (x,), path, fixed_batch=False, agreement=Alike(1e-4))
    assert everything(net) == before
    assert torch.equal(x, given)


def test_budget_by_flops_leaves_the_examples_and_the_model(tmp_path: Path) -> None:
    """nest runs the examples on its copy, and on copies of them."""
    model, x = Normalises(), example()
    given = x.clone()
    random_state = torch.get_rng_state()
    net = nest(model, densities=(0.3, 0.6), budget_by="flops", example_inputs=(x,))
    assert torch.equal(x, given)
    assert torch.equal(torch.get_rng_state(), random_state)
    counting = nest(Counts(), densities=(0.3, 0.6), budget_by="flops", example_inputs=(x,))
    assert counting.model.count == 0
    assert int(counting.model.calls) == 0
    assert net.level == 1


def change_value(model: Base) -> None:
    model.mean.add_(1)


def change_buffer(model: Base) -> None:
    model.mean = torch.ones(6)


def change_size(model: Base) -> None:
    model.mean.resize_(3)


def change_data(model: Base) -> None:
    model.fc.bias.data = torch.ones(7)


def add_attribute(model: Base) -> None:
    model.cache = torch.ones(2)


def change_list(model: Base) -> None:
    model.seen.append(3)


def change_number(model: Base) -> None:
    model.count += 1


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (change_value, "mean"),
        (change_buffer, "mean"),
        (change_size, "mean"),
        (change_data, "fc.bias"),
        (add_attribute, "cache"),
        (change_list, "seen"),
        (change_number, "count"),
    ],
)
@torch.no_grad()
def test_what_changed_is_named_and_put_back(change: Callable[[Base], None], name: str) -> None:
    """Tensors changed in place, replaced or resized are restored, and so are attributes; new ones are removed."""
    model = Base()
    tensors = {key: (value, value.clone()) for key, value in model.state_dict(keep_vars=True).items()}
    state = Preserved(model)
    assert state.changed() == []
    change(model)
    assert state.changed() == [name]
    state.restore()
    assert state.changed() == []
    now = model.state_dict(keep_vars=True)
    assert all(now[key] is value and torch.equal(value, copy) for key, (value, copy) in tensors.items())
    assert model.seen == []
    assert model.count == 0
    assert not hasattr(model, "cache")


def test_dropout_in_eval_mode_draws_nothing(tmp_path: Path) -> None:
    """Random generators keep their states when forward itself uses none."""
    net = nest(nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5)), densities=(0.5,))
    state = torch.get_rng_state()
    export(net, (F.relu(example()),), tmp_path / "net.safetensors")
    assert torch.equal(torch.get_rng_state(), state)


def batches() -> list[tuple[Tensor, Tensor]]:
    return [(example(), torch.tensor([0, 1, 2])), (2 * example(), torch.tensor([3, 0, 1]))]


BROTHERS = {
    "accuracy_per_level": accuracy_per_level,
    "measure_reroutes": measure_reroutes,
    "recalibrate": recalibrate,
}


class NormalisesAndCounts(Counts):
    """Two layers and a norm, so that the level can fall between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x -= 0.5
        return super().forward(self.norm(self.first(x)))


@pytest.mark.parametrize("name", BROTHERS)
def test_what_runs_the_model_leaves_buffers_and_batches(name: str) -> None:
    """Only recalibrate changes the norms' statistics. Every level gets unchanged batches."""
    net, given = nest(NormalisesAndCounts(), densities=(0.3, 0.6)).eval(), batches()
    before = everything(net)
    first = BROTHERS[name](net, given)
    after = everything(net)
    if name == "recalibrate":
        for state in (before, after):
            state["tensors"] = {key: value for key, value in state["tensors"].items() if "norm" not in key}
    assert after == before
    for (inputs, _), (expected, _) in zip(given, batches(), strict=True):
        assert torch.equal(inputs, expected)
    assert BROTHERS[name](net, batches()) == first


def test_nest_pretrained_leaves_batches_and_buffers() -> None:
    """The calibration batches stay; the copy's own buffers are the model's."""
    given = batches()
    net = nest_pretrained(NormalisesAndCounts(), given, densities=(0.3, 0.6))
    assert int(net.model.calls) == 0
    assert net.model.count == 0
    for (inputs, _), (expected, _) in zip(given, batches(), strict=True):
        assert torch.equal(inputs, expected)
