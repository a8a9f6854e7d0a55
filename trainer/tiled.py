"""Names of tiled images: how the shape of a tensor that only our operators read stays readable in the graph."""

from __future__ import annotations

from collections.abc import Sequence

_PREFIX = "tiled_"


def tiled_dimension(shape: Sequence[object]) -> str:
    """Name of a tiled image's one dimension (kernels/image.h): "tiled_batchx64x56x56".

    Equal names mean equal shapes: ONNX Runtime may then give an output the memory of the residual added to it.
    """
    return _PREFIX + "x".join(str(size) for size in shape)


def untiled_shape(dimensions: Sequence[int | str]) -> list[int | str]:
    """The image's shape where `dimensions` are those of a tiled image, else `dimensions`."""
    if len(dimensions) != 1 or not str(dimensions[0]).startswith(_PREFIX):
        return list(dimensions)
    sizes = str(dimensions[0]).removeprefix(_PREFIX).split("x")
    return [int(size) if size.isdecimal() else size for size in sizes]
