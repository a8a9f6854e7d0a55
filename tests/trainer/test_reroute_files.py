"""Rerouting in files: a route is what the runtime's operators compute; stored measurements."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from reroute_nets import ORDER, PAIRS, chain, images, labelled, shortcut
from torch import Tensor

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import InputError, LevelError
from nested_sparse.kernels import library
from nested_sparse.reroute import Reroute
from nested_sparse.slice import slice_checkpoint
from nested_sparse.trainer import export, measure_reroutes
from nested_sparse.trainer.call_order import trace_calls
from nested_sparse.trainer.reroute import rerouted


def run_lowered(path: Path, x: Tensor, start: int, end: int, lowered: set[str]) -> np.ndarray:
    """The output of the file's graph when the operators `lowered` read the level from a second input.

    An operator reads the level once, when it starts: so this is what a run computes whose level falls just before them,
    without a race.
    """
    with Checkpoint.open(path) as checkpoint:
        model = onnx.load_from_string(checkpoint.graph())
        (level,) = (value for value in model.graph.input if value.name == "__level__")
        low = model.graph.input.add()
        low.CopyFrom(level)
        low.name = "low"
        for node in model.graph.node:
            if node.name in lowered:
                node.input[list(node.input).index("__level__")] = "low"
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        library.register(options)
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        feeds: Mapping[str, Any] = {
            "input": x.numpy(),
            "__level__": np.array(start),
            "low": np.array(end),
            **{f"__segment_{each}__": checkpoint.segment(each).copy() for each in range(len(checkpoint.levels))},
        }
        (output,) = session.run(None, feeds)
    return output


@pytest.mark.parametrize("make", [chain, shortcut])
@torch.no_grad()
def test_a_route_is_what_the_runtimes_operators_compute(make: Any, tmp_path: Path) -> None:
    """For every pair of levels and every set of lowered operators, the file answers as the route does."""
    net, x = make(), images(3)
    path = export(net, (x,), tmp_path / "net.safetensors", verify=False)
    calls = trace_calls(net, x)
    for start, end in PAIRS:
        for cut in range(len(calls.layers) + 1):
            lowered = calls.layers[cut:]
            with rerouted(net, calls, start, end, lowered):
                expected = net(x).numpy()
            np.testing.assert_allclose(run_lowered(path, x, start, end, set(lowered)), expected, rtol=1e-4, atol=1e-4)


def test_reroutes_travel_with_the_file(tmp_path: Path) -> None:
    """After export, reading and slicing, a slice keeps the reroutes that start at one of its levels."""
    net, samples = chain(), labelled()
    reroutes = measure_reroutes(net, samples)
    path = export(net, (samples[0][0],), tmp_path / "net.safetensors", reroutes=reroutes, verify=False)
    with Checkpoint.open(path) as checkpoint:
        assert checkpoint.reroutes == reroutes
        assert tuple(checkpoint.reroutes[0].accuracy) == ORDER
    slice_checkpoint(path, 2, tmp_path / "two.safetensors")
    slice_checkpoint(path, 1, tmp_path / "one.safetensors")
    with Checkpoint.open(tmp_path / "two.safetensors") as two, Checkpoint.open(tmp_path / "one.safetensors") as one:
        assert two.reroutes == reroutes[:1]
        assert one.reroutes == ()


def test_reroutes_of_another_model_are_not_exported(tmp_path: Path) -> None:
    """Unknown levels and layers give an error, and no file is written."""
    for reroute, error in (
        (Reroute(3, 0, {"3": 0.5}), LevelError),
        (Reroute(1, 0, {"conv": 0.5}), InputError),
    ):
        with pytest.raises(error, match="measure this model's own"):
            export(chain(), (images(2),), tmp_path / "net.safetensors", reroutes=[reroute])
    assert not list(tmp_path.iterdir())
