"""Conv: a sparse convolution over images on a GPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nested_sparse.errors import InputError

from .epilogue import Epilogue
from .lines import Operand
from .matmul import Geometry, launch
from .operands import check_input, check_like
from .weight import GpuWeight


@dataclass(frozen=True, slots=True)
class Window:
    """The window of a convolution, (y, x) each.

    kernel, stride, dilation: at least 1. pads: top, left, bottom, right, as in ONNX; at least 0. Raises InputError.
    """

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        """Check the bounds."""
        if min(*self.kernel, *self.stride, *self.dilation) < 1 or min(self.pads) < 0:
            raise InputError(f"a window's sizes must be 1 or more and its pads 0 or more, got {self}")

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of Y. Raises InputError where the window does not fit in."""
        spans = [(size - 1) * gap + 1 for size, gap in zip(self.kernel, self.dilation, strict=True)]
        room = [height + self.pads[0] + self.pads[2], width + self.pads[1] + self.pads[3]]
        if spans[0] > room[0] or spans[1] > room[1]:
            raise InputError(f"a window of {spans} does not fit in an image of {room}, padding included")
        return (room[0] - spans[0]) // self.stride[0] + 1, (room[1] - spans[1]) // self.stride[1] + 1


class SparseConv:
    """Y (N, O, Ho, Wo) from X (N, C, H, W), one kernel launch at any level; the window is gathered by the kernel.

    Column k of a block is input (c, ky, kx) with k = (c·KH + ky)·KW + kx, as in the file. The pixels of a channel
    should lie together (torch.contiguous_format): then a kept column is one run of memory, without a stride.

    weight, window, epilogue: given at the start, never changed. Raises InputError where they do not fit together.
    """

    def __init__(self, weight: GpuWeight, window: Window, epilogue: Epilogue | None = None) -> None:
        self.weight = weight
        self.window = window
        self.epilogue = epilogue or Epilogue()
        self.channels, rest = divmod(weight.inputs, window.kernel[0] * window.kernel[1])
        if rest:
            raise InputError(f"{weight.inputs} columns are no whole number of channels of {window.kernel} windows")

    def __call__(
        self,
        x: torch.Tensor,
        level: int | torch.Tensor,
        *,
        residual: torch.Tensor | None = None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Y at `level`: a number, or an int32 tensor on the device, which the kernel reads when it starts.

        x: (N, C, H, W) of the weight's dtype and device. residual: (N, O, Ho, Wo) of any float dtype, added before the
            clamp. out: the same, in which Y is stored; it may be `residual`. None makes a contiguous one of x's dtype.

        Raises InputError, LevelError.
        """
        check_input(x, self.weight, [None, self.channels, None, None])
        height, width = self.window.output_size(*x.shape[2:])
        shape = (len(x), self.weight.rows, height, width)
        check_like("residual", residual, shape, x.device)
        check_like("out", out, shape, x.device)
        number = self.weight.level(level)
        out = x.new_empty(shape) if out is None else out
        if not _has_lines(out):
            raise InputError(f"the pixels of out must lie at equal distances, got strides {out.stride()}")
        window, pixels = self.window, height * width
        geometry = Geometry(
            *(len(x), pixels, width, x.shape[2], x.shape[3]),
            *(window.kernel, window.stride, window.pads[:2], window.dilation),
        )
        if out.numel():
            read, written = (Operand(_images(each), geometry.places) for each in (x, out))
            added = None if residual is None else Operand(_images(residual), geometry.places)
            launch(self.weight, number, geometry, self.epilogue, read, written, added)
        return out


def _has_lines(image: torch.Tensor) -> bool:
    """Whether the pixels of an image lie at equal distances, line after line."""
    return image.shape[2] == 1 or image.stride(2) == image.shape[3] * image.stride(3)


def _images(tensor: torch.Tensor) -> torch.Tensor:
    """(N, C, H·W) from (N, C, H, W); a view where pixels lie at equal distances."""
    return (tensor if _has_lines(tensor) else tensor.contiguous()).flatten(2)
