"""Distillation: sparse levels learn the dense model's soft labels beside the true ones (arXiv:1503.02531)."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nested_sparse.errors import TrainingError

from .batch import run
from .entry import foreign_errors
from .model.nested_model import NestedModel
from .model.preserved import preserved_generators


class Teacher:
    """A frozen copy of `net` as it is now, at its current level."""

    def __init__(self, net: NestedModel) -> None:
        self.net = copy.deepcopy(net).eval().requires_grad_(False)

    @torch.no_grad()
    def soft_labels(self, inputs: Any) -> Tensor:
        """The copy's logits, (N, classes, ...). Raises TrainingError if it returns something else."""
        return check_logits(run(self.net, inputs))


def check_first_batch(net: NestedModel, inputs: Any, modes: Iterable[bool]) -> None:
    """Run a copy of `net` in each of the train `modes`; raise TrainingError now where soft labels would fail later.

    The random generators keep their states, and `net` itself is not changed.
    """
    copied = copy.deepcopy(net)
    for training in modes:
        said = foreign_errors("train", TrainingError, copied, callbacks=True)  # an entry knows only the modules of net
        with preserved_generators(), torch.set_grad_enabled(training), said:
            check_logits(run(copied.train(training), inputs))


def check_logits(outputs: Any) -> Tensor:
    """Return `outputs`. Raises TrainingError unless they are logits, a float tensor (N, classes, ...)."""
    if not isinstance(outputs, Tensor) or outputs.ndim < 2 or not outputs.is_floating_point():
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise TrainingError(
            f"soft labels need a model that answers with its logits alone (N, classes, ...), got {got}; set "
            "distill_weight=0 (of Joint: soft_weight=0), or nest a module whose forward returns the logits"
        )
    return outputs


def distillation_loss(logits: Tensor, soft_labels: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the softened labels, mean over samples, scaled by temperature² as in the paper.

    logits, soft_labels: (N, classes, ...). No gradient flows to `soft_labels`.
    """
    wanted = F.log_softmax(soft_labels.detach() / temperature, dim=1)
    got = F.log_softmax(logits / temperature, dim=1)
    pointwise = F.kl_div(got, wanted, reduction="none", log_target=True)
    return pointwise.sum(dim=1).mean() * temperature**2
