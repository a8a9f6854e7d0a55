"""ModelCache: the models that rows are measured on, each made once and kept until the benchmark ends."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nested_sparse.value_type import FLOAT32, VALUE_TYPES

from .dense import export_dense

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nested_sparse.trainer import NestedModel

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Network:
    """A convolutional network, its first layer (kept dense) by name, and the (1, C, H, W) shape of its images."""

    make: Callable[[], nn.Module]
    first_layer: str
    image_shape: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Built:
    """A model on both sides.

    path: the nested checkpoint; dense_path: the model it was made of, as ONNX. feed: what both take. expected: torch's
    output at each level; dense_expected: that of the dense model. net: the nested torch model.
    """

    path: Path
    dense_path: Path
    feed: dict[str, NDArray[np.float32]]
    expected: tuple[NDArray[np.float32], ...]
    dense_expected: NDArray[np.float32]
    model: nn.Module
    net: NestedModel


class ModelCache:
    """Makes models with torch, in `folder`, from fixed seeds. network: None is ResNet-50 at 224 × 224."""

    def __init__(self, folder: Path, *, network: Network | None = None, linear_size: int = 4096) -> None:
        self._folder = folder
        self._network = network
        self._linear_size = linear_size
        self._made: dict[Hashable, Any] = {}

    def folder(self) -> Path:
        """A new empty folder, gone with the workshop's."""
        path = self._folder / str(len(list(self._folder.iterdir())))
        path.mkdir()
        return path

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` returned for `key` the first time."""
        if key not in self._made:
            self._made[key] = make()
        made: Made = self._made[key]
        return made

    def network(self, pattern: str, densities: tuple[float, ...]) -> Built:
        """The network with every layer but the first at the levels' densities. Raises PatternError, BudgetError, …"""
        return self.once(("network", pattern, densities), lambda: self._make_network(pattern, densities))

    def linear(self, pattern: str, densities: tuple[float, ...], batch: int, values: str = FLOAT32.name) -> Built:
        """A square linear layer over `batch` rows, stored as `values`. Raises PatternError, BudgetError, …"""
        key = ("linear", pattern, densities, batch, values)
        return self.once(key, lambda: self._make_linear(pattern, densities, batch, values))

    def _make_network(self, pattern: str, densities: tuple[float, ...]) -> Built:
        import torch

        from nested_sparse.trainer import nest, recalibrate
        from nested_sparse.trainer.models import ResNet50

        network = self._network or Network(ResNet50, "conv1", (1, 3, 224, 224))
        torch.manual_seed(0)
        model = network.make().eval()
        images = torch.randn(2, *network.image_shape[1:])
        net = nest(model, densities=densities, pattern=pattern, keep_dense=(network.first_layer,))
        recalibrate(net, [(images, torch.zeros(len(images), dtype=torch.int64))])  # else activations die out at 5 %
        return self._built(model, net, images[:1])

    def _make_linear(self, pattern: str, densities: tuple[float, ...], batch: int, values: str) -> Built:
        import torch
        from torch import nn

        from nested_sparse.trainer import nest

        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(self._linear_size, self._linear_size)).eval()
        net = nest(model, densities=densities, pattern=pattern)
        return self._built(model, net, torch.randn(batch, self._linear_size), values)

    def _built(self, model: nn.Module, net: NestedModel, image: Tensor, values: str = FLOAT32.name) -> Built:
        from nested_sparse.trainer import export
        from nested_sparse.trainer.export.verify import stored_weights

        folder = self.folder()
        path, dense_path = folder / "nested.safetensors", folder / "dense.onnx"
        export(net.eval(), (image,), path, values=values)
        export_dense(model, image, dense_path)
        expected = []
        with stored_weights(net, VALUE_TYPES[values]):
            for level in range(net.level_count):
                net.set_level(level)
                expected.append(torch_output(net, image))
        feed = {"input": image.numpy()}
        return Built(path, dense_path, feed, tuple(expected), torch_output(model, image), model, net)


def torch_output(model: nn.Module, image: Tensor) -> NDArray[np.float32]:
    """What torch answers."""
    import torch

    with torch.inference_mode():
        output: NDArray[np.float32] = model(image).numpy()
    return output


def with_zeros(model: nn.Module, net: NestedModel, level: int) -> nn.Module:
    """A copy of `model`, an ordinary network, that computes what `net` does at `level`: pruned weights are zeros."""
    import torch

    twin = copy.deepcopy(model).eval()
    with torch.no_grad():
        for name, layer in net.nested_layers().items():
            plain = twin.get_submodule(name)
            parts: Sequence[tuple[Any, Tensor | None]] = (
                (plain.weight, layer.masked_weight(level)),
                (plain.bias, None if layer.bias is None else layer.bias[level]),
            )
            for parameter, value in parts:
                if value is not None:
                    parameter.copy_(value)
        for name, norm in net.level_norms().items():
            twin.get_submodule(name).load_state_dict(norm.norms[level].state_dict())
    return twin
