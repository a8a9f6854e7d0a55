"""Foreign reader: a reader of checkpoints that uses nothing of this package. "Step" is one of FORMAT.md, "The graph".

It checks nothing: the page's last section is about that. It leaves the mode for denormals as it is, which would stay
set in the thread that runs the tests.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort


class ForeignModel:
    """A checkpoint that is open in ONNX Runtime.

    level: () int64, what `__level__` is bound to; a run reads it while it runs.
    level_count: levels that the file holds, not those that its graph has inputs for.
    """

    def __init__(self, path: Path, library: Path) -> None:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        (header_nbytes,) = struct.unpack_from("<Q", data)  # step 1
        begin = 8 + header_nbytes
        tensors = json.loads(data[8:begin])  # step 2
        metadata = json.loads(tensors.pop("__metadata__")["nested_sparse"])
        first = begin + tensors.pop("graph")["data_offsets"][0]  # step 3
        graph = data[first : first + metadata["graph_nbytes"]]
        self.level_count = len(metadata["levels"])
        mapped = np.frombuffer(data, np.uint8)  # step 4
        segments = []
        for level in range(self.level_count):
            parts = [entry["data_offsets"] for name, entry in tensors.items() if _level_of(name) == level]
            ends = min(part[0] for part in parts), max(part[1] for part in parts)
            segments.append(mapped[begin + ends[0] : begin + ends[1]])
        options = ort.SessionOptions()  # step 5
        options.intra_op_num_threads = 1
        options.register_custom_ops_library(str(library))
        self.session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])  # step 6
        self.level = np.array(0, np.int64)
        self.bound = {"__level__": ort.OrtValue.ortvalue_from_numpy(self.level)}
        names = {each.name for each in self.session.get_inputs()}
        while (name := f"__segment_{len(self.bound) - 1}__") in names:
            level = len(self.bound) - 1
            segment = segments[level] if level < self.level_count else np.zeros(0, np.uint8)
            self.bound[name] = ort.OrtValue.ortvalue_from_numpy(segment)
        self.input_names = [each["name"] for each in metadata["inputs"]]
        self.output_names = [each["name"] for each in metadata["outputs"]]

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """The outputs at the level that `level` holds."""
        given = {name: ort.OrtValue.ortvalue_from_numpy(inputs[name]) for name in self.input_names}
        results = self.session.run_with_ort_values(self.output_names, given | self.bound)  # step 7
        return {name: value.numpy() for name, value in zip(self.output_names, results, strict=True)}


def _level_of(tensor: str) -> int:
    """Level of the tensor "{layer}/level{l}/{part}"."""
    return int(tensor.rsplit("/", 2)[1].removeprefix("level"))
