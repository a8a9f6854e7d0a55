"""Byte images: tensors that hold none, or do not fit the layer, are refused with what was expected."""

from __future__ import annotations

import math

import numpy as np
import pytest
from byte_images import Bytes, Layout, header, read, written
from integer_reference import Image, Range
from quantized_node import QuantizedGraph, Step, place, quantized_node, random_image

TILES = Layout(0, 1)

GOOD = Range(np.float32(0.05), 3)


def forged(
    shape: tuple[int, ...] = (1, 5, 2, 2), layout: Layout = TILES, scale: float = 0.05, magic: bytes = b""
) -> Bytes:
    """An image of 1 × 5 × 2 × 2 in tiles with another header."""
    raw = written(Image(np.zeros((1, 5, 2, 2), np.uint8), GOOD), TILES)
    raw[:64] = header(shape, layout, Range(np.float32(scale), 3), *([magic] if magic else []))
    return raw


MOST = 2**31 - 1
FORGED: dict[str, tuple[Bytes, str]] = {
    "planar": (np.zeros((1, 5, 4, 4), np.uint8), r"got a tensor of shape \[1, 5, 4, 4\]; export the model again"),
    "empty": (np.zeros(0, np.uint8), r"must be an image of .* got a tensor of shape \[0\]"),
    "short": (np.zeros(63, np.uint8), r"must be an image of .* got a tensor of shape \[63\]"),
    "cut": (forged()[:-64], r"holds 320 bytes, its header says an image of \[1, 5, 2, 2\], border 0 and gap 1"),
    "magic": (forged(magic=b"ns8imagE"), "must be an image of"),
    "batch": (forged((2, 5, 2, 2)), r"its header says an image of \[2, 5, 2, 2\]"),
    "negative": (forged((-1, -5, 2, 2)), r"its header says an image of \[-1, -5, 2, 2\]"),
    "no pixels": (forged((1, 5, 0, 2)), "its header says an image of"),
    "no channels": (forged((1, 0, 2, 2)), "its header says an image of"),
    "largest": (forged((MOST, MOST, MOST, MOST), Layout(MOST, MOST)), "its header says an image of"),
    "wide": (forged((1, 1, 2, MOST), Layout(0, MOST)), "its header says an image of"),
    "border": (forged(layout=Layout(1, 1)), "border 1 and gap 1"),
    "huge border": (forged(layout=Layout(MOST, 1)), f"border {MOST} and gap 1"),
    "negative border": (forged(layout=Layout(-1, 1)), "border -1 and gap 1"),
    "negative gap": (forged(layout=Layout(0, -1)), "border 0 and gap -1"),
    "scale zero": (forged(scale=0), "must have a scale that is a normal number above 0"),
    "scale negative": (forged(scale=-0.05), "must have a scale"),
    "scale tiny": (forged(scale=1e-40), "must have a scale"),
    "scale nan": (forged(scale=math.nan), "must have a scale"),
    "scale infinite": (forged(scale=math.inf), "must have a scale"),
}


@pytest.mark.parametrize("case", FORGED)
@pytest.mark.parametrize("role", ["X", "the residual"])
def test_a_tensor_that_is_no_image_is_refused(case: str, role: str) -> None:
    """Headers that do not say what the tensor holds."""
    tensor, message = FORGED[case]
    node = quantized_node(np.random.default_rng(0), 5, 5, 1, adds=True)
    good = forged()
    images = {"x": tensor, "r": good} if role == "X" else {"x": good, "r": tensor}
    with pytest.raises(Exception, match=f"layer 'layer0': {role} .*{message}"):
        QuantizedGraph([Step(node, adds="r")]).run(0, **images)


def test_header_as_written_is_read() -> None:
    """The forged headers are refused only because of their changes."""
    node = quantized_node(np.random.default_rng(0), 5, 5, 1, adds=True, layout=TILES)
    read(QuantizedGraph([Step(node, adds="r")]).run(0, x=forged(), r=forged()))


def test_images_that_do_not_fit_the_layer() -> None:
    """Other channels, another residual, windows larger than the image, images larger than memory."""
    rng = np.random.default_rng(20)
    graph = QuantizedGraph([Step(quantized_node(rng, 5, 10, 4, adds=True, layout=TILES, pads=(0, 0, 0, 0)), adds="r")])

    def refused(message: str, x: tuple[int, ...], residual: tuple[int, ...], gap: int = 1) -> None:
        images = {
            "x": written(random_image(rng, *x), TILES),
            "r": written(random_image(rng, *residual), Layout(0, gap)),
        }
        with pytest.raises(Exception, match=f"layer 'layer0': {message}"):
            graph.run(0, **images)

    refused(r"X must be \[N, 5, H, W\], got \[1, 4, 6, 6\]", (1, 4, 6, 6), (1, 10, 4, 4))
    refused(r"the residual must have the output's shape \[1, 10, 4, 4\]", (1, 5, 6, 6), (1, 10, 4, 5))
    refused("the residual must have the output's gap 1, got 0", (1, 5, 6, 6), (1, 10, 4, 4), gap=0)
    refused("the window spans 3 pixels, the padded image has 2 rows", (1, 5, 2, 6), (1, 10, 4, 4))
    line = quantized_node(rng, 5, 10, 4, spatial=1, kernel=(1, 3), pads=(0, 1, 0, 1))
    with pytest.raises(Exception, match="with one spatial dimension Y must have one row"):
        QuantizedGraph([Step(line)]).run(0, x=written(random_image(rng, 1, 5, 2, 6), TILES))
    for pads in ([20_000] * 4, [2**20] * 4):
        placed = place([quantized_node(rng, 5, 10, 4)])
        placed.attributes[0]["pads"] = pads
        with pytest.raises(Exception, match=r"layer 'layer0'.*(too large together|2\^31 bytes)"):
            QuantizedGraph([Step(line)], placed).run(0, x=forged())
