"""Metadata: the JSON a checkpoint carries in its safetensors header (FORMAT.md, "Metadata")."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .budget import MAX_LEVELS
from .errors import CheckpointError, PatternError
from .excerpt import excerpt
from .free_size import FreeSize
from .graph.contract import ATTENTION_VERSION, FORMAT_VERSION, INPUT_NORM_VERSION, LAYER_KINDS
from .layouts import BLOCK_ROWS, PATTERNS, Blocks, Layout, stored_layout
from .network import DenseModule, Network
from .places import LayerShape
from .quantization import MAX_COLUMNS
from .reroute import Reroute, check_reroutes
from .state import State, check_state
from .tensor_spec import TensorSpec, check_examples
from .value_type import FLOAT32, VALUE_TYPES, ValueType, value_type_of_bytes

FORMAT_VERSIONS = tuple(
    sorted(
        {layout.format_version for layout in PATTERNS.values()}
        | {each.format_version for each in VALUE_TYPES.values()}
        | {FORMAT_VERSION, ATTENTION_VERSION, INPUT_NORM_VERSION}
    )
)
"""Versions that are read. A file gets the lowest that has all that it holds, so that older readers can open it."""
KEY = "nested_sparse"
DIGEST_KEY = "nested_sparse_sha256"
MAX_DIMENSION = (1 << 31) - 1
MAX_NAME_NBYTES = 1024
"""Of the name of a layer, an input or an output, in UTF-8. It is bounded because answers and messages repeat names."""
INDEPENDENT, DEPENDENT = "independent", "dependent"
"""Marks of a file's rows: whether each row of every output depends on its own sample only."""


@dataclass(frozen=True, slots=True)
class LevelEntry:
    """One level of a file. sha256: digest of its segment."""

    density: float
    flops: int
    metrics: Mapping[str, float]
    sha256: str


@dataclass(frozen=True, slots=True)
class LayerEntry:
    """One nested layer.

    op: its kind, a key of graph.contract.LAYER_KINDS. attributes: those of the kind, e.g. a convolution's strides.
    pattern: name of the pattern by which it was pruned. Only gs{B}x{k} changes the layout of the arrays.
    value_type: type of its stored values, at every level.
    sqnr_db: at each level, the power of the layer's output in float32 over that of the error that int8 makes there, in
        decibels, as measured at export; also of a layer that kept float32 because of it. Empty where not measured.
    """

    name: str
    op: str
    rows: int
    columns: int
    block_rows: int
    permuted: bool
    blocks: tuple[int, ...]
    nnz: tuple[int, ...]
    attributes: Mapping[str, list[int]]
    pattern: str
    value_type: ValueType = FLOAT32
    sqnr_db: tuple[float, ...] = ()

    @property
    def layout(self) -> Layout:
        """How the arrays hold the layer."""
        return stored_layout(self.pattern, self.block_rows, self.value_type)

    @property
    def format_version(self) -> int:
        """The lowest version of the format that has all that the layer uses."""
        kind = LAYER_KINDS[self.op].version_of(self.attributes)
        return max(kind, self.layout.format_version, self.value_type.format_version)

    def cut(self, level_count: int) -> LayerEntry:
        """The layer with its first levels only."""
        kept = {name: getattr(self, name)[:level_count] for name in ("blocks", "nnz", "sqnr_db")}
        return replace(self, **kept)

    @property
    def shape(self) -> LayerShape:
        """The sizes that decide where its arrays lie."""
        return LayerShape(
            self.name,
            self.rows,
            self.columns,
            layout=self.layout,
            permuted=self.permuted,
            blocks=self.blocks,
            value_type=self.value_type,
        )


