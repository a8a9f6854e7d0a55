"""Contract: the inputs that a checkpoint's graph takes beside the model's own, and the operators of our domain.

The exporter writes graphs by this module, the reader checks them by it, and the session binds them by it. The operator
library reads the same names (tests/nested_sparse/graph/test_contract.py). FORMAT.md, "The graph", is the same contract
for readers in other languages.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ..value_type import FLOAT32, ValueType

DOMAIN, DOMAIN_VERSION = "nested_sparse", 1

CONV, LINEAR, MAX_POOL = "NestedConv", "NestedLinear", "TiledMaxPool"
CONV_TRANSPOSE = "NestedConvTranspose"
LSTM, GRU = "NestedLSTM", "NestedGRU"
NORM = "NestedNorm"
ATTENTION = "ScaledDotProductAttention"
QUANTIZED_CONV, QUANTIZED_LINEAR = "QuantizedConv", "QuantizedLinear"
QUANTIZE, DEQUANTIZE = "QuantizeImage", "DequantizeImage"
QUANTIZED_MAX_POOL, QUANTIZED_AVERAGE_POOL = "QuantizedMaxPool", "QuantizedAveragePool"
QUANTIZED_GLOBAL_AVERAGE_POOL = "QuantizedGlobalAveragePool"
QUANTIZED_ADD, QUANTIZED_MULTIPLY = "QuantizedAdd", "QuantizedMultiply"

_SEGMENT_NAME = "__segment_{}__"
_TILED = "tiled_"
_U8 = re.compile(r"u8_(\d+)_(\d+)_(.+)")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class GraphInput:
    """An input of the graph that the runtime binds, not the caller. dtype: numpy's name; shape: None is any size."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


LEVEL = GraphInput("__level__", "int64", ())
"""The level of the run. Every operator reads it when it starts, so it may be lowered while the graph runs."""


def segment_input(level: int) -> GraphInput:
    """The bytes of the file that `level` adds; none where the file has been cut off below that level."""
    return GraphInput(_SEGMENT_NAME.format(level), "uint8", (None,))


def level_count_of(inputs: Iterable[str]) -> int:
    """Levels of the graph that has these inputs; a slice has fewer levels than its graph."""
    return sum(re.fullmatch(_SEGMENT_NAME.format(r"\d+"), name) is not None for name in inputs)


def runtime_inputs(level_count: int) -> tuple[GraphInput, ...]:
    """All that a graph of so many levels takes beside the model's own inputs, which come first."""
    return (LEVEL, *(segment_input(level) for level in range(level_count)))


def is_runtime_input(name: str) -> bool:
    """Whether an input of a graph that is called `name` is the runtime's, so that no input of a model may be."""
    return name == LEVEL.name or re.fullmatch(_SEGMENT_NAME.format(r"\d+"), name) is not None


X_INPUT, RESIDUAL_INPUT = 0, 2
"""Places of X and of the residual, or of a recurrent layer's initial state, among the inputs of a layer's operator."""


