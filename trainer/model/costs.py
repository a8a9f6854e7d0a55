"""Costs: FLOPs of a forward pass of the whole network, module by module, counted while it runs."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from .layers import NestedLayer

if TYPE_CHECKING:  # NestedModel itself imports this module
    from .nested_model import NestedModel

_ATEN = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Costs:
    """FLOPs of a forward pass over all samples, 2 for each multiply-add of a matrix product or a convolution.

    layers: FLOPs of each nested layer with all weights kept, by name; direct uses of its weight in other code count.
    others: FLOPs of all other code, by the dotted path of the module whose forward runs it, "" for the model's own.
    """

    layers: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """FLOPs of the whole network with all weights kept."""
        return self.layers.total() + self.others.total()

    def positions(self, layers: Mapping[str, NestedLayer]) -> dict[str, int]:
        """Multiply-adds of each weight, by nested layer: output pixels or rows, summed over samples and uses."""
        return {name: flops // (2 * layers[name].values.numel()) for name, flops in self.layers.items()}


class CountsProducts(nn.Module):
    """A model that multiplies outside of torch, where nothing else sees it."""

    @abstractmethod
    def counted(self, others: Counter[str]) -> AbstractContextManager[None]:
        """A context in which forward counts its products outside of torch into `others`, by name."""


@contextmanager
def counted_costs(net: NestedModel) -> Iterator[Costs]:
    """A context that yields Costs and counts forward passes into it, by torch.utils.flop_counter's and own formulas.

    The passes must not build a graph for gradients (torch.no_grad), so that attention and recurrent layers show their
    products. Fused attention is off meanwhile.
    """
    costs = Costs()
    counter = _Counter(costs)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if isinstance(net.model, CountsProducts):
            stack.enter_context(net.model.counted(costs.others))
        for path, module in net.model.named_modules():
            for handle in counter.watch(path, module):
                stack.callback(handle.remove)
            if isinstance(module, NestedLayer):
                stack.enter_context(_noted_reads(module, counter))
        stack.enter_context(counter)
        yield costs


@contextmanager
def _noted_reads(layer: NestedLayer, counter: _Counter) -> Iterator[None]:
    """A context in which `counter` learns the tensors that other code reads as the layer's weight."""

    def read(name: str) -> Tensor | None:
        if name == "bias":
            return layer.level_bias()
        weight = layer.masked_weight(layer.level)
        counter.weights[weight.untyped_storage().data_ptr()] = (layer.name, weight)
        return layer.turned(weight)

    before, layer.read = layer.read, read
    try:
        yield
    finally:
        layer.read = before


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts every operation that has a formula.

    weights: storage of a weight that other code has read -> name of its layer, and the tensor, to keep it alive.
    """

    def __init__(self, costs: Costs) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._costs = costs
        self._running: list[tuple[str, bool]] = []  # dotted path, and whether it is a nested layer's name
        self.weights: dict[int, tuple[str, Tensor]] = {}

    def watch(self, path: str, module: nn.Module) -> list[torch.utils.hooks.RemovableHandle]:
        """Register hooks that note when the module's forward runs; returns their handles."""
        place = (module.name, True) if isinstance(module, NestedLayer) else (path, False)

        def enter(*_: Any) -> None:
            self._running.append(place)

        def leave(*_: Any) -> None:
            self._running.pop()

        return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count it."""
        kwargs = kwargs or {}
        formula = FORMULAS.get(func._overloadpacket)
        if formula is None and func is not torch.ops.prim.device.default:
            with self:
                parts = func.decompose(*args, **kwargs)  # under inference_mode only this splits it up
            if parts is not NotImplemented:
                return parts
        answer = func(*args, **kwargs)
        if formula is not None:
            name, nested = self._owner(args)
            (self._costs.layers if nested else self._costs.others)[name] += int(
                formula(*args, **kwargs, out_val=answer)
            )
        return answer

    def _owner(self, args: tuple[Any, ...]) -> tuple[str, bool]:
        for value in args:
            if self.weights and isinstance(value, Tensor):
                layer, _ = self.weights.get(value.untyped_storage().data_ptr(), (None, None))
                if layer is not None:
                    return layer, True
        return self._running[-1] if self._running else ("", False)


def _matrix_vector(matrix: Tensor, vector: Tensor, *_: Any, out_val: Any = None, **__: Any) -> int:
    return 2 * matrix.numel()


def _added_matrix_vector(_: Tensor, matrix: Tensor, *__: Any, out_val: Any = None, **___: Any) -> int:
    return 2 * matrix.numel()


def _recurrent(x: Tensor, w_input: Tensor, w_hidden: Tensor, *_: Any, out_val: Any = None, **__: Any) -> int:
    """FLOPs of one layer and direction in mkldnn: both matrices at every step of every sample."""
    return 2 * (x.numel() // x.shape[-1]) * (w_input.numel() + w_hidden.numel())


def _recurrent_stack(x: Tensor, weights: list[Tensor], *_: Any, out_val: Any = None, **__: Any) -> int:
    """FLOPs of all layers and directions in cuDNN."""
    return 2 * (x.numel() // x.shape[-1]) * sum(weight.numel() for weight in weights if weight.ndim == 2)


FORMULAS: Mapping[Any, Callable[..., Any]] = {
    **flop_registry,
    _ATEN.mv: _matrix_vector,
    _ATEN.addmv: _added_matrix_vector,
    _ATEN.mkldnn_rnn_layer: _recurrent,
    _ATEN._cudnn_rnn: _recurrent_stack,
}
"""Operation -> function from its arguments and result to FLOPs: torch.utils.flop_counter's formulas and our own."""
