"""Forging: checkpoint files taken apart, changed, and put together again with every digest right."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def split(path: Path) -> tuple[dict[str, Any], bytearray]:
    """Header as JSON, and the data bytes."""
    raw = path.read_bytes()
    nbytes = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + nbytes]), bytearray(raw[8 + nbytes :])


def metadata_of(path: Path) -> dict[str, Any]:
    """Our part of the header."""
    metadata: dict[str, Any] = json.loads(split(path)[0]["__metadata__"]["nested_sparse"])
    return metadata


def join(path: Path, header: dict[str, Any], data: bytes) -> None:
    """Write header and data back, aligned as the format asks."""
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def forge(path: Path, change: Callable[[dict[str, Any], dict[str, np.ndarray]], None]) -> None:
    """Change metadata and tensors and make every digest right again, as somebody with intent would."""
    header, data = split(path)
    metadata = metadata_of(path)
    kinds = {"U8": "u1", "I8": "i1", "U16": "<u2", "F16": "<f2", "U32": "<u4", "I32": "<i4", "F32": "<f4"}
    tensors = {
        name: np.frombuffer(data, kinds[entry["dtype"]])[0:0]
        if entry["data_offsets"][0] == entry["data_offsets"][1]
        else np.frombuffer(memoryview(data)[slice(*entry["data_offsets"])], kinds[entry["dtype"]])
        for name, entry in header.items()
        if name != "__metadata__"
    }
    begin = header["graph"]["data_offsets"][1]
    graph = bytes(data[:begin])
    change(metadata, tensors)
    if data[:begin] != graph:
        metadata["graph_sha256"] = hashlib.sha256(data[:begin]).hexdigest()
    for level, entry in enumerate(metadata["levels"]):
        ends = [item["data_offsets"][1] for name, item in header.items() if f"/level{level}/" in name]
        entry["sha256"] = hashlib.sha256(data[begin : max(ends, default=begin)]).hexdigest()
        begin = max(ends, default=begin)
    text = json.dumps(metadata)
    header["__metadata__"] = {"nested_sparse": text, "nested_sparse_sha256": hashlib.sha256(text.encode()).hexdigest()}
    join(path, header, bytes(data))