def layer_inputs(x: _Value, level: _Value, residual: _Value, segments: Sequence[_Value]) -> list[_Value]:
    """The inputs of a layer's operator in their order.

    residual: an absent input where nothing is added; of a recurrent layer the initial state, absent for zeros.
    """
    return [x, level, residual, *segments]


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute of one of our operators.

    kind: the field of ONNX's AttributeProto that holds it: "s" text or bytes, "i" int64, "f" float32, "ints" int64s,
        "floats" float32s.
    default: its value where a node has none; None where every node must have it, or where it is `optional`.
    optional: whether a node may be without it.
    """

    kind: str
    default: int | None = None
    optional: bool = False

    @property
    def many(self) -> bool:
        """Whether it is a list."""
        return self.kind in ("ints", "floats")


FORMAT_VERSION = 5
"""Version of the file format that has the kinds, attributes and free sizes that came after int8. 6 has high blocks."""
ATTENTION_VERSION = 7
"""Version of the file format whose graphs may hold ATTENTION."""
INPUT_NORM_VERSION = 8
"""Version of the file format whose linear layers may normalise their inputs: NORM_SCALE."""

SPATIAL_DIMENSIONS = "spatial_dimensions"
VOLUME = 3
"""Spatial dimensions of an image that has slices: depth, height, width."""
WINDOW = ("kernel_shape", "strides", "pads", "dilations")
"""Attributes of a window over images, in the node and in the layer's metadata; ONNX's names and meanings."""
CONV_KIND: Mapping[str, Attribute] = {"groups": Attribute("i", 1), SPATIAL_DIMENSIONS: Attribute("i", 2)}
"""Attributes of a convolution beside its window, in the node and, as lists of one, in the layer's metadata."""
OUTPUT_PADDING = "output_padding"
"""Attribute of a transposed convolution's node: ONNX's, with a size for each of the window's dimensions."""
Y_TILED = "y_tiled"
INPUT_TILED: Mapping[int, str] = {X_INPUT: "x_tiled", RESIDUAL_INPUT: "residual_tiled"}
"""Attribute that says that an input is a tiled image, by the input's place."""
PLACEMENT: Mapping[str, Attribute] = {
    **dict.fromkeys(("rows", "columns", "block_rows", "index_bytes", "permutation_offset"), Attribute("i")),
    **dict.fromkeys(("banks", "per_row"), Attribute("i", 0)),
    "value_bytes": Attribute("i", FLOAT32.nbytes),
    "scale_offset": Attribute("i", -1),
    **dict.fromkeys(("blocks", "offsets"), Attribute("ints")),
}
"""Attributes that say where a layer's arrays lie in the segments: the fields of LayerPlacement."""
LAYER, CLIP_MIN, CLIP_MAX = "layer", "clip_min", "clip_max"
FUNCTION = "activation_function"
FUNCTIONS = ("none", "sigmoid", "silu", "quick_gelu", "gelu", "gelu_tanh", "hard_sigmoid", "hard_swish")
"""Attribute of a layer: the place, in FUNCTIONS, of the function of its outputs after the clamp."""
NORM_SCALE, NORM_SHIFT, NORM_EPSILON = "norm_scale", "norm_shift", "norm_epsilon"
"""Attributes of a linear layer, all or none: the LayerNorm in front, with a scale and a shift for each input."""
X_SCALE, X_ZERO, Y_SCALE, Y_ZERO = "x_scale", "x_zero", "y_scale", "y_zero"
SUM_SCALE, SUM_ZERO, TABLE = "sum_scale", "sum_zero", "table"
"""Scale and zero point at each level of the graph of a u8 tensor: what is read, what is written, and the sums that
`table` maps, level after level, from u8 to u8."""
SCALES, ZEROS = frozenset({X_SCALE, Y_SCALE, SUM_SCALE}), frozenset({X_ZERO, Y_ZERO, SUM_ZERO})
TABLE_NBYTES = 256
"""Bytes of a table at one level."""
Y_BORDER, Y_GAP = "y_border", "y_gap"
"""Rows of border around each channel of the image that is written, and columns between two of its rows."""
MAX_MARGIN = 1 << 12
"""Most rows of border, and most columns of gap."""
ACTIVATIONS = "activations"
STATIC, DYNAMIC, FLOAT = "static", "dynamic", "float32"
ACTIVATION_FORMS = (STATIC, DYNAMIC, FLOAT)
"""Attribute of a linear layer and its values: the form in which the operator takes its inputs."""
COUNT_INCLUDE_PAD = "count_include_pad"
REVERSE = "reverse"
"""Attribute of a recurrent layer: 1 where time runs backwards."""
SCALE, CAUSAL = "scale", "causal"
"""Attributes of attention: the factor of the scores; 1 where query l sees the keys 0 to l alone."""
QUERY_INPUT, KEY_INPUT, VALUE_INPUT, MASK_INPUT = range(4)
"""Places among the inputs of attention; the mask may be absent."""
INPUT_AXES: Mapping[int, str] = {QUERY_INPUT: "q_axes", KEY_INPUT: "k_axes", VALUE_INPUT: "v_axes"}
"""Attribute that says which axes of an input hold batch, head and position, by the input's place. The last axis holds
the values of a head."""
INPUT_PLACE: Mapping[int, str] = {QUERY_INPUT: "q_place", KEY_INPUT: "k_place", VALUE_INPUT: "v_place"}
"""Attribute that says which part of an input of PACKED_RANK is meant: the index on the axis that its axes leave out."""
MAX_PLACE = 1 << 20
"""The largest index on that axis."""
Y_AXES = "y_axes"
"""Attribute that says which axes of attention's output hold batch, head and position."""
HEADS_RANK, PACKED_RANK = 4, 5
"""Ranks of attention's inputs: one with batch, head, position and values; one that holds several of these."""

