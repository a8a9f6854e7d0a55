"""Task: the purpose of a net. It has the loss, the metric of a level, and the logits of soft labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from nested_sparse.errors import TrainingError
from nested_sparse.level import DISAGREEMENT

IGNORED = -100
"""Target of an item that is neither trained nor scored, as in torch's cross-entropy."""


class Judged(NamedTuple):
    """The items of one batch, judged. An item is what is answered once: a sample, a list, a byte.

    scores: (items,) bool or float, the metric of each, or what else the task's tally takes. choices: (items,) int64,
    the answer that is chosen; a level disagrees where it is not the densest level's.
    """

    scores: Any
    choices: Tensor


class Tally(Protocol):
    """The metric of a level, from the scores of its batches."""

    def add(self, scores: Any) -> None:
        """Take the scores of a further batch."""
        ...

    def result(self) -> float:
        """The metric of all batches, of which at least one had an item."""
        ...


class Mean:
    """The mean of all scores, (items,) bool or float in each batch."""

    def __init__(self) -> None:
        self._total, self._count = 0.0, 0

    def add(self, scores: Tensor) -> None:
        """Take the scores of a further batch."""
        self._total += scores.sum().item()
        self._count += len(scores)

    def result(self) -> float:
        """The mean."""
        return self._total / self._count


class Task(ABC):
    """The purpose of a net. A subclass is a frozen dataclass, whose fields are keys of a recipe's [task]."""

    quality: str
    """Name of the metric by which levels are compared."""
    higher_is_better: bool = True
    counted: str = f"a target other than {IGNORED}"
    """The property by which an item counts, for messages."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics of a level."""
        return (self.quality, DISAGREEMENT)

    @abstractmethod
    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The loss of a batch, a tensor of one number."""

    @abstractmethod
    def judged(self, outputs: Any, targets: Any, doing: str) -> Judged:
        """The items of a batch. doing: name of the calling function, for messages. Raises TrainingError."""

    def tally(self) -> Tally:
        """A tally of no batch yet; here the mean of the scores. Raises TrainingError where a library is missing."""
        return Mean()

    def check(self, outputs: Any, targets: Any) -> None:  # noqa: B027 -- a task of one's own may leave it to its loss
        """Check kinds, shapes and values of a batch that is trained. Raises TrainingError.

        It reads every target, so `train` calls it with its first batch only.
        """

    def logits(self, outputs: Any) -> Tensor:
        """The logits that soft labels are made of, (N, classes, ...). Raises TrainingError where there are none."""
        return check_logits(outputs)

    def soft_shares(self, soft_labels: Tensor) -> Tensor | None:
        """(N, ...) the share of each position of the soft labels (N, classes, ...) in their loss; None: equal ones."""
        return None


def check_logits(outputs: Any, shape: str = "(N, classes, ...)", dimensions: int = 2) -> Tensor:
    """Return `outputs`. Raises TrainingError unless they are logits, a float tensor of `dimensions` or more.

    shape: the expected shape, for messages.
    """
    if not isinstance(outputs, Tensor) or outputs.ndim < dimensions or not outputs.is_floating_point():
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise TrainingError(
            f"soft labels need a model that answers with its logits alone {shape}, got {got}; set "
            "distill_weight=0 (and the nesting's soft_weight, if it is given), or nest a module whose forward returns "
            "the logits"
        )
    return outputs


def kind(value: object) -> str:
    """A few words about `value`, for messages."""
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
