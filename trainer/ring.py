"""Ring: the weights that one level adds to the level below, and the guard that protects all other weights."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from .model.layers import NestedLayer, unique_weights
from .model.nested_model import NestedModel


class RingGuard:
    """Keeps everything outside a level's ring unchanged, bit for bit, through the optimizer's steps.

    With a level, the blocks with that first level may change in every sparse weight, and the level's row in every bias.
    Without a level, all weights that some level keeps may change. Weight decay and momentum move a weight even without
    a gradient, so the other values are also restored after each step. The constructor copies the values and masks: make
    a new guard after the masks change.
    """

    def __init__(self, net: NestedModel, level: int | None = None) -> None:
        layers = list(net.nested_layers().values())
        sparse = [layer for layer in unique_weights(layers) if not layer.dense]
        if level is None:
            self._held = [_Held(layer.values, layer.mask(net.level_count - 1)) for layer in sparse]
            return
        self._held = [_Held(layer.values, layer.ring(level)) for layer in sparse]
        self._held += [_Held(layer.biases, _row(layer.biases, level)) for layer in layers if layer.biases is not None]

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set the gradients outside the ring to zero; call it after backward."""
        for held in self._held:
            if held.parameter.grad is not None:
                held.parameter.grad.masked_fill_(held.outside, 0)

    @torch.no_grad()
    def restore(self) -> None:
        """Restore all values outside the ring; call it after every optimizer step."""
        for held in self._held:
            torch.where(held.outside, held.values, held.parameter, out=held.parameter)

    @torch.no_grad()
    def forget(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the optimizer's moments outside the ring to zero, so that a weight that returns starts without them."""
        for held in self._held:
            for moment in optimizer.state.get(held.parameter, {}).values():
                if isinstance(moment, Tensor) and moment.shape == held.outside.shape:
                    moment.masked_fill_(held.outside, 0)


class _Held:
    """A parameter, the mask of its protected entries, and a copy of its values."""

    def __init__(self, parameter: Tensor, ring: Tensor) -> None:
        self.parameter = parameter
        self.outside = ~ring
        self.values = parameter.detach().clone()


def _row(bias: Tensor, level: int) -> Tensor:
    ring = torch.zeros_like(bias, dtype=torch.bool)
    ring[level] = True
    return ring


def trainable(net: NestedModel, level: int) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters that the stage of `level` trains: with weight decay (weights), and without (biases, norms).

    Level 0 trains everything. Later levels train sparse weights, biases and their own norms, because all other
    parameters are shared with the levels that are trained already.
    """
    norms, layers = net.level_norms().values(), net.nested_layers().values()
    of_level = {id(p) for norm in norms for p in norm.norms[level].parameters()}
    of_others = {
        id(p) for norm in norms for other in norm.norms if other is not norm.norms[level] for p in other.parameters()
    }
    own: list[Tensor] = [p for norm in norms for p in norm.norms[level].parameters() if id(p) not in of_others]
    own += [parameter for layer in layers for parameter in _growing(layer)]
    chosen = own if level else [p for p in net.parameters() if id(p) not in of_others or id(p) in of_level]
    unique = {id(parameter): parameter for parameter in chosen if parameter.requires_grad}.values()
    return _by_decay(net, unique)


def trainable_jointly(net: NestedModel) -> tuple[list[Tensor], list[Tensor]]:
    """All parameters of all levels: with weight decay (weights), and without (biases, norms)."""
    return _by_decay(net, [parameter for parameter in net.parameters() if parameter.requires_grad])


def _by_decay(net: NestedModel, parameters: Collection[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    biases = {id(layer.biases) for layer in net.nested_layers().values()}
    decayed = [parameter for parameter in parameters if parameter.ndim >= 2 and id(parameter) not in biases]
    kept = {id(parameter) for parameter in decayed}
    return decayed, [parameter for parameter in parameters if id(parameter) not in kept]


def _growing(layer: NestedLayer) -> list[Tensor]:
    weight: list[Tensor] = [] if layer.dense else [layer.values]
    return weight if layer.biases is None else [*weight, layer.biases]


@torch.no_grad()
def inherit(net: NestedModel, level: int) -> None:
    """Copy biases and norms, statistics included, to `level` from the level below."""
    for norm in net.level_norms().values():
        norm.norms[level].load_state_dict(norm.norms[level - 1].state_dict())
    for layer in net.nested_layers().values():
        if layer.biases is not None:
            layer.biases[level].copy_(layer.biases[level - 1])


@torch.no_grad()
def empty_ring(net: NestedModel, level: int) -> None:
    """Set the weights that `level` adds to zero, so that it computes the same as the level below."""
    for layer in net.nested_layers().values():
        if not layer.dense:
            layer.values.masked_fill_(layer.ring(level), 0)
