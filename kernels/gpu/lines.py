"""Lines: batches of vectors in memory feature by feature, (features, N), as the kernels read and write them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

_ALIGNMENT = 16
"""Elements by which a line of N is made longer, so that each line begins where a load of 16 bytes may begin."""


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor (images, rows, pixels) with any strides, and the number of places, all images counted, that exist in it.

    There may be more than the batch has, where lines are longer than the batch.
    """

    tensor: torch.Tensor
    places: int


def on_device(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """Makes the tensor's GPU the current one, on which Triton launches; nothing for the interpreter."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def rounded_up(count: int) -> int:
    """Length of a line of `count` vectors that this package makes."""
    return -(-count // _ALIGNMENT) * _ALIGNMENT


def lines_of(tensor: torch.Tensor) -> torch.Tensor:
    """(features, N) from [..., features]; a view where strides allow."""
    return tensor.reshape(-1, tensor.shape[-1]).t()


def new_lines(like: torch.Tensor, features: int) -> tuple[torch.Tensor, Operand]:
    """A new [..., features] of the dtype and the other sizes of `like`, which lies by feature, and all of its lines."""
    count = like.numel() // max(1, like.shape[-1])
    lines = like.new_empty(features, rounded_up(count))
    return lines[:, :count].t().view(*like.shape[:-1], features), Operand(lines[None], lines.shape[1])


def by_feature(x: torch.Tensor) -> Operand:
    """X [..., K] with neighbouring N: as it is where it lies so, else a copy with aligned lines."""
    lines = lines_of(x)
    if lines.stride(1) != 1 and lines.shape[1] != 1:
        copy = x.new_empty(lines.shape[0], rounded_up(lines.shape[1]))[:, : lines.shape[1]]
        lines = copy.copy_(lines)
    return with_room(lines)


def with_room(lines: torch.Tensor) -> Operand:
    """(features, N) lines, each up to the next one's begin where they lie as those that this file makes.

    A mask that ends within 16 bytes makes Triton load element by element. Elements behind the N-th feed only outputs
    behind the N-th, which lie in the same place.
    """
    longer = rounded_up(lines.shape[1])
    room = lines.untyped_storage().nbytes() // lines.element_size() - lines.storage_offset()
    ours = lines.stride() == (longer, 1) and len(lines) * longer <= room
    return Operand(lines[None], longer if ours else lines.shape[1])
