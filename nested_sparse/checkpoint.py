"""Checkpoint: opens and validates a nested checkpoint file (FORMAT.md).

Nothing in the file is trusted. Sizes are bounded before anything is allocated, the tensor table must be exactly the one
the metadata asks for, and every index is checked here, before a kernel can see it. The checks read the file through a
plain file handle in pieces, so that the mapped pages of unused levels stay untouched.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .argument import as_whole, file_path, shown
from .errors import CheckpointError, LevelError
from .excerpt import excerpt, excerpts
from .header import read_header
from .level import Level
from .mapped_file import MappedFile
from .metadata import LayerEntry, Metadata
from .packed import PackedLevel
from .packing import unpack
from .places import DTYPES, TensorPlace, tensor_name
from .quantization import out_of_quads
from .regular_file import open_regular
from .reroute import Reroute
from .seal import Seal
from .state import State
from .tensor_spec import TensorSpec
from .verify import Verifier
from .weight import NestedWeight


class Checkpoint:
    """An open checkpoint. Its segments are read-only views of the mapped file; close() only after their last use.

    path: path of the file. metadata: all that the file says of itself. seal: its digest, and its signature, unchecked.
    levels, inputs, outputs, layers, reroutes, rows, state: parts of the metadata, ready to use.

    While it is open, another file may safely be renamed over it. Writing into the file in place is safe only where
    `file` is guarded (MappedFile).
    """

    def __init__(
        self, file: MappedFile, metadata: Metadata, data_begin: int, sections: list[list[TensorPlace]], seal: Seal
    ) -> None:
        self.file = file
        self.path = file.path
        self.metadata = metadata
        self.seal = seal
        self.layers: tuple[LayerEntry, ...] = metadata.layers
        self.inputs: tuple[TensorSpec, ...] = metadata.inputs
        self.outputs: tuple[TensorSpec, ...] = metadata.outputs
        self.reroutes: tuple[Reroute, ...] = metadata.reroutes
        self.rows: str | None = metadata.rows
        self.state: State = metadata.state
        self._data_begin = data_begin
        self._sections = sections
        self.levels: tuple[Level, ...] = tuple(
            Level(index, entry.density, entry.flops, sections[index + 1][-1].end, entry.metrics)
            for index, entry in enumerate(metadata.levels)
        )

    @staticmethod
    def open(path: str | os.PathLike[str], verify: bool = True) -> Checkpoint:
        """Open `path`; `verify=False` skips the digests, never the sizes and indices.

        Raises CheckpointError, and InputError where `path` is no path.
        """
        path = file_path("path", path)
        try:
            with open_regular(path) as file:
                metadata, data_begin, sections, seal = read_header(file, excerpt(path.name))
                Verifier(file, excerpt(path.name), metadata, data_begin, sections).check(verify)
                return Checkpoint(MappedFile(path, file), metadata, data_begin, sections, seal)
        except OSError as error:
            raise CheckpointError(f"{excerpt(path)}: cannot be read ({error.strerror or error})") from None

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the mapping. It ends with its last view."""
        self.file.close()

    def graph(self) -> bytes:
        """The ONNX graph of the file, a serialised ModelProto, unchecked: check_graph() says whether it may run."""
        place = self._sections[0][0]
        return self.file.data[self._data_begin + place.begin :][: place.count].tobytes()

    def segment_places(self) -> list[list[TensorPlace]]:
        """Where each level's tensors lie, in the data section of the file."""
        return self._sections[1:]

    def segment(self, level: int) -> NDArray[np.uint8]:
        """(nbytes,) uint8 view of the mapped file: all that `level` adds. Nothing is copied."""
        begin, end = self._segment_range(level)
        return self.file.data[begin:end]

    def data_prefix(self, level_count: int) -> memoryview:
        """The bytes of the graph and the first `level_count` segments."""
        return self.file.data[self._data_begin : self._data_begin + self.levels[level_count - 1].nbytes].data

    def release_above(self, level: int) -> None:
        """Return the resident pages of all segments above `level` to the system. A read loads them again."""
        self.file.release(self._segment_range(level)[1])

    def load_layer(self, name: str) -> tuple[NestedWeight, NDArray[np.float32]]:
        """The layer's weight and its norms (L, 2, O): scale and shift per level in output-channel order.

        The weights of an int8 layer are q · scale in float32, in V × 1 blocks.
        """
        layer = next((layer for layer in self.layers if layer.name == name), None)
        if layer is None:
            known = excerpts([layer.name for layer in self.layers])
            raise CheckpointError(f"{self.path.name}: no layer '{excerpt(name)}'; it has {known}")
        if not len(self.file.data):
            raise CheckpointError(f"{excerpt(self.path.name)}: this checkpoint is closed; open it again")
        place_of = {place.name: place for section in self._sections for place in section}
        arrays = {key: self._array(place) for key, place in place_of.items() if key.rpartition("/level")[0] == name}
        permutation = None
        if layer.permuted:
            permutation = arrays[tensor_name(name, 0, "perm")][: layer.rows].copy()
        levels, norms = [], np.empty((len(self.levels), 2, layer.rows), np.float32)
        for level in range(len(self.levels)):
            ptr, col, val, norm = (arrays[tensor_name(name, level, part)] for part in ("ptr", "col", "val", "norm"))
            col, val = col.reshape(-1, layer.layout.block_columns), val.reshape(-1, layer.layout.block_values)
            levels.append(PackedLevel(ptr, col, layer.value_type.loaded(val)))
            order = slice(None) if permutation is None else permutation
            norms[level][:, order] = norm.reshape(2, -1)[:, : layer.rows]
        weight = unpack(name, layer.rows, layer.columns, layer.layout, levels, permutation)
        if layer.value_type.scaled:
            scales = np.empty(layer.rows, np.float32)
            scales[slice(None) if permutation is None else permutation] = arrays[tensor_name(name, 0, "scale")][
                : layer.rows
            ]
            weight = out_of_quads(weight, scales)
        return weight, norms

    def _array(self, place: TensorPlace) -> NDArray[Any]:
        raw = self.file.data[self._data_begin + place.begin :][: place.count * place.itemsize]
        return raw.view(DTYPES[place.dtype])

    def _segment_range(self, level: int) -> tuple[int, int]:
        index = as_whole(level)
        if index is None or not 0 <= index < len(self.levels):
            raise LevelError(
                f"{excerpt(self.path.name)}: level {shown(level)} is out of range 0 to {len(self.levels) - 1}"
            )
        section = self._sections[index + 1]
        return self._data_begin + section[0].begin, self._data_begin + section[-1].end
