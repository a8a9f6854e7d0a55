"""Memory format: the order of a net's image tensors in memory while it trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .model.structure import with_tensors


@contextmanager
def channels_last(net: nn.Module) -> Iterator[None]:
    """A context in which the 4-D parameters of `net` lie in memory with their channels last; then as before.

    torch's convolutions and norms on images are faster so, on CPUs and in tensor cores. Values do not change. A
    parameter keeps its identity.
    """
    changed = arrange_channels_last(net)
    try:
        yield
    finally:
        _arrange(changed, torch.contiguous_format)


def arrange_channels_last(net: nn.Module) -> list[Tensor]:
    """Lay the 4-D parameters of `net` that are contiguous in memory with their channels last; returns them."""
    changed: list[Tensor] = [each for each in net.parameters() if each.dim() == 4 and each.is_contiguous()]
    _arrange(changed, torch.channels_last)
    return changed


def images_channels_last(inputs: Any) -> Any:
    """`inputs`, a tensor or a container of tensors, with every 4-D tensor in memory with its channels last."""
    return with_tensors(
        inputs, lambda tensor: tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
    )


def _arrange(parameters: Sequence[Tensor], memory_format: torch.memory_format) -> None:
    for parameter in parameters:
        parameter.data = parameter.data.contiguous(memory_format=memory_format)
