"""Writer: lays out a checkpoint and writes it, all at once or not at all."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import stat
import struct
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import __version__
from .errors import CheckpointError
from .excerpt import excerpt
from .graph.contract import LAYER_KINDS
from .metadata import DIGEST_KEY, LayerEntry, LevelEntry, Metadata
from .network import Network
from .packing import pack_level
from .placement import LayerPlacement, placement
from .places import ALIGNMENT, TensorPlace, file_places, segment_places, tensor_name, tensor_table
from .quantization import MAX_COLUMNS, in_quads, row_scales
from .reroute import Reroute, check_reroutes
from .seal import SIGNATURE_KEY, Seal
from .state import State
from .tensor_spec import TensorSpec
from .value_type import FLOAT32, ValueType
from .weight import NestedWeight


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """One layer to write.

    norms: (L, 2, O) float32, scale and shift of every level in output-channel order.
    op: a key of graph.contract.LAYER_KINDS; attributes: a convolution's kernel_shape, strides, pads, dilations
        and, where they are not 1 and 2, groups and spatial_dimensions.
    pattern: name of the pattern that the weight was pruned by; "" is the name of its layout.
    value_type: type in which its values are stored; they are rounded to nearest, ties to even. int8 values count the
        scales of `quantization.row_scales`.
    sqnr_db: as in LayerEntry, one for each level or none.
    """

    weight: NestedWeight
    norms: NDArray[np.float32]
    op: str
    attributes: Mapping[str, list[int]]
    pattern: str = ""
    value_type: ValueType = FLOAT32
    sqnr_db: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class _Stored:
    """A layer as the file holds it. weight: of an int8 layer in quads, with `scales` (O,); None for other types."""

    record: LayerRecord
    weight: NestedWeight
    scales: NDArray[np.float32] | None

    @staticmethod
    def of(record: LayerRecord) -> _Stored:
        if not record.value_type.scaled:
            return _Stored(record, record.weight, None)
        scales = row_scales(record.weight)
        return _Stored(record, in_quads(record.weight, scales), scales)


@dataclass(frozen=True, slots=True)
class LevelRecord:
    """One level to write. flops: operations for one sample of the example shape."""

    density: float
    flops: int
    metrics: Mapping[str, float]


def write_checkpoint(
    path: str | os.PathLike[str],
    *,
    graph_builder: Callable[[Mapping[str, LayerPlacement]], bytes],
    layers: Sequence[LayerRecord],
    levels: Sequence[LevelRecord],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    reroutes: Sequence[Reroute] = (),
    rows: str | None = None,
    network: Network | None = None,
    state: State = MappingProxyType({}),
    graph_version: int = 1,
    force: bool = False,
) -> None:
    """Write a checkpoint to `path`, atomically; an existing file is kept unless `force`.

    `graph_builder` gets each layer's placement by name and returns the ONNX graph. rows, network, state and
    graph_version are as in Metadata.
    Raises CheckpointError, and what `check_reroutes` does.
    """
    path = Path(path)
    refuse_existing(path, force)
    _check_records(path.name, layers, levels)
    check_reroutes(reroutes, len(levels), {record.weight.name for record in layers})
    stored = [_Stored.of(record) for record in layers]
    entries = [_layer_entry(layer, len(levels)) for layer in stored]
    shapes = [entry.shape for entry in entries]
    relative = [segment_places(shapes, level) for level in range(len(levels))]
    segments = [_segment_bytes(stored, level, places) for level, places in enumerate(relative)]
    graph = graph_builder({shape.name: placement(shape, relative) for shape in shapes})
    metadata = Metadata(
        graph_nbytes=len(graph),
        graph_sha256=_digest(_padded(graph)),
        levels=tuple(
            LevelEntry(record.density, record.flops, dict(record.metrics), _digest(segment))
            for record, segment in zip(levels, segments, strict=True)
        ),
        layers=tuple(entries),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        producer=f"nested-sparse {__version__}",
        reroutes=tuple(reroutes),
        rows=rows,
        network=network,
        state=dict(state),
        graph_version=graph_version,
    )
    write_file(path, header_bytes(metadata), [_padded(graph), *segments], force)


def refuse_existing(path: Path, force: bool) -> None:
    """Raises CheckpointError where `path` may not be written.

    It may not be written where it exists and `force` is false, where it is a pipe, a socket or a device, which a file
    would replace, and where its folder does not exist.
    """
    where = excerpt(path)
    try:
        if path.is_dir():
            raise CheckpointError(f"{where}: is a folder; name a file")
        if path.exists():
            if not path.is_file():
                raise CheckpointError(f"{where}: is a pipe, a socket or a device; name a file")
            if not force:
                raise CheckpointError(
                    f"{where}: exists already; name another file, or replace it with the option force"
                )
        if not path.parent.is_dir():
            raise CheckpointError(f"{where}: its folder {excerpt(path.parent)} does not exist; create it first")
    except (OSError, ValueError) as error:  # too long, or what no file can be called
        raise _not_written(path, error) from None


def header_bytes(metadata: Metadata, sign: Callable[[bytes], str] | None = None) -> bytes:
    """The file up to its data: length, JSON, and spaces so that the data begins on an ALIGNMENT boundary.

    sign: makes a signature, in base64, of a message; None: the file is not signed.
    """
    entries = metadata.to_header()
    if sign is not None:
        entries[SIGNATURE_KEY] = sign(Seal(entries[DIGEST_KEY]).message)
    sections = file_places([layer.shape for layer in metadata.layers], len(metadata.levels), metadata.graph_nbytes)
    text = json.dumps({"__metadata__": entries, **tensor_table(sections)}, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def write_file(path: Path, header: bytes, pieces: Iterable[bytes | memoryview], force: bool) -> None:
    """Write to a temporary file beside `path`, flush it to the disk, rename it into place. Raises CheckpointError."""
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(header)
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), _mode_for(path))
        refuse_existing(path, force)
        os.replace(temporary, path)
        temporary = ""
    except (OSError, ValueError) as error:
        raise _not_written(path, error) from None
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def _mode_for(path: Path) -> int:
    """Access rights of the file: those of the one that it replaces, else those that this process gives to new files."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        mask = os.umask(0o077)  # there is no way to ask for it without setting it
        os.umask(mask)
        return 0o666 & ~mask


