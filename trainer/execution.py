"""Execution: the order in which forward calls the nested layers, and the layer that each norm follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .batch import run
from .model.layers import NestedLayer
from .model.nested_model import NestedModel
from .model.norm import LevelBatchNorm


@dataclass(frozen=True, slots=True)
class Execution:
    """The order of calls in one forward pass.

    layers: names of the nested layers, in the order of their first call.
    layer_of: path of each called level norm -> the layer whose output the norm normalises; export folds the norm into
        this layer. For a norm that reads something else, it is the layer called last before the norm; None when no
        layer was called before.
    """

    layers: tuple[str, ...]
    layer_of: Mapping[str, str | None]


@torch.no_grad()
def trace_execution(net: NestedModel, inputs: Any) -> Execution:
    """Run `net` once on `inputs`, in its present mode and level, and return the order of its calls."""
    watch = _Watch()
    handles = [layer.register_forward_hook(watch.layer) for layer in net.nested_layers().values()]
    for path, norm in net.level_norms().items():
        handles.append(norm.register_forward_pre_hook(lambda _, args, path=path: watch.norm(path, args[0])))
    try:
        run(net, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return Execution(tuple(watch.layers), watch.layer_of)


@dataclass(slots=True)
class _Watch:
    """The hooks' record. layers: name -> last output, kept alive so that its identity cannot be reused."""

    layers: dict[str, Tensor] = field(default_factory=dict)
    last: str | None = None
    layer_of: dict[str, str | None] = field(default_factory=dict)

    def layer(self, module: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(module, NestedLayer)
        self.layers[module.name] = output
        self.last = module.name

    def norm(self, path: str, x: Tensor) -> None:
        feeding = (name for name, output in self.layers.items() if output is x)
        self.layer_of.setdefault(path, next(feeding, self.last))


def norms_of(net: NestedModel, execution: Execution, layers: set[str]) -> dict[str, LevelBatchNorm]:
    """The called level norms that follow `layers`, by path; with all layers, also the norms that follow no layer."""
    everything = layers >= set(execution.layers)
    return {
        path: norm
        for path, norm in net.level_norms().items()
        if path in execution.layer_of and (execution.layer_of[path] in layers or everything)
    }
