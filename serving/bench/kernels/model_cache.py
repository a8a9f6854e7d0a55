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
from .int8 import INT8, calibration_images, quantised_for_any_input, quantised_statically

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nested_sparse.trainer import NestedModel

LINEAR, RESNET50, MOBILENETV2 = "linear", "resnet50", "mobilenetv2"

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class ConvNetwork:
    """A convolutional network and the (1, C, H, W) shape of its images."""

    make: Callable[[], nn.Module]
    image_shape: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Dense:
    """The model that a nested one was made of, as ONNX. expected: torch's output, of the float32 model in any case."""

    path: Path
    expected: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Built:
    """A nested model as our side runs it.

    path: the checkpoint. feed: its input, the dense model's too. expected: torch's output at each level, on the stored
    weights; for int8 on the float32 weights. model: the plain torch model; net: the nested one.
    """

    path: Path
    feed: dict[str, NDArray[np.float32]]
    expected: tuple[NDArray[np.float32], ...]
    model: nn.Module
    net: NestedModel


class ModelCache:
    """Makes models with torch, in `folder`, from fixed seeds.

    networks: by the name that rows have; None is ResNet-50 and MobileNetV2 at 224 × 224. linear_size: rows and columns
    of the network LINEAR, one square layer.
    """

    def __init__(
        self, folder: Path, *, networks: dict[str, ConvNetwork] | None = None, linear_size: int = 4096
    ) -> None:
        self._folder = folder
        self._networks = networks
        self._linear_size = linear_size
        self._made: dict[Hashable, Any] = {}

    def folder(self) -> Path:
        """A new empty folder, gone with the cache's."""
        path = self._folder / str(len(list(self._folder.iterdir())))
        path.mkdir()
        return path

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """The value that `make` returned for `key` the first time."""
        if key not in self._made:
            self._made[key] = make()
        made: Made = self._made[key]
        return made

    def built(
        self,
        network: str,
        pattern: str,
        densities: tuple[float, ...],
        *,
        batch: int = 1,
        values: str = FLOAT32.name,
    ) -> Built:
        """`network` with its layers at the levels' densities, stored as `values`.

        Dense stay the first layer of a convolutional network and its depthwise layers. Raises PatternError, …
        """
        key = network, pattern, densities, batch
        nested = self.once(("nested", *key), lambda: self._nested(*key))
        return self.once(("built", *key, values), lambda: self._built(nested, network, values))

    def dense(self, network: str, *, batch: int = 1, values: str = FLOAT32.name) -> Dense:
        """The dense model of `network`; in int8 quantised by ONNX Runtime's own tools."""
        key = network, batch, values
        return self.once(("dense", *key), lambda: self._dense(*key))

    def _fresh(self, network: str, batch: int) -> tuple[nn.Module, Tensor]:
        """The model, the same each time, and examples for it: an input of `batch` rows, or two images."""
        import torch
        from torch import nn

        torch.manual_seed(0)
        if network == LINEAR:
            model: nn.Module = nn.Sequential(nn.Linear(self._linear_size, self._linear_size))
            return model.eval(), torch.randn(batch, self._linear_size)
        conv = (self._networks or default_networks())[network]
        model = conv.make()
        return model.eval(), torch.randn(2, *conv.image_shape[1:])

    def _nested(
        self, network: str, pattern: str, densities: tuple[float, ...], batch: int
    ) -> tuple[nn.Module, NestedModel, Tensor]:
        import torch

        from nested_sparse.trainer import nest, recalibrate

        model, examples = self._fresh(network, batch)
        if network == LINEAR:
            return model, nest(model, densities=densities, pattern=pattern).eval(), examples
        net = nest(model, densities=densities, pattern=pattern, keep_dense=first_and_depthwise(model))
        recalibrate(net, [(examples, torch.zeros(len(examples), dtype=torch.int64))])  # else 5 % answers constants
        return model, net.eval(), examples[:1]

    def _built(self, nested: tuple[nn.Module, NestedModel, Tensor], network: str, values: str) -> Built:
        import torch

        from nested_sparse.trainer import export
        from nested_sparse.trainer.export.verify import stored_weights

        model, net, example = nested
        path = self.folder() / "nested.safetensors"
        if values != INT8:
            export(net, (example,), path, values=values)
        elif network == LINEAR:
            export(net, (example,), path, values=values, activations="dynamic")
        else:
            unused = torch.zeros(1, dtype=torch.int64)  # a batch's targets
            batches = [(torch.from_numpy(image), unused) for image in calibration_images(example.shape)]
            export(net, (example,), path, values=values, calibration=batches)
        expected = []
        with stored_weights(net, VALUE_TYPES[FLOAT32.name if values == INT8 else values]):
            for level in range(net.level_count):
                net.set_level(level)
                expected.append(torch_output(net, example))
        return Built(path, {"input": example.numpy()}, tuple(expected), model, net)

    def _dense(self, network: str, batch: int, values: str) -> Dense:
        if values == INT8:
            plain = self.dense(network, batch=batch)
            if network == LINEAR:
                return Dense(quantised_for_any_input(plain.path), plain.expected)
            shape = (self._networks or default_networks())[network].image_shape
            return Dense(quantised_statically(plain.path, shape), plain.expected)
        model, examples = self._fresh(network, batch)
        example = examples if network == LINEAR else examples[:1]
        path = self.folder() / "dense.onnx"
        export_dense(model, example, path)
        return Dense(path, torch_output(model, example))


def default_networks() -> dict[str, ConvNetwork]:
    """The networks of the table."""
    from nested_sparse.trainer.models import MobileNetV2, ResNet50

    shape = (1, 3, 224, 224)
    return {RESNET50: ConvNetwork(ResNet50, shape), MOBILENETV2: ConvNetwork(MobileNetV2, shape)}


def first_and_depthwise(model: nn.Module) -> tuple[str, ...]:
    """The names of the model's first convolution and of its depthwise ones."""
    from torch import nn

    convs = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    return tuple(name for index, (name, conv) in enumerate(convs.items()) if index == 0 or conv.groups > 1)


def torch_output(model: nn.Module, image: Tensor) -> NDArray[np.float32]:
    """The output of torch."""
    import torch

    with torch.inference_mode():
        output: NDArray[np.float32] = model(image).numpy()
    return output


def with_zeros(model: nn.Module, net: NestedModel, level: int) -> nn.Module:
    """A copy of `model`, an ordinary network, that computes the same as `net` at `level`: pruned weights are zeros."""
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
