"""BoundSession: ONNX Runtime's session for one graph, with the weights bound once for each thread that runs it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from onnxruntime.capi import onnxruntime_pybind11_state as ort_c

from nested_sparse.bfloat16 import NAME
from nested_sparse.graph.contract import LEVEL
from nested_sparse.tensor_spec import TensorSpec

from .level_cell import LevelCell
from .ort_values import run_values
from .tensors import Array

KEPT_BYTES = 1 << 16
"""A thread's binding holds the inputs of its last run, if they have at most these bytes."""


class BoundSession:
    """An InferenceSession, and for each thread the inputs that stay the same.

    InferenceSession.run() makes ONNX Runtime's values of the weights again in every run. With bound weights a run of a
    tiny graph takes 4.6 µs in place of 8.8 (docs/decisions/043). ONNX Runtime's Python class around its own binding
    costs 30 µs for features of accelerators, so the object below is used, where this version has one.

    session: the InferenceSession. weights: OrtValues by input. inputs, outputs: the graph's tensors beside these.
    names: names of the outputs.
    """

    def __init__(
        self,
        session: Any,
        weights: Mapping[str, Any],
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
    ) -> None:
        self.session, self._weights = session, weights
        self.names = [spec.name for spec in outputs]
        self._by_values = any(spec.dtype == NAME for spec in (*inputs, *outputs))
        self._bindable = not self._by_values and hasattr(session, "_sess") and hasattr(ort_c, "SessionIOBinding")
        self._bindings = threading.local()
        if self._bindable:
            self._run = session._sess.run_with_iobinding
            self._cpu = ort_c.OrtDevice(ort_c.OrtDevice.cpu(), ort_c.OrtDevice.default_memory(), 0)

    def run(self, arrays: Mapping[str, Array], cell: LevelCell, options: Any) -> list[Array]:
        """The outputs in order, new arrays, at the level of `cell`. Raises ONNX Runtime's errors."""
        if self._bindable:
            try:
                return self._run_bound(arrays, cell, options)
            except RuntimeError:  # for whatever reason; the run below fails alike, with an error of the right class
                if options.terminate:
                    raise
        feeds = {**arrays, **self._weights, LEVEL.name: cell.ort_value}
        if self._by_values:
            return run_values(self.session, self.names, feeds, options)
        results: list[Array] = self.session.run(self.names, feeds, options)
        return results

    def close(self) -> None:
        """Write the profile, where one was asked for."""
        self.session.end_profiling()

    def _run_bound(self, arrays: Mapping[str, Array], cell: LevelCell, options: Any) -> list[Array]:
        bindings = self._bindings
        binding = getattr(bindings, "binding", None) or self._bind()
        nbytes = 0
        for name, array in arrays.items():
            binding.bind_input(name, array)
            nbytes += array.nbytes
        if bindings.cell is not cell:
            binding.bind_ortvalue_input(LEVEL.name, cell.ort_value._ortvalue)
            bindings.cell = cell
        for name in self.names:  # in each run, else ONNX Runtime writes into the memory of the last run's outputs
            binding.bind_output(name, self._cpu)
        try:
            self._run(binding, options)
            results: list[Array] = binding.copy_outputs_to_cpu()
        finally:
            binding.clear_binding_outputs()
            if nbytes > KEPT_BYTES:
                del bindings.binding
        return results

    def _bind(self) -> Any:
        """This thread's binding. `cell` beside it is the LevelCell that is bound, of which it keeps the memory."""
        binding = self._bindings.binding = ort_c.SessionIOBinding(self.session._sess)
        self._bindings.cell = None
        for name, value in self._weights.items():
            binding.bind_ortvalue_input(name, value._ortvalue)
        return binding
