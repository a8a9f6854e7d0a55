"""Recalibration: norm statistics of each level measured on data, in place of training's running averages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from nested_sparse.argument import whole
from nested_sparse.errors import TrainingError

from .batch import device_of, moved, pairs, run, sample_count
from .entry import entry
from .model.modes import evaluating
from .model.nested_model import NestedModel, require_nested
from .model.norm import noting
from .model.preserved import preserved

CONSTANT = 1e-6
"""Variance of a constant channel, at most, as a share of the norm's epsilon. At sparse levels a channel may see none
but dropped ones. Its norm would divide by the root of epsilon, and magnify rounding 316 times: an int8 file of such a
net was wrong by twice the size of its output. A channel of this variance moves the answer by a thousandth of the norm's
weight."""


@entry(TrainingError)
@torch.no_grad()
def recalibrate(net: NestedModel, batches: Iterable[tuple[Any, Any]], *, samples: int = 2000) -> None:
    """Set the running mean and variance of every level's norms to those of the norm's inputs.

    batches: (inputs, targets), read once, until at least `samples` samples are seen. Mean and unbiased variance are
    pooled over all batches, also of uneven sizes. Meanwhile norms use their batch's statistics and dropout is off, as
    in US-Nets (arXiv:1903.05134). A constant channel gets the variance 1, so that its norm magnifies no
    rounding. Level and mode of the model are restored. Raises TrainingError: no batch.
    """
    require_nested(net, TrainingError)
    samples = whole("samples", samples, 1, error=TrainingError)
    level, device = net.level, device_of(net)
    moments = [_level_moments(net, index) for index in range(net.level_count)]
    seen = 0
    with preserved(net.model, levels=False), measuring(net, moments):
        for inputs, _ in pairs(batches):
            on_device = moved(inputs, device)
            for index in range(net.level_count):
                net.set_level(index)
                run(net, on_device)
            seen += sample_count(inputs)
            if seen >= samples:
                break
    net.set_level(level)
    if not seen:
        raise TrainingError("recalibration needs at least one batch, got none")
    for norm, moment in (pair for of_level in moments for pair in of_level.items()):
        moment.store(norm)


class Moments:
    """Count, mean and summed squared deviation per channel, merged batch by batch (Chan et al., 1983) in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.batches = 0
        self.mean: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def add(self, x: Tensor) -> None:
        """Merge `x` (N, C, ...)."""
        channels = x.detach().transpose(0, 1).flatten(1).double()
        count, mean = channels.shape[1], channels.mean(dim=1)
        total, apart = self.count + count, mean - self.mean
        self.squares = self.squares + channels.sub_(mean[:, None]).square_().sum(dim=1)
        self.squares = self.squares + apart.square() * (self.count * count / total)
        self.mean = self.mean + apart * (count / total)
        self.count = total
        self.batches += 1

    def store(self, norm: _BatchNorm) -> None:
        """Write mean and unbiased variance into the norm's statistics; a norm without inputs keeps its own.

        A constant channel gets the variance 1.
        """
        if self.count > 1 and norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.copy_(torch.as_tensor(self.mean))
            variance = torch.as_tensor(self.squares) / (self.count - 1)
            norm.running_var.copy_(torch.where(variance < CONSTANT * norm.eps, 1.0, variance))
        if self.count > 1 and norm.num_batches_tracked is not None:
            norm.num_batches_tracked.fill_(self.batches)


def _level_moments(net: NestedModel, level: int) -> dict[_BatchNorm, Moments]:
    norms = (level_norm.norms[level] for level_norm in net.level_norms().values())
    return {norm: Moments() for norm in norms if isinstance(norm, _BatchNorm)}


@contextmanager
def measuring(net: NestedModel, moments: list[dict[_BatchNorm, Moments]]) -> Iterator[None]:
    """A context in which the norms use batch statistics and add their inputs to `moments`.

    All other modules are in eval mode. Afterwards the modes are restored.
    """
    norm_moments = [pair for of_level in moments for pair in of_level.items()]
    tracking = {norm: norm.track_running_stats for norm, _ in norm_moments}
    with evaluating(net), ExitStack() as stack:
        try:
            for norm, moment in norm_moments:
                norm.training = True  # not norm.train(): a user's norm may contain modules such as dropout
                norm.track_running_stats = False
                stack.enter_context(noting(norm, moment.add))
            yield
        finally:
            for norm, tracked in tracking.items():
                norm.track_running_stats = tracked