_OF_WINDOW = dict.fromkeys(WINDOW, Attribute("ints"))
_CLIP = {CLIP_MIN: Attribute("f"), CLIP_MAX: Attribute("f")}
_FUNCTION = {FUNCTION: Attribute("i", 0)}
_INPUT_NORM = {
    **dict.fromkeys((NORM_SCALE, NORM_SHIFT), Attribute("floats", optional=True)),
    NORM_EPSILON: Attribute("f", optional=True),
}
_OF_LAYER = {LAYER: Attribute("s"), **_CLIP, **PLACEMENT}
_U8_FORM = {Y_BORDER: Attribute("i"), Y_GAP: Attribute("i")}
_U8_IMAGE = {Y_SCALE: Attribute("floats"), Y_ZERO: Attribute("ints"), **_U8_FORM}


@dataclass(frozen=True, slots=True)
class LayerKind:
    """A kind of nested layer.

    operator: its operator in our domain, for float values; quantized: that for int8 values, None where there is none.
    kernels: the operation, in the list of kernels (kernels.inc), of the kernels that the operator runs.
    rows_dim: dimension of the operator's output that holds the layer's rows.
    attributes: attributes by name that the node and the layer's metadata have; in the metadata each is a list.
    of_node, of_quantized: attributes by name that only the node of that operator has, beside those of every kind.
    adds: whether its operator adds a residual. gathers: whether it takes gather groups.
    gates: of a recurrent layer, the equal parts of its rows; 0 for other kinds. Its operator takes an initial state in
        place of a residual, and [T, N, rows] where others take their inputs: it multiplies N rows at each of T steps.
    states: of a recurrent layer, 1 if its state is hidden states alone, 2 with cells, which are its second output.
    format_version: lowest version of the file format that has the kind.
    """

    operator: str
    quantized: str | None
    kernels: str
    rows_dim: int
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    of_node: Mapping[str, Attribute] = field(default_factory=dict)
    of_quantized: Mapping[str, Attribute] = field(default_factory=dict)
    adds: bool = True
    gathers: bool = True
    gates: int = 0
    states: int = 0
    format_version: int = 1

    def version_of(self, metadata: Mapping[str, Sequence[int]]) -> int:
        """The lowest format version that has the kind with these attributes of a layer's metadata."""
        volumes = list(metadata.get(SPATIAL_DIMENSIONS, ())) == [VOLUME]
        return max(self.format_version, FORMAT_VERSION if volumes else 1)

    def operator_for(self, stored: ValueType) -> str | None:
        """The operator that runs a layer of these values; None where there is none."""
        return self.quantized if stored.scaled else self.operator

    def in_node(self, metadata: Mapping[str, Sequence[int]]) -> dict[str, int | list[int]]:
        """The attributes of a layer's metadata as its node has them; one that the kind does not have stays a list."""
        one = {name for name, attribute in self.attributes.items() if not attribute.many}
        return {name: (list(values) or [0])[0] if name in one else list(values) for name, values in metadata.items()}


def _recurrent(operator: str, gates: int, states: int) -> LayerKind:
    return LayerKind(
        operator,
        None,
        kernels="recurrent",
        rows_dim=-1,
        attributes={REVERSE: Attribute("i", 0)},
        gates=gates,
        states=states,
        format_version=FORMAT_VERSION,
    )


