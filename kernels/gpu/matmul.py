"""Matmul: the sparse product of one layer, with its epilogue, as one Triton kernel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from .epilogue import Epilogue, apply_function
from .lines import Operand, on_device
from .tiles import Shape, tile_for
from .weight import GpuWeight


@dataclass(frozen=True, slots=True)
class Geometry:
    """The sizes of the images that a kernel reads and writes. A linear layer's batch is one line of N pixels.

    images, pixels: number of images, and pixels of each of them in Y. out_width: pixels of a line of Y.
    height, width: of X. kernel, stride, pad, dilation: of the window, (y, x) each; pad is that at the top and left.
    """

    images: int
    pixels: int
    out_width: int
    height: int
    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    @classmethod
    def line(cls, count: int) -> Geometry:
        """One image that is a line of `count` pixels: a batch of vectors."""
        return cls(1, count, count, 1, count)

    @property
    def places(self) -> int:
        """Pixels of all images of Y."""
        return self.images * self.pixels

    @property
    def widest_tile(self) -> int:
        """Most pixels of a tile for which registers suffice: elements may have addresses and masks of their own."""
        return 64 if self.windowed else 128 if self.images > 1 else 256

    @property
    def windowed(self) -> bool:
        """Whether a pixel of Y is not the same pixel of X."""
        return (*self.kernel, *self.stride, *self.dilation, *self.pad) != (1, 1, 1, 1, 1, 1, 0, 0)


INTERPRETED = triton.knobs.runtime.interpret
"""Whether TRITON_INTERPRET=1 was set when this module was loaded. The interpreter's dot takes the bits of bfloat16 for
integers, so it is given float32, whose products of two bfloat16 are exact, as those of tensor cores are."""
_NOT_SPECIALIZED = ["level", "groups", "last_level", "clip_min", "clip_max"]


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)  # type: ignore[untyped-decorator]
def sparse_matmul(  # type: ignore[no-untyped-def]
    y, x, residual, level, col, val, begin, end, norm, out_row,
    groups, last_level, y_end, x_end, r_end, pixels, out_width, height, width,
    y_image, y_row, y_pixel, x_image, x_row, x_pixel, r_image, r_row, r_pixel,
    stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x,
    clip_min, clip_max,
    V: tl.constexpr, PIXELS: tl.constexpr, STEP: tl.constexpr, KERNEL_Y: tl.constexpr, KERNEL_X: tl.constexpr,
    WINDOWED: tl.constexpr, ONE_IMAGE: tl.constexpr, RESIDUAL: tl.constexpr, FUNCTION: tl.constexpr,
    WIDENED: tl.constexpr,
):  # fmt: skip
    """PIXELS columns of the V rows of one group of Y.

    Program p computes group p mod `groups`, so programs that run at the same time read the same pixels of X.
    """
    group = tl.program_id(0) % groups
    place = tl.program_id(0) // groups * PIXELS + tl.arange(0, PIXELS)
    if ONE_IMAGE:
        image = place * 0
        pixel = place
    else:
        image = place // pixels
        pixel = place % pixels
    if WINDOWED:
        top = pixel // out_width * stride_y - pad_y
        left = pixel % out_width * stride_x - pad_x
        x_place = image.to(tl.int64) * x_image + (top * width + left).to(tl.int64) * x_pixel
    else:
        x_place = image.to(tl.int64) * x_image + pixel.to(tl.int64) * x_pixel

    run_level = tl.minimum(tl.maximum(tl.load(level), 0), last_level)
    start = tl.load(begin + group)
    last = tl.load(end + run_level * groups + group)
    # Hopper's tensor cores (wgmma) take 64 rows or more from their first operand, and 8 or more from the second. So
    # V = 32 is the second one. From V = 64 on it is the first: an instruction then has 128 or 256 pixels for 64 rows.
    if V < 64:  # noqa: SIM108 -- Triton decides an `if` of a constant when it compiles, and not a ternary operator
        sums = tl.full((PIXELS, V), 0.0, tl.float32)
    else:
        sums = tl.full((V, PIXELS), 0.0, tl.float32)
    # The columns of a step are read one step ahead. If a step's inputs waited for its own columns, Triton would share
    # the stages among both: of 4, two would hold inputs (seen in the shared memory of the compiled kernel).
    next_column = tl.load(col + start + tl.arange(0, STEP))
    for first in range(start, last, STEP):
        block = first + tl.arange(0, STEP)
        column = next_column
        next_column = tl.load(col + block + STEP)
        kept = block < last
        if WINDOWED:
            channel = column // (KERNEL_Y * KERNEL_X)
            down = column // KERNEL_X % KERNEL_Y * dilation_y
            right = column % KERNEL_X * dilation_x
            line = top[None, :] + down[:, None]
            spot = left[None, :] + right[:, None]
            seen = (line >= 0) & (line < height) & (spot >= 0) & (spot < width)
            seen = seen & kept[:, None] & (place < x_end)[None, :]
            x_column = channel.to(tl.int64) * x_row + (down * width + right).to(tl.int64) * x_pixel
        else:
            seen = kept[:, None] & (place < x_end)[None, :]
            x_column = column.to(tl.int64) * x_row
        taken = tl.load(x + x_column[:, None] + x_place[None, :], mask=seen, other=0.0)
        weights = tl.load(val + block.to(tl.int64)[:, None] * V + tl.arange(0, V)[None, :])
        if WIDENED:
            weights = weights.to(tl.float32)
            taken = taken.to(tl.float32)
        if V < 64:
            sums = tl.dot(tl.trans(taken), weights, sums, input_precision="ieee")
        else:
            sums = tl.dot(tl.trans(weights), taken, sums, input_precision="ieee")
    if V < 64:
        sums = tl.trans(sums)

    packed = group * V + tl.arange(0, V)
    row = tl.load(out_row + packed)
    of_level = norm + run_level.to(tl.int64) * 2 * groups * V
    sums = sums * tl.load(of_level + packed)[:, None] + tl.load(of_level + groups * V + packed)[:, None]
    real = (row >= 0)[:, None]
    row = row.to(tl.int64)
    if RESIDUAL:
        there = row[:, None] * r_row + (image.to(tl.int64) * r_image + pixel.to(tl.int64) * r_pixel)[None, :]
        sums += tl.load(residual + there, mask=real & (place < r_end)[None, :], other=0.0).to(tl.float32)
    sums = tl.clamp(sums, clip_min, clip_max, propagate_nan=tl.PropagateNan.ALL)
    sums = apply_function(sums, FUNCTION)
    there = row[:, None] * y_row + (image.to(tl.int64) * y_image + pixel.to(tl.int64) * y_pixel)[None, :]
    tl.store(y + there, sums.to(y.dtype.element_ty), mask=real & (place < y_end)[None, :])


def launch(
    weight: GpuWeight,
    level: torch.Tensor,
    geometry: Geometry,
    epilogue: Epilogue,
    x: Operand,
    y: Operand,
    residual: Operand | None,
) -> None:
    """Compute `y` from `x` and `residual`. Nothing is checked here, nothing is copied, and no tensor is made."""
    shape = Shape.of(weight.block_rows, weight.groups, geometry.places, weight.val, geometry.widest_tile)
    tile = tile_for(shape)
    programs = weight.groups * triton.cdiv(geometry.places, tile.pixels)
    added = residual or y
    with on_device(x.tensor):
        sparse_matmul[(programs,)](
            y.tensor, x.tensor, added.tensor, level,
            weight.col, weight.val, weight.begin, weight.end, weight.norm, weight.out_row,
            weight.groups, len(weight.levels) - 1, y.places, x.places, added.places,
            geometry.pixels, geometry.out_width, geometry.height, geometry.width,
            *y.tensor.stride(), *x.tensor.stride(), *added.tensor.stride(),
            *geometry.stride, *geometry.pad, *geometry.dilation,
            epilogue.clip_min, epilogue.clip_max,
            V=weight.block_rows, PIXELS=tile.pixels, STEP=tile.step,
            KERNEL_Y=geometry.kernel[0], KERNEL_X=geometry.kernel[1],
            WINDOWED=geometry.windowed, ONE_IMAGE=geometry.images == 1,
            RESIDUAL=residual is not None, FUNCTION=epilogue.number,
            WIDENED=INTERPRETED and weight.val.dtype == torch.bfloat16,
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