@dataclass(frozen=True, slots=True)
class Metadata:
    """All facts in a checkpoint's header except the table of tensors.

    rows: INDEPENDENT or DEPENDENT, at every level; None where it is not known.
    network: totals of the whole network. None in older files, where density and FLOPs of the levels count only the
        nested layers.
    state: the outputs that are inputs of the next request of a sequence.
    graph_version: lowest version that has all that the graph uses, or a later one.
    format_version: lowest version that has all that the layers, the inputs and outputs, and the graph use.
    """

    graph_nbytes: int
    graph_sha256: str
    levels: tuple[LevelEntry, ...]
    layers: tuple[LayerEntry, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    producer: str
    reroutes: tuple[Reroute, ...] = ()
    rows: str | None = None
    network: Network | None = None
    state: State = field(default_factory=dict)
    graph_version: int = 1
    format_version: int = field(init=False)

    def __post_init__(self) -> None:
        """Find the version that the file needs."""
        version = max(self.graph_version, *(layer.format_version for layer in self.layers))
        if any(spec.free for spec in (*self.inputs, *self.outputs)):
            version = max(version, FORMAT_VERSION)
        object.__setattr__(self, "format_version", version)

    def to_header(self) -> dict[str, str]:
        """The two string entries of the safetensors `__metadata__`: the JSON and its digest."""
        raw = asdict(self)
        del raw["graph_version"]
        for layer, entry in zip(raw["layers"], self.layers, strict=True):
            del layer["value_type"]
            if entry.value_type is not FLOAT32:  # the default of every reader
                layer["value_bytes"] = entry.value_type.nbytes
            if not entry.sqnr_db:
                del layer["sqnr_db"]
        for tensor in (*raw["inputs"], *raw["outputs"]):
            free = tensor.pop("free")
            if free:
                tensor["sizes"] = [each and each["name"] for each in free]
                raw.setdefault("sizes", {}).update({each.pop("name"): each for each in free if each})
        if not self.reroutes:  # not measured: a key less, as in older files
            del raw["reroutes"]
        if self.rows is None:
            del raw["rows"]
        if self.network is None:
            del raw["network"]
        if not self.state:
            del raw["state"]
        text = json.dumps(raw, separators=(",", ":"), allow_nan=False)
        return {KEY: text, DIGEST_KEY: hashlib.sha256(text.encode()).hexdigest()}

    @staticmethod
    def from_header(header: Mapping[str, Any], where: str) -> Metadata:
        """Parse and check what `to_header` wrote; `where` names the file in errors. Raises CheckpointError."""
        text = header.get(KEY)
        if not isinstance(text, str):
            raise CheckpointError(
                f"{where}: a safetensors file, but not a nested-sparse checkpoint (no {KEY!r} entry in its metadata); "
                "write one with nested_sparse.trainer.export"
            )
        if header.get(DIGEST_KEY) != hashlib.sha256(text.encode()).hexdigest():
            raise CheckpointError(
                f"{where}: the metadata does not match its digest; the file is damaged, copy it again"
            )
        try:
            raw = json.loads(text)
            version = raw["format_version"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CheckpointError(
                f"{where}: the metadata is not what this format asks for ({excerpt(error)})"
            ) from None
        if version not in FORMAT_VERSIONS:
            raise CheckpointError(
                f"{where}: format version {excerpt(repr(version))}, this package reads {FORMAT_VERSIONS}; "
                "upgrade nested-sparse"
            )
        try:
            return _parse(raw)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise CheckpointError(
                f"{where}: the metadata is not what format {version} asks for ({type(error).__name__}: "
                f"{excerpt(error, 500)})"
            ) from None


def _parse(raw: dict[str, Any]) -> Metadata:
    levels = tuple(_level(entry) for entry in raw["levels"])
    if not 1 <= len(levels) <= MAX_LEVELS:
        raise ValueError(f"{len(levels)} levels, expected 1 to {MAX_LEVELS}")
    layers = tuple(_layer(entry, len(levels)) for entry in raw["layers"])
    if not layers or len({layer.name for layer in layers}) != len(layers):
        raise ValueError("no layers, or two of one name")
    sizes = {_name(name): _free_size(name, entry) for name, entry in raw.get("sizes", {}).items()}
    metadata = Metadata(
        graph_nbytes=_integer(raw["graph_nbytes"], 1),
        graph_sha256=str(raw["graph_sha256"]),
        levels=levels,
        layers=layers,
        inputs=tuple(_spec(entry, sizes) for entry in raw["inputs"]),
        outputs=tuple(_spec(entry, sizes) for entry in raw["outputs"]),
        producer=str(raw["producer"]),
        reroutes=tuple(_reroute(entry) for entry in raw.get("reroutes", ())),
        rows=raw.get("rows"),
        network=_network(raw["network"]) if "network" in raw else None,
        state={_name(output): _name(taken) for output, taken in raw.get("state", {}).items()},
        graph_version=int(raw["format_version"]),
    )
    if metadata.rows not in (None, INDEPENDENT, DEPENDENT):
        raise ValueError(f"rows {excerpt(metadata.rows)!r}, expected {INDEPENDENT!r} or {DEPENDENT!r}")
    check_reroutes(metadata.reroutes, len(levels), {layer.name for layer in layers})
    if metadata.format_version > raw["format_version"]:
        raise ValueError(f"its layers need format version {metadata.format_version}")
    check_examples(metadata.inputs)
    check_state(metadata.state, metadata.inputs, metadata.outputs)
    return metadata


def _integer(value: Any, low: int, high: int = MAX_DIMENSION) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"expected a whole number from {low} to {high}, got {excerpt(repr(value))}")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or len(value.encode(errors="replace")) > MAX_NAME_NBYTES:
        raise ValueError(f"expected a name of at most {MAX_NAME_NBYTES} bytes, got {excerpt(value, 60)!r}")
    return value


def _level(raw: dict[str, Any]) -> LevelEntry:
    density = float(raw["density"])
    if not 0.0 < density <= 1.0:
        raise ValueError(f"density {density} outside (0, 1]")
    metrics = {str(name): float(value) for name, value in raw["metrics"].items()}
    if not all(map(math.isfinite, metrics.values())):  # Python reads NaN from JSON
        raise ValueError(f"metrics {excerpt(metrics)}: expected finite numbers")
    return LevelEntry(density, _integer(raw["flops"], 0, 1 << 62), metrics, str(raw["sha256"]))


def _layer(raw: dict[str, Any], level_count: int) -> LayerEntry:
    rows, columns, block_rows = (_integer(raw[key], 1) for key in ("rows", "columns", "block_rows"))
    if raw["op"] not in LAYER_KINDS or block_rows not in BLOCK_ROWS or not isinstance(raw["permuted"], bool):
        raise ValueError(f"layer '{excerpt(raw['name'])}': op, block_rows or permuted is not one this version knows")
    entry = LayerEntry(
        name=_name(raw["name"]),
        op=raw["op"],
        rows=rows,
        columns=columns,
        block_rows=block_rows,
        permuted=raw["permuted"],
        blocks=tuple(_integer(count, 0, 1 << 62) for count in raw["blocks"]),
        nnz=tuple(_integer(count, 0, rows * columns) for count in raw["nnz"]),
        attributes={str(key): [_integer(item, 0) for item in items] for key, items in raw["attributes"].items()},
        pattern=str(raw.get("pattern", Blocks(block_rows).name)),
        value_type=_value_type(raw),
        sqnr_db=tuple(float(value) for value in raw.get("sqnr_db", ())),
    )
    if entry.value_type.scaled and columns > MAX_COLUMNS:
        raise ValueError(f"layer '{excerpt(entry.name)}': {columns} columns, int8 takes at most {MAX_COLUMNS}")
    if entry.value_type.scaled and LAYER_KINDS[entry.op].quantized is None:
        raise ValueError(f"layer '{excerpt(entry.name)}': op '{entry.op}' has no int8 values")
    kind = LAYER_KINDS[entry.op]
    if kind.gates and rows != kind.gates * columns:
        expected = f"{kind.gates} for each of {columns} columns"
        raise ValueError(f"layer '{excerpt(entry.name)}': {rows} rows, expected {expected}")
    if len(entry.sqnr_db) not in (0, level_count) or not all(map(math.isfinite, entry.sqnr_db)):
        raise ValueError(f"layer '{excerpt(entry.name)}': expected an sqnr_db for each of {level_count} levels")
    try:
        most = entry.shape.most_blocks
    except PatternError as error:
        raise ValueError(f"layer '{excerpt(entry.name)}': {error}") from None
    if len(entry.blocks) != level_count or len(entry.nnz) != level_count or sum(entry.blocks) > most:
        raise ValueError(f"layer '{excerpt(entry.name)}': expected a block count for each of {level_count} levels")
    return entry


def _value_type(raw: dict[str, Any]) -> ValueType:
    try:
        return value_type_of_bytes(raw.get("value_bytes", FLOAT32.nbytes))
    except ValueError as error:
        raise ValueError(f"layer '{excerpt(raw['name'])}': {error}") from None


def _network(raw: dict[str, Any]) -> Network:
    flops = _integer(raw["flops"], 0, 1 << 62)
    dense = tuple(
        DenseModule(
            name=str(entry["name"]),
            flops=_integer(entry["flops"], 0, 1 << 62),
            weights=_integer(entry["weights"], 0, 1 << 62),
            why=str(entry["why"]),
        )
        for entry in raw["dense"]
    )
    return Network(flops, _integer(raw["sparse_flops"], 0, flops), _integer(raw["weights"], 1, 1 << 62), dense)


def _reroute(raw: dict[str, Any]) -> Reroute:
    return Reroute(raw["start"], raw["end"], dict(raw["accuracy"].items()))


def _free_size(name: str, raw: dict[str, Any]) -> FreeSize:
    most = None if raw["most"] is None else _integer(raw["most"], 1)
    multiple = _integer(raw["multiple"], 1)
    terms = tuple(map(_name, raw["terms"]))
    size = FreeSize(name, _integer(raw["least"], 1), most, multiple, raw["batch"], terms, _integer(raw["plus"], 0))
    if not isinstance(size.batch, bool) or not size.allows(size.nearest(size.least)):
        raise ValueError(f"size '{excerpt(name)}' allows no size: {excerpt(raw)}")
    return size


def _spec(raw: dict[str, Any], sizes: Mapping[str, FreeSize]) -> TensorSpec:
    shape = tuple(None if size is None else _integer(size, 0) for size in raw["shape"])
    example = tuple(_integer(size, 0) for size in raw["example_shape"])
    free = tuple(None if name is None else sizes[name] for name in raw.get("sizes", ()))
    if len(shape) != len(example):
        raise ValueError(f"tensor '{excerpt(raw['name'])}': shape and example_shape differ in rank")
    named = zip(shape, free, strict=len(free) > 0)
    if any(size is not None and each is not None for size, each in named):
        raise ValueError(f"tensor '{excerpt(raw['name'])}': a dimension has both a fixed and a free size")
    return TensorSpec(_name(raw["name"]), str(raw["dtype"]), shape, example, free)
