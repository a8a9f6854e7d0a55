"""Verifier: checks the digests, the index ranges and the nesting of the segments of a checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .errors import CheckpointError
from .excerpt import excerpt
from .layouts import Quads
from .metadata import LayerEntry, Metadata
from .places import DTYPES, TensorPlace, tensor_name
from .quantization import is_scale


class Verifier:
    """Reads every segment once, through the file handle, and checks digests, index ranges and nesting."""

    def __init__(
        self, file: BinaryIO, where: str, metadata: Metadata, data_begin: int, sections: list[list[TensorPlace]]
    ) -> None:
        self._file, self._where, self._metadata = file, where, metadata
        self._data_begin, self._sections = data_begin, sections
        self._places = {place.name: place for section in sections for place in section}

    def check(self, digests: bool) -> None:
        """Check everything; the digests only where asked for. Raises CheckpointError."""
        if digests:
            names = ["the graph", *(f"level {level}" for level in range(len(self._metadata.levels)))]
            wanted = [self._metadata.graph_sha256, *(level.sha256 for level in self._metadata.levels)]
            for name, section, digest in zip(names, self._sections, wanted, strict=True):
                if self._digest(section) != digest:
                    raise CheckpointError(
                        f"{self._where}: {name} does not match its digest; it is damaged, copy it again"
                    )
        for layer in self._metadata.layers:
            self._check_layer(layer)

    def _digest(self, section: list[TensorPlace]) -> str:
        digest = hashlib.sha256()
        for piece in self._pieces(section[0].begin, section[-1].end):
            digest.update(piece)
        return digest.hexdigest()

    def _pieces(self, begin: int, end: int, nbytes: int = 1 << 20) -> Iterator[bytes]:
        self._file.seek(self._data_begin + begin)
        while begin < end:
            piece = self._file.read(min(nbytes, end - begin))
            if not piece:
                raise CheckpointError(f"{self._where}: shrank while it was read; copy it again")
            begin += len(piece)
            yield piece

    def _check_layer(self, layer: LayerEntry) -> None:
        shape = layer.shape
        layout = shape.layout
        seen = np.zeros((shape.group_count, layout.group_rows // layout.block_rows, layer.columns), bool)
        for level, added in enumerate(layer.blocks):
            where = f"{self._where}: layer '{excerpt(layer.name)}' level {level}"
            ptr = self._read(self._places[tensor_name(layer.name, level, "ptr")]).astype(np.int64)
            col = self._read(self._places[tensor_name(layer.name, level, "col")]).astype(np.int64)
            if ptr[0] != 0 or ptr[-1] != added or (np.diff(ptr) < 0).any():
                raise CheckpointError(f"{where}: block pointers must rise from 0 to {added}; the file is damaged")
            if added and col.max() >= layer.columns:
                raise CheckpointError(f"{where}: column {col.max()} is out of range 0 to {layer.columns - 1}")
            group, col = np.repeat(np.arange(shape.group_count), np.diff(ptr)), col.reshape(-1, layout.block_columns)
            layout.check_blocks(group, col, where)
            if isinstance(layout, Quads):
                layout.check_values(group, col, self._read(self._places[tensor_name(layer.name, level, "val")]), where)
            cells = layout.cells(group, col)
            repeated = int(seen[cells].sum())
            if repeated:
                raise CheckpointError(
                    f"{where} holds {repeated} blocks a lower level already has; levels must nest, "
                    "each adding blocks of its own (re-export with nested_sparse.trainer.export)"
                )
            seen[cells] = True
        if layer.permuted:
            self._check_permutation(layer, self._read(self._places[tensor_name(layer.name, 0, "perm")]))
        if layer.value_type.scaled:
            self._check_scales(layer, self._read(self._places[tensor_name(layer.name, 0, "scale")]))
            for level in range(len(layer.blocks)):
                self._check_norm(layer, level, self._read(self._places[tensor_name(layer.name, level, "norm")]))

    def _check_permutation(self, layer: LayerEntry, permutation: NDArray[np.int32]) -> None:
        rows = permutation[: layer.rows]
        if not np.array_equal(np.sort(rows), np.arange(layer.rows)) or (permutation[layer.rows :] != -1).any():
            raise CheckpointError(
                f"{self._where}: layer '{excerpt(layer.name)}': the row permutation must hold each of 0 to "
                f"{layer.rows - 1} once, then -1 for padding"
            )

    def _check_scales(self, layer: LayerEntry, scales: NDArray[np.float32]) -> None:
        wrong = ~is_scale(scales)
        if wrong.any():
            raise CheckpointError(
                f"{self._where}: layer '{excerpt(layer.name)}': the scale of packed row {wrong.argmax()} is "
                f"{scales[wrong][0]}, expected a finite number of at least 2^-126; the file is damaged"
            )

    def _check_norm(self, layer: LayerEntry, level: int, norm: NDArray[np.float32]) -> None:
        """Of a layer in bytes, whose answer would be a plausible number whatever the norm is."""
        wrong = ~np.isfinite(norm)
        if wrong.any():
            raise CheckpointError(
                f"{self._where}: layer '{excerpt(layer.name)}' level {level}: its norm holds {norm[wrong][0]}, "
                "expected finite numbers; the file is damaged"
            )

    def _read(self, place: TensorPlace) -> NDArray[Any]:
        self._file.seek(self._data_begin + place.begin)
        raw = self._file.read(place.count * place.itemsize)
        return np.frombuffer(raw, DTYPES[place.dtype])
