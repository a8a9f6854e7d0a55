"""Batch: inputs in containers of every kind, trained on, scored on and calibrated on."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nested_sparse.trainer import FreezeThenGrow, TrainConfig, accuracy_per_level, nest, nest_pretrained, train
from nested_sparse.trainer.batch import moved


class Two(NamedTuple):
    """Inputs of a model with two arguments."""

    a: Tensor
    b: Tensor


class Sum(nn.Module):
    """A classifier of the sum of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, a: Tensor, b: Tensor) -> Any:
        return self.last(self.first(a + b).relu())


def two(count: int = 6) -> Two:
    """Inputs for `Sum`."""
    generator = torch.Generator().manual_seed(count)
    return Two(torch.rand(count, 8, generator=generator), torch.rand(count, 8, generator=generator))


CONTAINERS = {
    "named tuple": lambda inputs: inputs,
    "tuple": tuple,
    "list": list,
    "dict": lambda inputs: inputs._asdict(),
    "read-only mapping": lambda inputs: MappingProxyType(inputs._asdict()),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_inputs_in_any_container_give_the_same_net(kind: str) -> None:
    """The container is only a wrapping: trained, scored and calibrated nets are those of a plain tuple, bit for bit."""

    def results(wrap: Any) -> list[Any]:
        torch.manual_seed(0)
        batches = [(wrap(two(count)), torch.arange(count) % 3) for count in (6, 9)]
        net = nest(Sum(), densities=(0.3, 0.6))
        config, nesting = TrainConfig(dense_epochs=1, search_epochs=1), FreezeThenGrow(epochs_per_level=1)
        train(net, lambda epoch: batches, F.cross_entropy, config, nesting=nesting)
        calibrated = nest_pretrained(Sum(), batches, densities=(0.3, 0.6), samples=12)
        return [*net.parameters(), *calibrated.parameters(), torch.tensor(accuracy_per_level(net, batches))]

    for got, expected in zip(results(CONTAINERS[kind]), results(tuple), strict=True):
        assert torch.equal(got, expected)


def test_moving_keeps_the_container() -> None:
    """Every tensor is on the device, in a container of the same class; other values stay."""
    meta = moved({"pair": (two(), [torch.ones(1), None, 3])}, torch.device("meta"))
    inputs, rest = meta["pair"]
    assert type(inputs) is Two
    assert {each.device.type for each in (*inputs, rest[0])} == {"meta"}
    assert (type(rest), rest[1:]) == (list, [None, 3])
