"""Stepped: torch's LSTM and GRU whose matrices are layers inside them, which can be nested.

Each layer and direction has two: `ih_l0`, `ih_l0_reverse`, … multiply the inputs of all steps at once, `hh_l0`, … their
own hidden states. Checks, shapes, packed sequences and errors are torch's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nested_sparse.errors import InputError

from .layers import NestedLayer
from .layers.recurrent import GRURecurrence, LSTMRecurrence, Projection

_WEIGHT, _BIAS = "weight_", "bias_"
_HALVES = ("ih_", "hh_")


class Stepped(nn.RNNBase):
    """The part that both share. Mixed into torch's class.

    weight_ih_l0, …, bias_hh_l0, …: weights and biases of the layers inside, in the places where torch has them.
    """

    def forward(self, input: Any, hx: Any = None) -> Any:
        """As torch's, at the current level of the layers inside."""
        with _Replaced(self, hx is None):
            return super().forward(input, hx)

    @property
    def _places(self) -> list[str]:
        """Ends of the names of the layers inside, in torch's order."""
        directions = ("", "_reverse") if self.bidirectional else ("",)
        return [f"l{layer}{direction}" for layer in range(self.num_layers) for direction in directions]

    @property
    def _flat_weights(self) -> list[Any]:
        """The parameters, which torch compares with the input's dtype."""
        return [value for half in self.children() for value in half.parameters(recurse=False)]

    @_flat_weights.setter
    def _flat_weights(self, values: object) -> None:
        """torch sets what it has read."""

    def _init_flat_weights(self) -> None:
        """No weight is held twice."""

    def flatten_parameters(self) -> None:
        """Nothing: the weights of a level are computed at each call."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """For copies and pickles."""
        nn.Module.__setstate__(self, state)  # type: ignore[no-untyped-call]
        self._flat_weight_refs: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        """The weights and biases of the layers inside, under torch's names."""
        kind, half = self._part(name)
        return super().__getattr__(name) if half is None else getattr(half, kind)

    def __setattr__(self, name: str, value: Any) -> None:
        """As any module's. Raises InputError: it is the name of a weight of a layer inside, which has other values."""
        if self._part(name)[1] is not None:
            raise InputError(
                f"{name} of a nested {type(self).__name__} cannot be set: its values are those of a layer inside; name "
                "the module in keep_dense, if its weights are computed at each call"
            )
        super().__setattr__(name, value)

    def _part(self, name: str) -> tuple[str, nn.Module | None]:
        """The parameter's name and the layer inside that hold what torch calls `name`; no layer if none does."""
        kind, _, half = name.partition("_")
        known = f"{kind}_" in (_WEIGHT, _BIAS)
        return kind, self.__dict__.get("_modules", {}).get(half) if known else None

    def _run(self, function: Any, args: Sequence[Any], zeros: bool) -> Any:
        """The answer of a call of torch.lstm or torch.gru with this module's settings."""
        packed = isinstance(args[2], Tensor) or (function is torch.lstm and isinstance(args[1], Tensor))
        if packed or not any(map(_is_watched, self.children())):
            place = 3 if packed else 2
            return function(*args[:place], self._level_weights(), *args[place + 1 :])
        x, state, _, _, _, dropout, train, _, batch_first = args
        states = None if zeros else ([state] if isinstance(state, Tensor) else list(state))
        output, *last = self._by_layers(x.transpose(0, 1) if batch_first else x, states, dropout if train else 0.0)
        return (output.transpose(0, 1) if batch_first else output, *last)

    def _by_layers(self, x: Tensor, states: list[Tensor] | None, dropout: float) -> list[Tensor]:
        """Output (T, N, D·H) and last states, each (L·D, N, H), from `x` (T, N, K): a call of each layer inside."""
        if x.shape[0] == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")  # torch's words
        directions = 2 if self.bidirectional else 1
        last: list[tuple[Tensor, ...]] = []
        outputs: list[Tensor] = []
        for index, place in enumerate(self._places):
            projection, recurrence = (self._modules[half + place] for half in _HALVES)
            assert projection is not None
            assert recurrence is not None
            state = [] if states is None else [each[index] for each in states]
            output, *cells = recurrence(projection(x), *state)
            outputs.append(output)
            last.append((output[0] if index % directions else output[-1], *cells))
            if len(outputs) == directions:
                x, outputs = torch.cat(outputs, dim=-1) if directions == 2 else outputs[0], []
                if dropout and index + 1 < len(self._places):
                    x = F.dropout(x, dropout)
        return [x, *(torch.stack(each) for each in zip(*last, strict=True))]

    def _level_weights(self) -> list[Tensor]:
        """The weights and biases of the current level, in torch's order."""
        found = []
        for place in self._places:
            halves = [self._modules[half + place] for half in _HALVES]
            weights = [
                half.masked_weight(half.level) if isinstance(half, NestedLayer) else half.weight  # type: ignore[union-attr]
                for half in halves
            ]
            biases = [
                half.level_bias() if isinstance(half, NestedLayer) else half.bias  # type: ignore[union-attr]
                for half in halves
            ]
            found += [*weights, *(bias for bias in biases if bias is not None)]
        return found  # type: ignore[return-value]


