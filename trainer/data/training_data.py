"""TrainingData: the data that a run trains on and is scored on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The data that a run trains on and is scored on. A function named by `[data] name` in a recipe returns it."""

    batches: Callable[[int], Iterable[tuple[Any, Any]]]
    """Function from an epoch's number to its (inputs, targets); see `train`."""
    scored: Callable[[], Iterable[tuple[Any, Any]]]
    """Function that gives the batches to score on, in order. Inputs are not augmented; targets are as the task says."""
    example: tuple[Tensor, ...]
    """A batch of one sample for each input of the model."""
    facts: dict[str, Any]
    """Facts for the report: numbers of samples, the scored split. `classes`, `channels` and `features`, if present, are
    passed to a model that takes them, unless the recipe sets them."""


class Loading(Protocol):
    """Settings of data that can be loaded."""

    def load(self, seed: int) -> TrainingData:
        """Read the data. seed: seed of the batches' order and augmentation. Raises TrainingError."""
        ...
