"""Batch: inputs and targets, in any container that the model takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

import torch
from torch import Tensor, nn

from nested_sparse.argument import shown
from nested_sparse.errors import TrainingError

from .model.structure import with_tensors


def run(model: nn.Module, inputs: Any) -> Any:
    """Call `model` on `inputs` and return its answer.

    A tuple or list holds positional arguments, a mapping holds keyword arguments; any other value is the only argument.
    The model gets copies of the tensors, because a forward may write into its inputs and the caller uses them again.
    """
    inputs = with_tensors(inputs, Tensor.clone)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)


def moved(value: Any, device: torch.device) -> Any:
    """`value` with every tensor in it on `device`."""
    return with_tensors(value, lambda tensor: tensor.to(device))


def pairs(batches: Any, name: str = "batches") -> Iterator[tuple[Any, Any]]:
    """Yield the (inputs, targets) of each batch.

    name: the argument's name, for messages. Raises TrainingError when `batches` or one of them is of another kind.
    """
    if not isinstance(batches, Iterable) and not hasattr(batches, "__getitem__"):
        raise TrainingError(f"{name}: expected batches, each (inputs, targets), got {shown(batches)}")
    for batch in batches:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            listed = f"a {type(batch).__name__} of {len(batch)} items" if isinstance(batch, tuple | list) else ""
            raise TrainingError(
                f"{name}: expected each batch to be (inputs, targets), got {listed or f'a {type(batch).__name__}'}; "
                "several inputs, or several targets, go into a tuple, a list or a dict of their own"
            )
        yield batch[0], batch[1]


def batch_count(batches: object) -> int:
    """Number of batches in an epoch; 0 when it is unknown, as for a generator or a loader without a length."""
    try:
        return len(batches) if isinstance(batches, Sized) else 0
    except (TypeError, NotImplementedError):
        return 0


def sample_count(inputs: Any) -> int:
    """Size of dimension 0 of the first tensor in `inputs`. Raises TrainingError when `inputs` has no tensor."""
    if isinstance(inputs, Tensor) and inputs.ndim:
        return len(inputs)
    if isinstance(inputs, Mapping | tuple | list) and len(inputs):
        return sample_count(next(iter(inputs.values() if isinstance(inputs, Mapping) else inputs)))
    raise TrainingError(f"a batch must be (inputs, targets) with tensors in inputs, got {type(inputs).__name__}")


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter."""
    return next(model.parameters()).device
