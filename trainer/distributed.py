"""Distributed training: processes that torchrun starts and that train one net on parts of each batch.

Gradients are averaged over all processes after backward and before the optimizer. So every process holds the same
parameters, bit for bit, whichever levels a step ran. torch's DistributedDataParallel is not used: it expects one
backward per step over one fixed set of parameters, but each level has its own norms and a joint step has several
backwards.

Batch norms: each process normalises by its own part of the batch, as DistributedDataParallel does. Only a net without
batch norms computes the same as one process with whole batches. Running statistics differ between the processes during
an epoch and are averaged at its end (`agree`). They are exponential averages, which are linear, so their mean equals
the result of averaging after every step. The final recalibration measures process 0's batches.

Random draws that must agree come from process 0 (`from_first`, `agree`). Dropout and similar draws belong to each
process, so the processes may have equal or different seeds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import reduce
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nested_sparse.errors import TrainingError

ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that torchrun sets for each process."""


@contextmanager
def start_processes(timeout_s: float = 600.0) -> Iterator[int]:
    """Join the processes that torchrun started, while the context lasts; yields this process's rank.

    Nothing happens without torchrun's environment, or when torch.distributed is initialised already. The backend is
    gloo on a CPU, and nccl with CUDA, where each process gets a device. A process stops waiting for another one after
    `timeout_s`, or as soon as the other one is gone. Raises TrainingError: the processes do not meet, or there are
    fewer devices than processes.
    """
    if not dist.is_available() or dist.is_initialized() or any(name not in os.environ for name in ENVIRONMENT):
        yield rank()
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(_own_cuda_device())
        backend = "cpu:gloo,cuda:nccl"
    with _reported("the processes that torchrun started did not meet"):
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    try:
        yield rank()
    finally:
        dist.destroy_process_group()


def _own_cuda_device() -> int:
    own, devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if own >= devices:
        raise TrainingError(f"torchrun started process {own + 1} here for {devices} CUDA devices; start one per device")
    return own


def world_size() -> int:
    """Number of processes that train together; 1 when torch.distributed is not initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


@torch.no_grad()
def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient by its mean over the processes; a gradient that a process lacks counts as zero there.

    A gradient that all processes lack stays None, so the optimizer skips its parameter as in a single process.
    """
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    if world_size() == 1 or not wanted:
        return
    missing = torch.tensor([float(parameter.grad is None) for parameter in wanted], device=wanted[0].device)
    gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in wanted]
    average([*gradients, missing], reduce(torch.promote_types, (each.dtype for each in gradients), torch.float32))
    for parameter, gradient, lacking in zip(wanted, gradients, missing.tolist(), strict=True):
        parameter.grad = None if lacking == 1 else gradient


@torch.no_grad()
def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of `value` over the processes."""
    averaged = value.clone()
    average([averaged])
    return averaged


@torch.no_grad()
def average(tensors: Sequence[Tensor], dtype: torch.dtype = torch.float64) -> None:
    """Replace each tensor by its mean over the processes, computed in `dtype`, with one message for all tensors.

    In float64, float32 values that are equal in all processes stay the same, bit for bit.
    """
    if world_size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1).to(dtype) for tensor in tensors])
    with _reported():
        dist.all_reduce(flat)
    flat /= world_size()
    for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.reshape(tensor.shape))


@torch.no_grad()
def copy_tensors(source: int, tensors: Sequence[Tensor]) -> None:
    """Give each tensor the bits that it has in process `source`, with one message for tensors of any types."""
    if world_size() == 1 or not sum(tensor.numel() for tensor in tensors):
        return
    sent = [tensor.detach().reshape(-1).contiguous().view(torch.uint8) for tensor in tensors]
    flat = torch.cat(sent)
    with _reported():
        dist.broadcast(flat, source)
    for tensor, part in zip(tensors, torch.split(flat, [len(each) for each in sent]), strict=True):
        tensor.copy_(part.clone().view(tensor.dtype).reshape(tensor.shape))  # cloned: a view must begin at a whole item


def copy_from(source: int, net: nn.Module) -> None:
    """Copy the parameters and buffers of process `source` to every process."""
    copy_tensors(source, [*net.parameters(), *net.buffers()])


def from_first(tensor: Tensor) -> Tensor:
    """Process 0's `tensor`, for a random draw that all processes must share."""
    copied = tensor.clone()
    copy_tensors(0, [copied])
    return copied


def agree(net: nn.Module) -> None:
    """Make `net` equal in all processes: running statistics become their mean, all else comes from process 0."""
    if world_size() > 1:
        average([buffer for buffer in net.buffers() if buffer.is_floating_point()])
        copy_from(0, net)


def gathered(value: Any) -> list[Any]:
    """The values of all processes, in process 0; an empty list in the other processes.

    value: plain Python values or CPU tensors.
    """
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    with _reported():
        dist.gather_object(value, values if rank() == 0 else None)
    return values if rank() == 0 else []


def require_equal(given: Mapping[str, object]) -> None:
    """Raise TrainingError, in every process, when a process has another value than process 0."""
    if world_size() == 1:
        return
    everyone: list[dict[str, object]] = [{} for _ in range(world_size())]
    with _reported():
        dist.all_gather_object(everyone, dict(given))
    for process, theirs in enumerate(everyone):
        for key, expected in everyone[0].items():
            if theirs.get(key) != expected:
                raise TrainingError(
                    f"{key}: all processes need the same; process 0 has {expected}, process {process} has "
                    f"{theirs.get(key)}"
                )


@contextmanager
def _reported(what: str = "another process failed, or did not answer in time") -> Iterator[None]:
    """Turn the RuntimeError of a failed exchange into a TrainingError. what: the likely cause."""
    try:
        yield
    except RuntimeError as error:
        number = os.environ.get("RANK", "?")
        raise TrainingError(f"process {number}: {what}; see the error that came first ({error})") from error
