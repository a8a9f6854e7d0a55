"""Distillation: levels learn a teacher's soft labels beside the true ones (arXiv:1503.02531)."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nested_sparse.errors import NestedSparseError, TrainingError

from .batch import run
from .entry import foreign_errors
from .memory_format import arrange_channels_last
from .model.nested_model import NestedModel
from .model.preserved import preserved_generators
from .tasks import Task
from .tasks.classification import DEFAULT, Classification

log = logging.getLogger(__name__)


class Teacher:
    """A frozen copy of `net` as it is now; a nested net at its current level.

    task: finds the logits in its answers.
    given: whether `net` is the caller's own teacher. If not, it is the net that is trained, after its dense stage.
    """

    def __init__(self, net: nn.Module, task: Task = DEFAULT, *, given: bool = False) -> None:
        self.net, self.task, self.given = copy.deepcopy(net).eval().requires_grad_(False), task, given

    @torch.no_grad()
    def soft_labels(self, inputs: Any) -> Tensor:
        """The copy's logits, (N, classes, ...). Raises TrainingError if it returns something else."""
        return self.task.logits(run(self.net, inputs))


def given_teacher(model: nn.Module, task: Task, device: torch.device, *, images_last: bool) -> Teacher:
    """The caller's `model` as a teacher on `device`. images_last: whether images come with their channels last."""
    teacher = Teacher(model, task, given=True)
    teacher.net.to(device)
    if images_last:
        arrange_channels_last(teacher.net)
    return teacher


def digest(model: nn.Module) -> str:
    """A short text that tells models of other classes or other values apart, for the fingerprint of a run."""
    hashed = hashlib.sha256(type(model).__qualname__.encode())
    for name, value in model.state_dict().items():
        hashed.update(name.encode())
        if isinstance(value, Tensor):
            hashed.update(f"{value.dtype} {tuple(value.shape)}".encode())
            hashed.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        else:
            hashed.update(repr(value).encode())
    return hashed.hexdigest()[:16]


def check_first_batch(
    net: NestedModel, task: Task, inputs: Any, targets: Any, modes: Iterable[bool], teacher: Teacher | None = None
) -> None:
    """Run a copy of `net` in each of the train `modes`; raise TrainingError now where soft labels would fail later.

    A net whose outputs are not logits of classes, as far as its targets tell, gets a warning.
    teacher: a given one, whose logits must have the shape of the net's. The random generators keep their states, and
    `net` itself is not changed.
    """
    copied = copy.deepcopy(net)
    for training in modes:
        said = foreign_errors("train", TrainingError, copied, callbacks=True)  # an entry knows only the modules of net
        with preserved_generators(), torch.set_grad_enabled(training), said:
            logits = task.logits(run(copied.train(training), inputs))
            if teacher is not None:
                _check_teacher(teacher, inputs, logits)
    _warn_of_regression(logits, targets if isinstance(task, Classification) else None)


def _warn_of_regression(logits: Tensor, targets: Any) -> None:
    """Warn where the outputs are one class, or the targets are no classes and no probabilities of classes."""
    numbers = isinstance(targets, Tensor) and targets.is_floating_point()
    if logits.shape[1] == 1:
        why = "the net has one output, and the soft label of a single class is always 1"
    elif numbers and bool(((targets < 0) | (targets > 1)).any()):
        why = "the targets are numbers outside [0, 1], so the net's outputs are taken for logits, but are none"
    else:
        return
    log.warning("soft labels are for classes: %s; set distill_weight=0", why)


def _check_teacher(teacher: Teacher, inputs: Any, logits: Tensor) -> None:
    """Raise TrainingError unless the given `teacher` answers to `inputs` with logits of the shape of the net's."""
    try:
        soft_labels = teacher.soft_labels(inputs)
    except NestedSparseError as error:
        raise TrainingError(f"teacher: {error}") from error
    if not soft_labels.isfinite().all():
        raise TrainingError("teacher: its logits of the first batch are not finite; check its weights and its inputs")
    if soft_labels.shape != logits.shape:
        raise TrainingError(
            f"teacher: it answers with logits {tuple(soft_labels.shape)}, the net with {tuple(logits.shape)}; "
            "give a teacher of the same classes"
        )


def distillation_loss(logits: Tensor, soft_labels: Tensor, temperature: float, shares: Tensor | None = None) -> Tensor:
    """Kullback-Leibler divergence of the softened labels, mean over samples, scaled by temperature² as in the paper.

    logits, soft_labels: (N, classes, ...). No gradient flows to `soft_labels`. shares: (N, ...), of each position in
    the mean; equal ones by default.
    """
    wanted = F.log_softmax(soft_labels.detach() / temperature, dim=1)
    got = F.log_softmax(logits / temperature, dim=1)
    pointwise = F.kl_div(got, wanted, reduction="none", log_target=True)
    each = pointwise.sum(dim=1)
    return (each.mean() if shares is None else (each * shares).sum()) * temperature**2
