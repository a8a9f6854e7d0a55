"""Linear: a sparse linear layer on a GPU."""

from __future__ import annotations

import torch

from nested_sparse.errors import InputError

from .epilogue import Epilogue
from .lines import Operand, by_feature, lines_of, new_lines, rounded_up, with_room
from .matmul import Geometry, launch
from .operands import check_input, check_like
from .weight import GpuWeight


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
            out, written = new_lines(x, weight.rows)
        else:
            written = Operand(lines_of(out)[None], count)
        if count == 0:
            return out
        if out.numel() and written.tensor.data_ptr() != out.data_ptr():
            raise InputError(f"out must be a view of {count} lines, got strides {out.stride()}")
        added = None if residual is None else with_room(lines_of(residual))
        # rounded up, so that Triton finds the same divisors in every batch's size and compiles once for all of them
        line = Geometry.line(rounded_up(count))
        launch(weight, number, line, self.epilogue, by_feature(x), written, added)
        return out
