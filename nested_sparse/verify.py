"""Verifier: digests, index ranges and nesting of a checkpoint's segments."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .errors import CheckpointError
from .excerpt import excerpt
from .layout import DTYPES, TensorPlace, tensor_name
from .metadata import LayerEntry, Metadata
from .pattern import Pack


class Verifier:
    """Reads every segment once, through the file handle: digests, index ranges, nesting."""

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
        group_units = 1 if shape.pack is None else shape.pack.rows
        seen = np.zeros((shape.group_count * group_units, layer.columns), bool)
        for level, added in enumerate(layer.blocks):
            where = f"{self._where}: layer '{excerpt(layer.name)}' level {level}"
            ptr = self._read(self._places[tensor_name(layer.name, level, "ptr")]).astype(np.int64)
            col = self._read(self._places[tensor_name(layer.name, level, "col")]).astype(np.int64)
            if ptr[0] != 0 or ptr[-1] != added or (np.diff(ptr) < 0).any():
                raise CheckpointError(f"{where}: block pointers must rise from 0 to {added}; the file is damaged")
            if added and col.max() >= layer.columns:
                raise CheckpointError(f"{where}: column {col.max()} is out of range 0 to {layer.columns - 1}")
            group = np.repeat(np.arange(shape.group_count), np.diff(ptr))
            if shape.pack is None:
                _check_rising(where, group * layer.columns + col)
                unit = group
            else:
                unit = _check_packs(where, shape.pack, group, col)
            repeated = int(seen[unit, col].sum())
            if repeated:
                raise CheckpointError(
                    f"{where} holds {repeated} blocks a lower level already has; levels must nest, "
                    "each adding blocks of its own (re-export with nested_sparse.trainer.export)"
                )
            seen[unit, col] = True
        if layer.permuted:
            self._check_permutation(layer, self._read(self._places[tensor_name(layer.name, 0, "perm")]))

    def _check_permutation(self, layer: LayerEntry, permutation: NDArray[np.int32]) -> None:
        rows = permutation[: layer.rows]
        if not np.array_equal(np.sort(rows), np.arange(layer.rows)) or (permutation[layer.rows :] != -1).any():
            raise CheckpointError(
                f"{self._where}: layer '{excerpt(layer.name)}': the row permutation must hold each of 0 to "
                f"{layer.rows - 1} once, then -1 for padding"
            )

    def _read(self, place: TensorPlace) -> NDArray[Any]:
        self._file.seek(self._data_begin + place.begin)
        raw = self._file.read(place.count * place.itemsize)
        return np.frombuffer(raw, DTYPES[place.dtype])


def _check_rising(where: str, place: NDArray[np.int64]) -> None:
    if (np.diff(place) <= 0).any():
        raise CheckpointError(f"{where}: columns must rise within a row group; the file is damaged")


def _check_packs(where: str, pack: Pack, group: NDArray[np.int64], col: NDArray[np.int64]) -> NDArray[np.int64]:
    """The packed row of every entry of `col`, checked: B remainders in a pack, no weight twice."""
    banks = np.sort(col.reshape(-1, pack.banks) % pack.banks, axis=1)
    if (banks != np.arange(pack.banks)).any():
        raise CheckpointError(
            f"{where}: the columns of a pack of {pack.name} must leave {pack.banks} different remainders modulo "
            f"{pack.banks}; the file is damaged"
        )
    row = (group[:, None] * pack.rows + np.arange(pack.banks) // pack.per_row).reshape(-1)
    if len(np.unique(row << 32 | col)) < len(col):
        raise CheckpointError(f"{where}: holds a weight twice; the file is damaged")
    return row