LAYER_KINDS: Mapping[str, LayerKind] = {
    "conv": LayerKind(
        CONV,
        QUANTIZED_CONV,
        kernels="conv",
        rows_dim=1,
        attributes={**_OF_WINDOW, **CONV_KIND},
        of_node={**dict.fromkeys((*INPUT_TILED.values(), Y_TILED), Attribute("i", 0)), **_FUNCTION},
        of_quantized={
            **_U8_IMAGE,
            TABLE: Attribute("s", optional=True),
            SUM_SCALE: Attribute("floats", optional=True),
            SUM_ZERO: Attribute("ints", optional=True),
        },
    ),
    "conv_transpose": LayerKind(
        CONV_TRANSPOSE,
        None,
        kernels="conv",
        rows_dim=1,
        attributes={**_OF_WINDOW, SPATIAL_DIMENSIONS: CONV_KIND[SPATIAL_DIMENSIONS]},
        of_node={INPUT_TILED[X_INPUT]: Attribute("i", 0), OUTPUT_PADDING: Attribute("ints")},
        adds=False,
        gathers=False,
        format_version=FORMAT_VERSION,
    ),
    "linear": LayerKind(
        LINEAR,
        QUANTIZED_LINEAR,
        kernels="linear",
        rows_dim=-1,
        of_node={**_FUNCTION, **_INPUT_NORM},
        of_quantized={
            **_FUNCTION,
            ACTIVATIONS: Attribute("s"),
            X_SCALE: Attribute("floats", optional=True),
            X_ZERO: Attribute("ints", optional=True),
        },
    ),
    "lstm": _recurrent(LSTM, gates=4, states=2),
    "gru": _recurrent(GRU, gates=3, states=1),
}
"""The kinds of nested layers, by the `op` of a layer in the metadata."""
LAYER_OPERATORS: Mapping[str, LayerKind] = {
    operator: kind for kind in LAYER_KINDS.values() for operator in (kind.operator, kind.quantized) if operator
}
"""The same, by the operator of a node."""
OPERATORS: Mapping[str, Mapping[str, Attribute]] = {
    **{kind.operator: {**_OF_LAYER, **kind.attributes, **kind.of_node} for kind in LAYER_KINDS.values()},
    **{
        kind.quantized: {**_OF_LAYER, **kind.attributes, **kind.of_quantized}
        for kind in LAYER_KINDS.values()
        if kind.quantized
    },
    NORM: {
        **_CLIP,
        **_FUNCTION,
        **dict.fromkeys((INPUT_TILED[X_INPUT], Y_TILED), Attribute("i", 0)),
        SPATIAL_DIMENSIONS: CONV_KIND[SPATIAL_DIMENSIONS],
    },
    ATTENTION: {
        SCALE: Attribute("f"),
        CAUSAL: Attribute("i", 0),
        **dict.fromkeys((*INPUT_AXES.values(), Y_AXES), Attribute("ints")),
        **dict.fromkeys(INPUT_PLACE.values(), Attribute("i", 0)),
    },
    MAX_POOL: {**_OF_WINDOW, SPATIAL_DIMENSIONS: CONV_KIND[SPATIAL_DIMENSIONS]},
    QUANTIZE: _U8_IMAGE,
    DEQUANTIZE: {SPATIAL_DIMENSIONS: CONV_KIND[SPATIAL_DIMENSIONS]},
    QUANTIZED_MAX_POOL: {**_OF_WINDOW, **_U8_FORM, SPATIAL_DIMENSIONS: CONV_KIND[SPATIAL_DIMENSIONS]},
    QUANTIZED_AVERAGE_POOL: {**_OF_WINDOW, COUNT_INCLUDE_PAD: Attribute("i"), **_U8_FORM},
    QUANTIZED_GLOBAL_AVERAGE_POOL: {SPATIAL_DIMENSIONS: CONV_KIND[SPATIAL_DIMENSIONS]},
    QUANTIZED_ADD: {**_CLIP, **_U8_IMAGE},
    QUANTIZED_MULTIPLY: {**_CLIP, **_U8_IMAGE},
}
"""The operators of our domain, each with its attributes by name."""


def node_names(layers: Iterable[str]) -> tuple[str, ...]:
    """Names of the nodes that run `layers`, in this order: the layer's, then ".1", ".2", … where it is used again.

    The exporter counts in the order of the graph; the runtime's reroute tables count in the order of a run.
    The layer's name alone is in the attribute `layer`, in the metadata and in reroutes.
    """
    uses: Counter[str] = Counter()
    names = []
    for layer in layers:
        names.append(f"{layer}.{uses[layer]}" if uses[layer] else layer)
        uses[layer] += 1
    return tuple(names)


def layer_of_node(node: str, layers: Container[str]) -> str | None:
    """The layer, one of `layers`, whose node is called `node`; None where it is none's."""
    return next((name for name in (node, node.rpartition(".")[0]) if name in layers), None)


def tiled_dimension(shape: Sequence[object]) -> str:
    """Name of the one dimension of a tiled image of this shape, e.g. "tiled_batchx64x56x56".

    Equal names mean equal shapes: ONNX Runtime may then give an output the memory of the residual added to it.
    """
    return _TILED + "x".join(str(size) for size in shape)


def u8_dimension(shape: Sequence[object], border: int, gap: int) -> str:
    """Name of the one dimension of a u8 image of this shape, border and gap, e.g. "u8_1_1_batchx64x56x56".

    Equal names mean that all bytes lie alike, for the same reason.
    """
    return f"u8_{border}_{gap}_" + "x".join(str(size) for size in shape)


def untiled_shape(dimensions: Sequence[int | str]) -> list[int | str]:
    """The image's shape where `dimensions` are those of a tiled or a u8 image, else `dimensions`."""
    name = str(dimensions[0]) if len(dimensions) == 1 else ""
    u8 = _U8.fullmatch(name)
    if u8 is None and not name.startswith(_TILED):
        return list(dimensions)
    sizes = (u8[3] if u8 else name.removeprefix(_TILED)).split("x")
    return [int(size) if size.isdecimal() else size for size in sizes]
