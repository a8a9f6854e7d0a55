"""ChannelMemory: the values of norms and biases for a channel at the time of its drop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nested_sparse.coupled import ChannelGroup

from ..model.nested_model import NestedModel

ChannelMasks = Mapping[ChannelGroup, NDArray[np.bool_]]


class ChannelMemory:
    """Affine, running statistics and biases of `level`: the last saved values of each channel.

    A dropped channel's weights keep their values. But its norm's statistics approach those of zeros, and momentum still
    moves parameters without gradient.
    """

    def __init__(self, net: NestedModel, level: int, groups: Sequence[ChannelGroup]) -> None:
        self._net, self._level, self._groups = net, level, tuple(groups)
        self._values = [[value.clone() for value in self._live(group)] for group in self._groups]

    @torch.no_grad()
    def remember(self, channels: ChannelMasks) -> None:
        """Save the present values of the channels in the bool (C,) masks."""
        for group, values in zip(self._groups, self._values, strict=True):
            for live, value in zip(self._live(group), values, strict=True):
                value.copy_(torch.where(_spread(channels[group], live), live, value))

    @torch.no_grad()
    def restore(self, channels: ChannelMasks) -> None:
        """Restore the saved values of the channels in the masks."""
        for group, values in zip(self._groups, self._values, strict=True):
            for live, value in zip(self._live(group), values, strict=True):
                live.copy_(torch.where(_spread(channels[group], live), value, live))

    def state(self) -> list[list[Tensor]]:
        """The saved values."""
        return self._values

    def load(self, state: Sequence[Sequence[Tensor]]) -> None:
        """Load the result of `state`."""
        for values, saved in zip(self._values, state, strict=True):
            for value, each in zip(values, saved, strict=True):
                value.copy_(each)

    def _live(self, group: ChannelGroup) -> list[Tensor]:
        """The model's tensors, each with one entry, or several consecutive ones, per channel."""
        norms = [self._net.level_norms()[name].norms[self._level] for name in group.norms]
        layers = [self._net.nested_layers()[name] for name in group.producers]
        named = ("weight", "bias", "running_mean", "running_var")
        found: list[Tensor | None] = [getattr(norm, name) for norm in norms for name in named]
        found += [layer.biases[self._level] for layer in layers if layer.biases is not None]
        return [value.detach() for value in found if value is not None]


def _spread(channels: NDArray[np.bool_], like: Tensor) -> Tensor:
    """A (C,) mask expanded to the size and device of `like`."""
    return torch.from_numpy(np.repeat(channels, like.numel() // channels.size)).to(like.device)
