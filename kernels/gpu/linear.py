"""Linear: a sparse linear layer on a GPU."""

from __future__ import annotations

import torch

from nested_sparse.errors import InputError

from .epilogue import Epilogue
from .matmul import Geometry, Operand, launch
from .operands import check_input, check_like
from .weight import GpuWeight

_ALIGNMENT = 16
"""Elements by which a line of N is made longer, so that each line begins where a load of 16 bytes may begin."""


class SparseLinear:
    """Y [..., O] from X [..., K], one kernel launch at any level.

    A kernel reads X feature by feature: a kept column is one run of memory where X lies as (K, N). So outputs lie as
    (O, N): they are views with the shape [..., O] whose last stride is not 1, as torch's channels_last images are views
    of another shape. The next layer reads them as they are. An X that lies as (N, K) is copied first.

    weight, epilogue: given at the start, never changed.
    """

    def __init__(self, weight: GpuWeight, epilogue: Epilogue | None = None) -> None:
        self.weight = weight
        self.epilogue = epilogue or Epilogue()

    def __call__(
        self,
        x: torch.Tensor,
        level: int | torch.Tensor,
        *,
        residual: torch.Tensor | None = None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Y at `level`: a number, or an int32 tensor on the device, which the kernel reads when it starts.

        x: [..., K] of the weight's dtype and device, any strides. residual: [..., O] of any float dtype, added before
            the clamp. out: [..., O] of any float dtype, in which Y is stored; it may be `residual`, and must be a view
            of lines, as any tensor is that torch made. None makes a tensor of x's dtype, which lies as (O, N).

        Raises InputError, LevelError.
        """
        weight, shape = self.weight, (*x.shape[:-1], self.weight.rows)
        check_input(x, weight, [..., weight.inputs])
        check_like("residual", residual, shape, x.device)
        check_like("out", out, shape, x.device)
        number = weight.level(level)
        count = x.numel() // weight.inputs
        if out is None:
            lines = x.new_empty(weight.rows, _rounded_up(count))
            out, written = lines[:, :count].t().view(shape), Operand(lines[None], lines.shape[1])
        else:
            written = Operand(_lines(out)[None], count)
        if count == 0:
            return out
        if out.numel() and written.tensor.data_ptr() != out.data_ptr():
            raise InputError(f"out must be a view of {count} lines, got strides {out.stride()}")
        read = _with_room(_by_feature(x), count)
        added = None if residual is None else _with_room(_lines(residual), count)
        launch(weight, number, Geometry.line(count), self.epilogue, read, written, added)
        return out


def _rounded_up(count: int) -> int:
    return -(-count // _ALIGNMENT) * _ALIGNMENT


def _lines(tensor: torch.Tensor) -> torch.Tensor:
    """(features, N) from [..., features]; a view where strides allow."""
    return tensor.reshape(-1, tensor.shape[-1]).t()


def _by_feature(x: torch.Tensor) -> torch.Tensor:
    """(K, N) with neighbouring N, from [..., K]: a view where x lies so, else a copy with aligned lines."""
    lines = _lines(x)
    if lines.stride(1) == 1 or lines.shape[1] == 1:
        return lines
    copy = x.new_empty(lines.shape[0], _rounded_up(lines.shape[1]))[:, : lines.shape[1]]
    return copy.copy_(lines)


def _with_room(lines: torch.Tensor, count: int) -> Operand:
    """(features, N) lines, each up to the next one's begin where they lie as those that this file makes.

    A mask that ends within 16 bytes makes Triton load element by element. Elements behind the N-th feed only outputs
    behind the N-th, which lie in the same place.
    """
    longer = _rounded_up(count)
    room = lines.untyped_storage().nbytes() // lines.element_size() - lines.storage_offset()
    ours = lines.stride() == (longer, 1) and (len(lines) - 1) * longer + longer <= room
    return Operand(lines[None], longer if ours else count)
