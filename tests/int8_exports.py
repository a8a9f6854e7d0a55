"""Int8 exports: nested networks with norms of their own at each level, exported as int8, and the error of the files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.graph.conversions import conversions
from nested_sparse.runtime import Session
from nested_sparse.trainer import NestedModel, export, nest
from nested_sparse.trainer.model.layers import NestedLayer
from nested_sparse.trainer.model.norm import LevelBatchNorm

DENSITIES = (0.2, 0.5, 0.9)
WORST_ERROR = 0.03  # root mean square, of the output's: small layers with random weights have 0.01 at most


def nested(model: nn.Module, pattern: str = "block4x1", densities: tuple[float, ...] = DENSITIES) -> NestedModel:
    """`model` in eval mode, with other random biases, affines and statistics at every level."""
    net = nest(model, densities=densities, pattern=pattern).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, LevelBatchNorm):
                for norm in module.norms:
                    norm.running_mean.normal_(0, 0.3)
                    norm.running_var.uniform_(0.5, 1.5)
            if isinstance(module, NestedLayer):
                module.values.mul_(2)  # what is pruned leaves the values as large as before
                if module.bias is not None:
                    nn.init.normal_(module.bias, 0, 0.3)
    return net


def images(count: int, channels: int = 3, size: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


def exported(net: NestedModel, x: Tensor, path: Path, **options: Any) -> Path:
    """As int8, calibrated on `x` itself."""
    options = {"calibration": [(x, None)], "verify": False, **options}
    return export(net, (x[:2],), path, values="int8", **options)


def facts(path: Path) -> tuple[Mapping[str, int], int]:
    """How often each operator stands in the file's graph, and how many conversions."""
    with Checkpoint.open(path) as checkpoint:
        graph = checkpoint.graph()
    return Counter(node.op_type for node in onnx.load_from_string(graph).graph.node), len(conversions(graph))


def error(expected: Tensor, got: NDArray[Any]) -> float:
    """Root mean square of the errors over that of the values."""
    values = expected.numpy().astype(np.float64)
    return float(np.sqrt(np.square(values - got).mean() / np.square(values).mean()))


@torch.no_grad()
def worst_error(net: NestedModel, path: Path, inputs: tuple[Tensor, ...]) -> float:
    """Of the first output, over all levels."""
    errors = []
    with Session(path, threads=1) as session:
        feeds = {spec.name: tensor.numpy() for spec, tensor in zip(session.inputs, inputs, strict=True)}
        for level in range(net.level_count):
            net.set_level(level)
            answer = net(*inputs)
            got = next(iter(session.run(feeds, level=level).values()))
            errors.append(error(answer[0] if isinstance(answer, tuple) else answer, got))
    return max(errors)
