"""Margins: borders and gaps of images, for windows that are read without gathering, and equal where rows must be."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_ir as ir
import pytest

from nested_sparse.trainer.export.int8.margins import MAX_BORDER, set_margins

WIDTH = 40


def conv(
    y: str, x: str, kernel: tuple[int, int] = (3, 3), residual: str = "", stride: int = 1, dilation: int = 1,
    pads: Sequence[int] | None = None,
) -> str:  # fmt: skip
    """A QuantizedConv in onnx's text form. pads: of equal size where not given."""
    reach = [dilation * (size - 1) // 2 for size in kernel]
    given = list(pads or reach * 2)
    steps = f"strides = [{stride}, {stride}], dilations = [{dilation}, {dilation}]"
    window = f"kernel_shape = {list(kernel)}, pads = {given}, {steps}"
    return f"{y} = nested_sparse.QuantizedConv<{window}>({x}, level, {residual}, seg)"


def margins(*nodes: str, sizes: dict[str, str] | None = None) -> dict[str, tuple[int, int]]:
    """(border, gap) of each image of a graph: `u`, made of the input x, and those that the nodes make.

    sizes: height and width of images, where they are not 40 x 40.
    """
    made = ["u", *(node.split(" ")[0] for node in nodes)]
    shapes = {name: (sizes or {}).get(name, f"{WIDTH},{WIDTH}") for name in made}
    infos = [f"uint8[2,4,{size}] {name}" for name, size in shapes.items()]
    body = " ".join(["u = nested_sparse.QuantizeImage(x, level)", *nodes])
    head = '<ir_version: 9, opset_import: ["": 20, "nested_sparse": 1]>'
    inputs = f"float[2,4,{shapes['u']}] x, int64 level, uint8[n] seg"
    text = f"{head} main ({inputs}) => ({infos[-1]}) <{', '.join(infos[:-1])}> {{ {body} }}"
    model = ir.from_proto(onnx.parser.parse_model(text))
    images = [node.outputs[0] for node in model.graph]
    set_margins(model, images)
    found = {}
    for image in images:
        maker = image.producer()
        assert maker is not None
        assert image.shape is not None
        border, gap = (maker.attributes[name].as_int() for name in ("y_border", "y_gap"))
        height, width = shapes[str(image.name)].split(",")
        assert str(image.shape.dims[0]) == f"u8_{border}_{gap}_2x4x{height}x{width}"
        found[str(image.name)] = (border, gap)
    return found


@pytest.mark.parametrize(
    ("kernel", "dilation", "expected"),
    [
        ((1, 1), 1, (0, 0)),
        ((3, 3), 1, (1, 1)),
        ((5, 5), 1, (2, 2)),
        ((1, 5), 1, (1, 2)),
        ((5, 1), 1, (2, 0)),
        ((3, 3), 3, (3, 3)),
    ],
    ids=str,
)
def test_a_window_reads_its_image_in_place(kernel: tuple[int, int], dilation: int, expected: tuple[int, int]) -> None:
    """The border holds the rows above, the gap the columns beside; a window of one row reads planes, too."""
    border, gap = expected
    assert margins(conv("y", "u", kernel, dilation=dilation)) == {"u": (border, gap), "y": (0, gap)}


def test_an_uneven_window_takes_its_farthest_side() -> None:
    """Two rows above and one below; one column before and two behind."""
    assert margins(conv("y", "u", (4, 4), pads=[2, 1, 1, 2])) == {"u": (2, 2), "y": (0, 2)}


def test_the_largest_reader_decides() -> None:
    """An image that several windows read has the margins of the largest; both answers have its gap."""
    found = margins(conv("a", "u", (3, 3)), conv("b", "u", (5, 5)), conv("c", "u", (1, 1)))
    assert found == {"u": (2, 2), "a": (0, 2), "b": (0, 2), "c": (0, 2)}


def test_gaps_are_equal_along_a_chain_and_borders_are_each_images_own() -> None:
    """Rows of images that are read and written in place are equally long."""
    found = margins(conv("a", "u", (1, 1)), conv("b", "a", (3, 3)), conv("c", "b", (1, 1)), conv("d", "c", (1, 5)))
    assert found == {"u": (0, 2), "a": (1, 2), "b": (0, 2), "c": (1, 2), "d": (0, 2)}


def test_a_residual_joins_the_images_that_it_adds() -> None:
    """Its rows are the answer's, though nothing windowed reads it."""
    sizes = {"s": "20,20", "a": "20,20", "b": "20,20"}
    found = margins(
        conv("s", "u", (1, 1), stride=2), conv("a", "u", (3, 3), stride=2), conv("b", "a", (3, 3), "s"), sizes=sizes
    )
    assert found["a"] == (1, 1)
    assert found["s"] == found["b"] == (0, 1)


def test_sums_and_products_join_too() -> None:
    """Both terms of a sum, the image of a product, and their answers have the gap of a window behind them."""
    nodes = [
        conv("a", "u", (3, 3), stride=2),
        conv("b", "u", (3, 3), stride=2),
        "c = nested_sparse.QuantizedAdd(a, b, level)",
        "d = nested_sparse.QuantizedMultiply(c, x, level)",
        conv("e", "d", (5, 5)),
    ]
    sizes = dict.fromkeys("abcde", "20,20")
    found = margins(*nodes, sizes=sizes)
    assert found["d"] == (2, 2)
    assert all(found[name] == (0, 2) for name in "abce")


@pytest.mark.parametrize("size", ["20,20", "38,38"])
def test_other_sizes_are_gathered(size: str) -> None:
    """A stride, or an output of another size, asks for planes without a gap, and joins nothing."""
    stride = 2 if size == "20,20" else 1
    made = conv("y", "u", (3, 3), stride=stride, pads=[1, 1, 1, 1] if stride == 2 else [0, 0, 0, 0])
    found = margins(made, conv("z", "y", (5, 5)), sizes={"y": size, "z": size})
    assert found["u"] == (1, 0)
    assert found["y"] == (2, 2)


def test_far_windows_are_gathered() -> None:
    """Above MAX_BORDER rows, or where a gap would be more than a quarter of the width, there is no gap."""
    assert margins(conv("y", "u", (2 * MAX_BORDER + 1, 1)))["u"] == (MAX_BORDER, 0)
    assert margins(conv("y", "u", (2 * MAX_BORDER + 3, 1)))["u"] == (1, 0)
    assert margins(conv("y", "u", (1, 3)), sizes={"u": "4,4", "y": "4,4"})["u"] == (1, 1)
    assert margins(conv("y", "u", (1, 3)), sizes={"u": "3,3", "y": "3,3"})["u"] == (1, 0)
    assert margins(conv("y", "u", (1, 1), stride=2), sizes={"y": "20,20"})["u"] == (0, 0)