class SteppedLSTM(Stepped, nn.LSTM):
    """torch's LSTM, of two layers for each layer and direction."""


class SteppedGRU(Stepped, nn.GRU):
    """torch's GRU, of two layers for each layer and direction."""


STEPPED: Mapping[type[nn.Module], tuple[type[Stepped], type[LSTMRecurrence | GRURecurrence]]] = {
    nn.LSTM: (SteppedLSTM, LSTMRecurrence),
    nn.GRU: (SteppedGRU, GRURecurrence),
}
"""By torch's class, the class that takes its place, and that of the layers for its hidden states."""


class _Replaced(TorchFunctionMode):
    """Lets `module` answer the call of torch.lstm or torch.gru in its forward.

    zeros: whether the state that the call passes is the one of zeros that torch makes where none is given.
    """

    def __init__(self, module: Stepped, zeros: bool) -> None:
        super().__init__()
        self._module, self._zeros = module, zeros

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The module's answer, or that of any other function."""
        if func in (torch.lstm, torch.gru) and not kwargs:
            return self._module._run(func, args, self._zeros)
        return func(*args, **(kwargs or {}))


def _is_watched(layer: nn.Module) -> bool:
    """Whether a hook waits for calls of the layer, or export has its forward: else torch's function is faster."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks or "forward" in layer.__dict__)


def why_whole(module: nn.Module) -> str | None:
    """The reason why an LSTM or GRU of torch cannot be stepped; None when it can."""
    size = getattr(module, "proj_size", 0)
    if size:
        return f"its proj_size is {size}; only an LSTM without a projection is nested"
    computed = getattr(module, "parametrizations", {})
    for name in module._flat_weights_names:  # type: ignore[union-attr]
        pruned_or_normed = any(f"{name}_{part}" in module._parameters for part in ("orig", "v"))
        if module._parameters.get(name) is None and name not in computed and not pruned_or_normed:
            return f"its {name} is not a parameter but computed from others"
    return None


def step(module: nn.Module, masks: Mapping[str, Tensor]) -> dict[nn.Module, Tensor]:
    """Make `module`, an LSTM or GRU of torch, a Stepped, in place; returns the masks of its new layers' weights.

    masks: bool masks of its parameters, by name.
    """
    kind, recurrence = STEPPED[type(module)]
    held = module._parameters
    module.__class__ = kind
    assert isinstance(module, Stepped)
    found: dict[nn.Module, Tensor] = {}
    for place in module._places:
        for half in _HALVES:
            name = half + place
            weight, bias = held.pop(_WEIGHT + name), held.pop(_BIAS + name, None)
            made: nn.Module
            assert weight is not None
            if half == _HALVES[0]:
                made = Projection(weight, bias, weight.shape[0] // module.hidden_size)
            else:
                made = recurrence(weight, bias, place.endswith("_reverse"))
            made.train(module.training)
            module._modules[name] = made
            if _WEIGHT + name in masks:
                found[made] = masks[_WEIGHT + name]
    for name in ("_flat_weights", "_flat_weights_names", "_flat_weight_refs"):
        module.__dict__.pop(name, None)
    module._flat_weights_names, module._flat_weight_refs = [], []
    return found
