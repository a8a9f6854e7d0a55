"""Trial inputs: random inputs of several sizes, at which an exported file is compared with torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from nested_sparse.errors import ExportError
from nested_sparse.excerpt import excerpt
from nested_sparse.tensor_spec import TensorSpec, batch_is_free, free_sizes, most_batch, whole_sizes

from ..model.forward_call import ForwardCall
from ..model.preserved import Preserved

SEED = 0
LARGE = 4.0
"""Values of a large trial, as a multiple of the examples'."""
LARGEST = 16.0
"""The same, up to which the largest allowed sizes are tried."""
Shapes = Sequence[tuple[int, ...]]
Tensors = tuple[Tensor, ...]


def trial_inputs(
    model: nn.Module, call: ForwardCall, inputs: Sequence[TensorSpec], batch: int | None, state: Preserved
) -> Iterator[Tensors]:
    """Random inputs like those of `call`: of several free sizes, or else of `batch` samples (None: as many as there).

    inputs: of the file. state: of the model, to which it is put back. Raises ExportError.
    """
    if not any(spec.free for spec in inputs):
        shapes = [tuple(each.shape) if batch is None else (batch, *each.shape[1:]) for each in call.tensors]
        yield random_like(call.tensors, shapes)
        return
    for sized in trial_shapes(inputs):
        yield possible_inputs(model, call, sized, state)


def trial_shapes(inputs: Sequence[TensorSpec]) -> list[Shapes]:
    """Shapes of inputs with small, odd and large free sizes."""
    free = free_sizes(inputs)
    examples = whole_sizes(inputs, {})
    batch = next((spec.example_shape[axis] for spec in inputs if (axis := spec.batch_axis) is not None), 0)
    small = {each.name: each.nearest(0) for each in free}
    odd = {each.name: each.nearest(1.5 * examples[each.name] + 1 + 2 * place) for place, each in enumerate(free)}
    share = LARGE ** (1 / max(1, len(free)))
    large = {each.name: each.nearest(share * examples[each.name]) for each in free}
    most = {each.name: each.most for each in free if each.most is not None}
    if _values(inputs, examples | most) <= LARGEST * _values(inputs, examples):
        large |= most
    found = [_shapes(inputs, sizes, count) for sizes, count in ((small, 1), (odd, batch + 2), (large, batch))]
    return [each for place, each in enumerate(found) if each not in found[:place]]


def _values(inputs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> int:
    return sum(math.prod(shape) for shape in _shapes(inputs, sizes, 1))


def _shapes(inputs: Sequence[TensorSpec], sizes: Mapping[str, int], batch: int | None) -> list[tuple[int, ...]]:
    """The shapes with `batch` samples, or as many as there may be; None: as in the examples."""
    most = most_batch(inputs)
    count = batch if most is None or batch is None else min(batch, most)
    whole = whole_sizes(inputs, sizes)
    return [spec.sized(count if batch_is_free(inputs) else None, whole) for spec in inputs]


def possible_inputs(model: nn.Module, call: ForwardCall, shapes: Shapes, state: Preserved) -> Tensors:
    """Random inputs like those of `call`, of these shapes, that `model` takes.

    Where it does not take them, whole numbers are made smaller, as they may count what there is less of now: tokens,
    nodes. state: of the model, to which it is put back. Raises ExportError.
    """
    tensors = random_like(call.tensors, shapes)
    if [tuple(each.shape) for each in call.tensors] == list(shapes):
        return tensors
    try:
        try:
            call.answer(model, tensors)
        except Exception:  # of any kind: a model may check its inputs, or not
            least = min(size for shape in shapes for size in shape)
            tensors = tuple(each if _fixed_values(each) else (each % least).to(each) for each in tensors)
            call.answer(model, tensors)
    except Exception as error:
        raise ExportError(
            f"the model fails on inputs of {', '.join(str(list(each)) for each in shapes)}: {excerpt(error, 300)}; "
            + getattr(
                model,
                "size_advice",
                "give the sizes that it takes, e.g. torch.export.Dim('length', min=2, max=512)",
            )
        ) from error
    finally:
        state.restore()
    return tensors


def _fixed_values(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.dtype == torch.bool


def refused_ones(
    inputs: Sequence[TensorSpec], unsure: frozenset[str], model: nn.Module, call: ForwardCall, state: Preserved
) -> frozenset[str]:
    """Those of the sizes `unsure` at whose value 1 `model` fails."""
    refused = set()
    for name in sorted(unsure):
        try:
            possible_inputs(model, call, _shapes(inputs, {name: 1}, None), state)
        except ExportError:
            refused.add(name)
    return frozenset(refused)


def random_like(examples: Tensors, shapes: Shapes) -> Tensors:
    """Random tensors of the examples' dtypes and ranges of values, of these shapes.

    Values are drawn from the example itself, so that indices stay indices; a floating point example that is constant,
    or not finite, gives normal noise.
    """
    from nested_sparse.runtime.session import drawn_from, value_pool

    generator = np.random.default_rng(SEED)
    drawn = []
    for example, shape in zip(examples, shapes, strict=True):
        values = drawn_from(value_pool(example.detach().cpu().numpy()), shape, generator)
        drawn.append(torch.from_numpy(values).to(example))
    return tuple(drawn)