def _not_written(path: Path, error: OSError | ValueError) -> CheckpointError:
    reason = getattr(error, "strerror", None) or f"no file can have this name: {error}"
    return CheckpointError(f"{excerpt(path)}: cannot be written ({reason})")


def _check_records(where: str, layers: Sequence[LayerRecord], levels: Sequence[LevelRecord]) -> None:
    if not layers or not levels:
        raise CheckpointError(f"{where}: a checkpoint needs at least one nested layer and one level")
    if any(low.density > high.density for low, high in itertools.pairwise(levels)):
        raise CheckpointError(f"{where}: densities must rise with the level, got {[level.density for level in levels]}")
    for record in layers:
        name, shape = record.weight.name, (len(levels), 2, record.weight.rows)
        if record.op not in LAYER_KINDS:
            raise CheckpointError(
                f"{where}: layer '{excerpt(name)}': op must be one of {tuple(LAYER_KINDS)}, got {record.op!r}"
            )
        if record.value_type.scaled and LAYER_KINDS[record.op].quantized is None:
            raise CheckpointError(
                f"{where}: layer '{excerpt(name)}': no operator computes op '{record.op}' in {record.value_type.name} "
                f"(write it with {FLOAT32.name} values)"
            )
        if record.norms.shape != shape:
            raise CheckpointError(
                f"{where}: layer '{excerpt(name)}': norms must have shape {shape}, got {record.norms.shape}"
            )
        kept = record.weight.at(len(levels) - 1)
        if not np.isfinite(kept).all():
            raise CheckpointError(f"{where}: layer '{excerpt(name)}' has weights that are not finite; train it again")
        if not np.isfinite(record.norms).all():
            level = int(np.argmin(np.isfinite(record.norms).all(axis=(1, 2))))
            raise CheckpointError(
                f"{where}: layer '{excerpt(name)}': at level {level} a scale or bias, or the norm behind it, is not "
                "finite; its weights are: train it again, or find its levels from smaller or cleaner samples"
            )
        largest, stored = float(np.abs(kept).max()), record.value_type
        if stored.scaled and record.weight.columns > MAX_COLUMNS:
            raise CheckpointError(
                f"{where}: layer '{excerpt(name)}' has {record.weight.columns} columns; {stored.name} takes at most "
                f"{MAX_COLUMNS} (write it with {FLOAT32.name} values)"
            )
        if len(record.sqnr_db) not in (0, len(levels)) or not np.isfinite(record.sqnr_db).all():
            raise CheckpointError(
                f"{where}: layer '{excerpt(name)}': sqnr_db must have a finite number for each of {len(levels)} "
                f"levels, got {list(record.sqnr_db)}"
            )
        if largest > stored.largest and not stored.scaled:
            raise CheckpointError(
                f"{where}: layer '{excerpt(name)}' has a weight of magnitude {largest:.7g}; {stored.name} holds at "
                f"most {stored.largest:g} (write it with {FLOAT32.name} values)"
            )


