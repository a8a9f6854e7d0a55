"""Header: the header of a checkpoint file, read and checked before any tensor is."""

from __future__ import annotations

import json
import os
import struct
from typing import Any, BinaryIO

from .errors import CheckpointError
from .excerpt import excerpt
from .header_limit import MAX_HEADER_NBYTES
from .metadata import DIGEST_KEY, KEY, Metadata
from .places import ALIGNMENT, TensorPlace, file_places, tensor_table
from .seal import SIGNATURE_KEY, Seal


def read_header(
    file: BinaryIO, where: str, file_nbytes: int | None = None
) -> tuple[Metadata, int, list[list[TensorPlace]], Seal]:
    """Metadata, the byte at which the data begins, the places of all tensors, and the seal.

    where: name of the file, for errors. file_nbytes: size of the whole file, where `file` holds its header alone.
    Raises CheckpointError.
    """
    if file_nbytes is None:
        file_nbytes = os.fstat(file.fileno()).st_size
    prefix = file.read(8)
    header_nbytes = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
    if not 2 <= header_nbytes <= min(MAX_HEADER_NBYTES, file_nbytes - 8):
        raise CheckpointError(f"{where}: not a safetensors file, or cut off inside its header ({file_nbytes} bytes)")
    try:
        header = json.loads(file.read(header_nbytes), object_pairs_hook=_unique)
        declared = header.pop("__metadata__", {})
    except (ValueError, AttributeError, RecursionError):
        raise CheckpointError(f"{where}: not a safetensors file, or its header is damaged") from None
    declared = declared if isinstance(declared, dict) else {}
    metadata = Metadata.from_header(declared, where)
    others = tuple(sorted(declared.keys() - {KEY, DIGEST_KEY, SIGNATURE_KEY}))
    seal = Seal(declared[DIGEST_KEY], str(declared.get(SIGNATURE_KEY, "")), others)
    sections = file_places([layer.shape for layer in metadata.layers], len(metadata.levels), metadata.graph_nbytes)
    data_begin = 8 + header_nbytes
    _check_table(header, sections, where)
    expected = data_begin + sections[-1][-1].end
    if file_nbytes != expected:
        trouble = "cut off" if file_nbytes < expected else "longer than it says"
        raise CheckpointError(f"{where}: {trouble}: expected {expected} bytes, got {file_nbytes}; copy it again")
    if data_begin % ALIGNMENT:
        raise CheckpointError(f"{where}: the data begins at byte {data_begin}, expected a multiple of {ALIGNMENT}")
    return metadata, data_begin, sections, seal


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises ValueError for a key that comes twice: readers differ in which of them they take."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice")
    return found


def _check_table(header: dict[str, Any], sections: list[list[TensorPlace]], where: str) -> None:
    expected = tensor_table(sections)
    for name in expected.keys() | header.keys():
        if header.get(name) != expected.get(name):
            raise CheckpointError(
                f"{where}: tensor '{excerpt(name)}' is not where the metadata puts it: expected "
                f"{excerpt(expected.get(name))}, got {excerpt(header.get(name))}; the file is damaged or was "
                "rewritten by another tool"
            )
