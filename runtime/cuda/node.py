"""Node: one node of a graph as the functions that compute it in torch see it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nested_sparse.excerpt import excerpt

Values = Sequence[Tensor | None]
"""Inputs of a node in their order; None for one that is absent."""
Function = Callable[[Values], Tensor | Sequence[Tensor]]
"""Computes the outputs of a node."""


@dataclass(frozen=True, slots=True)
class Node:
    """An operator with its attributes, as `onnx.helper.get_attribute_value` gives them.

    name: its own. outputs: their number. dtype: type that stands for float32.
    """

    name: str
    operator: str
    attributes: Mapping[str, Any]
    outputs: int
    dtype: torch.dtype

    def get(self, key: str, default: Any = None) -> Any:
        """An attribute; `default` where the node has none."""
        return self.attributes.get(key, default)

    def refuse(self, is_wrong: Tensor, why: str) -> None:
        """Let this thread's run end with an InputError where `is_wrong`, () bool on any device, is true.

        It is looked at when the run has ended, so that the device's queue need not be waited for.
        """
        REFUSALS.of_run.append((is_wrong, f"node '{excerpt(self.name)}': {why}"))


class Refusals(threading.local):
    """The reasons for which the run of this thread may have to be refused."""

    of_run: list[tuple[Tensor, str]]


REFUSALS = Refusals()


def given(values: Values, place: int) -> Tensor | None:
    """Input `place`; None where the node has no such input."""
    return values[place] if place < len(values) else None


def some(value: Tensor | None) -> Tensor:
    """An input that the operator always has. Raises ValueError."""
    if value is None:
        raise ValueError("an input is absent that the operator needs")
    return value


def whole_numbers(value: Tensor | None) -> list[int]:
    """The values of an input that says a size, an axis or a place. On the device it has to be waited for."""
    return [int(each) for each in some(value).reshape(-1).tolist()]


def together(values: Values) -> list[Tensor | None]:
    """The inputs, those in the CPU's memory copied to the device where another one lies there.

    Sizes and places stay in the CPU's memory, so that they need not be waited for.
    """
    device = next((each.device for each in values if each is not None and each.device.type != "cpu"), None)
    return list(values) if device is None else [None if each is None else each.to(device) for each in values]