def _layer_entry(stored: _Stored, level_count: int) -> LayerEntry:
    record, weight = stored.record, stored.weight
    blocks = tuple(weight.layout.block_count(weight.first_level, level) for level in range(level_count))
    nnz = tuple(weight.nnz(level) for level in range(level_count))
    attributes = {name: list(values) for name, values in record.attributes.items()}
    permuted = weight.permutation is not None
    return LayerEntry(
        name=weight.name,
        op=record.op,
        rows=weight.rows,
        columns=weight.columns,
        block_rows=weight.layout.block_rows,
        permuted=permuted,
        blocks=blocks,
        nnz=nnz,
        attributes=attributes,
        pattern=record.pattern or record.weight.layout.name,
        value_type=record.value_type,
        sqnr_db=tuple(float(value) for value in record.sqnr_db),
    )


def _segment_bytes(layers: Sequence[_Stored], level: int, places: list[TensorPlace]) -> bytes:
    segment = bytearray(places[-1].end)
    arrays: dict[str, NDArray[Any]] = {}
    for layer in layers:
        arrays |= _level_arrays(layer, level)
    for place in places:
        raw = arrays[place.name].tobytes()
        segment[place.begin : place.begin + len(raw)] = raw
    return bytes(segment)


def _level_arrays(stored: _Stored, level: int) -> dict[str, NDArray[Any]]:
    record, weight = stored.record, stored.weight
    added = pack_level(weight, level)
    packed_rows = weight.packed_rows
    order = np.arange(weight.rows) if weight.permutation is None else weight.permutation
    norm = np.zeros((2, packed_rows), np.float32)
    norm[:, : weight.rows] = record.norms[level][:, order]
    val = record.value_type.stored(added.val)
    arrays: dict[str, NDArray[Any]] = {"ptr": added.ptr, "col": added.col, "val": val, "norm": norm}
    if level == 0 and weight.permutation is not None:
        arrays["perm"] = np.full(packed_rows, -1, np.int32)
        arrays["perm"][: weight.rows] = weight.permutation
    if level == 0 and stored.scales is not None:
        arrays["scale"] = np.ones(packed_rows, np.float32)
        arrays["scale"][: weight.rows] = stored.scales[order]
    return {tensor_name(weight.name, level, part): array for part, array in arrays.items()}


def _padded(raw: bytes) -> bytes:
    return raw + bytes(-len(raw) % ALIGNMENT)


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
