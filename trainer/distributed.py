"""Distributed: several processes train one net on parts of each batch, started by torchrun.

Gradients are averaged after backward, over all processes, before the optimizer; so every process holds the same net,
bit for bit, whatever levels a step ran. torch's DistributedDataParallel is not used: it counts on one backward per step
over one fixed set of parameters, while levels have norms of their own and a joint step has several backwards.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world_size() -> int:
    """Processes that train together; 1 when torch.distributed is not initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process among them, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


@torch.no_grad()
def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient by its mean over the processes; one that a process lacks counts as zero there."""
    if world_size() == 1:
        return
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in wanted:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    _mean_over_processes([parameter.grad for parameter in wanted if parameter.grad is not None])


@torch.no_grad()
def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of `value` over the processes."""
    averaged = value.clone()
    if world_size() > 1:
        _mean_over_processes([averaged])
    return averaged


@torch.no_grad()
def copy_from(source: int, net: nn.Module) -> None:
    """Make every process's parameters and buffers those of process `source`."""
    if world_size() == 1:
        return
    for tensor in net.state_dict().values():
        dist.broadcast(tensor, source)


def _mean_over_processes(tensors: list[Tensor]) -> None:
    """In one message, in place."""
    flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world_size()
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.reshape(tensor.shape))
