"""Operands: checks of the tensors that a layer is given."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nested_sparse.errors import InputError

from .weight import GpuWeight


def check_input(x: torch.Tensor, weight: GpuWeight, shape: Sequence[object]) -> None:
    """Check X's dtype, device and shape: `...` is any number of sizes, None any size. Raises InputError."""
    free = len(x.shape) - len(shape) + 1 if ... in shape else 0
    wanted = [None] * free + [size for size in shape if size is not ...]
    fits = len(wanted) == x.ndim and all(size in (None, got) for size, got in zip(wanted, x.shape, strict=True))
    if not fits or x.dtype != weight.val.dtype or x.device != weight.val.device:
        sizes = ", ".join("..." if size is ... else "any" if size is None else str(size) for size in shape)
        expected = f"{weight.val.dtype} [{sizes}] on {weight.val.device}"
        raise InputError(f"x must be {expected}, got {x.dtype} {list(x.shape)} on {x.device}")


def check_like(name: str, tensor: torch.Tensor | None, shape: Sequence[int], device: torch.device) -> None:
    """Check a residual or an output, where there is one. Raises InputError."""
    if tensor is None:
        return
    if tuple(tensor.shape) != tuple(shape) or tensor.device != device or not tensor.is_floating_point():
        got = f"{tensor.dtype} {list(tensor.shape)} on {tensor.device}"
        raise InputError(f"{name} must be a float tensor {list(shape)} on {device}, got {got}")
