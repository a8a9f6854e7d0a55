"""Samples: inputs and targets of any kind, with the samples in dimension 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

Inputs = Tensor | tuple[Tensor, ...]
"""The tensor of a model's only input, or one for each of its inputs; (n, ...) each."""


class Labelled(Protocol):
    """Samples and their targets: `Samples`, `LabelledImages`, `LabelledSpectra`."""

    @property
    def inputs(self) -> Inputs:
        """The inputs."""
        ...

    @property
    def labels(self) -> Tensor:
        """int64 (n, ...)."""
        ...

    def __len__(self) -> int:
        """Number of samples, n."""
        ...


@dataclass(frozen=True, slots=True)
class Samples:
    """Inputs and targets. labels: int64 (n, ...)."""

    inputs: Inputs
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def picked(data: Labelled, indices: Any) -> Samples:
    """The samples at `indices`, a tensor or a slice."""
    return Samples(taken(data.inputs, indices), data.labels[indices])


def taken(inputs: Inputs, indices: Any) -> Inputs:
    """The inputs of the samples at `indices`, a tensor or a slice."""
    return tuple(each[indices] for each in inputs) if isinstance(inputs, tuple) else inputs[indices]
