"""verify_export: the comparison of a written checkpoint with the torch model that it came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import ExportError
from nested_sparse.graph.nodes import graph_nodes
from nested_sparse.value_type import ValueType

from ..model.forward_call import ForwardCall
from ..model.nested_model import NestedModel
from ..model.preserved import preserved, preserved_generators
from .choices import chosen_outputs
from .diagnosis import Answers, diagnosis
from .trial_inputs import trial_inputs

Tensors = tuple[Tensor, ...]
OURS = "the file holds the model's weights, so an operator or the graph is at fault: please report the model"


@dataclass(frozen=True, slots=True)
class Alike:
    """Agreement of two sums of the same float32 products in different orders.

    tolerance: largest accepted difference, as a share of the largest magnitude. NaN and infinity must be at the same
    places; other dtypes must be equal.
    """

    tolerance: float

    def trials(self, examples: Tensors, drawn: Iterable[Tensors]) -> Iterator[tuple[Tensors, Agreement]]:
        """The examples, and `drawn`: random inputs like them, of other sizes."""
        yield examples, self
        yield from ((inputs, self) for inputs in drawn)

    def problem(self, expected: NDArray[Any], got: NDArray[Any]) -> str:
        """The difference, in words; "" where they agree."""
        return disagreement(expected, got, self.tolerance)


@dataclass(frozen=True, slots=True)
class Rounded:
    """Agreement of an int8 file with the float32 model: errors are those of rounding, and no operator is wrong.

    samples: arrays of some real inputs, in the order of the inputs; none: the examples and random inputs are compared.
    share: largest accepted root mean square of the errors, as a share of that of the expected values.
    chosen_share: the same of an output that depends on a choice among rounded scores.
    Calibrated networks have a few hundredths; an output of other values has 1.4. Where a choice falls on others, a part
    of its rows are other values, and all others are as near as in any output: 1.0 is half of the rows.
    """

    samples: Sequence[NDArray[Any]] = ()
    share: float = 0.5
    chosen_share: float = 1.0

    def trials(self, examples: Tensors, drawn: Iterable[Tensors]) -> Iterator[tuple[Tensors, Agreement]]:
        """The samples. An example may have any values, often zeros, so only the shape of its answer is compared."""
        if not self.samples:
            yield from ((inputs, self) for inputs, _ in Alike(0.0).trials(examples, drawn))
            return
        yield examples, Shapes()
        yield from ((inputs, Shapes()) for inputs in drawn)
        yield tuple(torch.from_numpy(a).to(example) for a, example in zip(self.samples, examples, strict=True)), self

    def problem(self, expected: NDArray[Any], got: NDArray[Any]) -> str:
        """The difference, in words; "" where they agree. Whole numbers, such as class labels, may differ."""
        if problem := Shapes().problem(expected, got):
            return problem
        if not np.issubdtype(expected.dtype, np.floating) or not expected.size:
            return ""
        error = self.relative_error(expected, got)
        if error <= self.share:
            return ""
        return f"the errors have a root mean square of {error:.3g} of the output's, expected at most {self.share:g}"

    @staticmethod
    def relative_error(expected: NDArray[Any], got: NDArray[Any]) -> float:
        """Root mean square of the errors over that of the expected values; infinite where numbers are not finite."""
        power = float(np.square(expected, dtype=np.float64).mean())
        error = float(np.square(expected.astype(np.float64) - got).mean())
        if not np.isfinite(error):
            return np.inf
        return float(np.sqrt(error / power)) if power else float(error > 0) * np.inf


@dataclass(frozen=True, slots=True)
class Shapes:
    """Agreement in shape and dtype."""

    def problem(self, expected: NDArray[Any], got: NDArray[Any]) -> str:
        """The difference, in words; "" where they agree."""
        return disagreement(expected, got, 0.0) if (expected.shape, expected.dtype) != (got.shape, got.dtype) else ""


Agreement = Alike | Rounded | Shapes


def verify_export(
    net: NestedModel,
    examples: tuple[Any, ...],
    path: Path,
    *,
    fixed_batch: bool,
    agreement: Alike | Rounded,
) -> None:
    """Run `path` and `net` (in eval mode) at every level and compare, on the inputs that `agreement` names.

    Random inputs have another batch size unless `fixed_batch`, and other free sizes. agreement: of each pair of
    outputs. Model, level and examples are left as they were. Raises ExportError.
    """
    # the trainer uses the runtime here, because the exported file is compared on the runtime that will run it
    from nested_sparse.runtime import Session

    call = ForwardCall(net.model, examples)
    batch = None if fixed_batch else int(call.tensors[0].shape[0]) + 2
    level_before = net.level
    chosen = _chosen(path) if isinstance(agreement, Rounded) else set()
    with Session(path, threads=1) as session, preserved_generators(), preserved(net.model) as state, torch.no_grad():
        names = [spec.name for spec in session.inputs]
        drawn = trial_inputs(net.model, call, session.inputs, batch, state)
        try:
            for tensors, wanted in agreement.trials(call.tensors, drawn):
                feeds = {name: tensor.cpu().numpy() for name, tensor in zip(names, tensors, strict=True)}
                for level in range(net.level_count):
                    net.set_level(level)
                    expected = [_array(output) for _, output in call.answer(net.model, tensors)]
                    state.restore()
                    got = session.run(feeds, level=level)
                    answers = Answers(level, tensors, dict(zip(got, expected, strict=True)), got)
                    _compare(net, call, path, answers, wanted, chosen)
        finally:
            net.set_level(level_before)


@contextmanager
def stored_weights(net: NestedModel, stored: ValueType) -> Iterator[None]:
    """Context in which the nested weights of `net` are those that a file with values of type `stored` holds.

    A comparison with the file then needs no tolerance for the rounding, which the caller asked for and which depends on
    the model: both sides sum the same float32 products. An int8 file rounds its inputs too, so it is compared with the
    weights as they are.
    """
    if stored.scaled:
        yield
        return
    weights = {id(layer.values): layer.values for layer in net.nested_layers().values()}
    originals = {key: weight.data for key, weight in weights.items()}
    try:
        for weight in weights.values():
            held = torch.from_numpy(stored.rounded(weight.detach().cpu().numpy()))
            weight.data = held.to(weight.device)
        yield
    finally:
        for key, weight in weights.items():
            weight.data = originals[key]


def _array(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.detach().cpu().numpy().copy()  # the model may go on writing into it
    return array


def _chosen(path: Path) -> set[str]:
    with Checkpoint.open(path) as checkpoint:
        return chosen_outputs(graph_nodes(checkpoint.graph()))


def _compare(
    net: NestedModel, call: ForwardCall, path: Path, answers: Answers, agreement: Agreement, chosen: set[str]
) -> None:
    """Raise ExportError for an output of the file that disagrees with torch's; the message says why where it can.

    chosen: outputs that may be others where values are rounded.
    """
    level = answers.level
    for name, reference in answers.expected.items():
        if np.issubdtype(reference.dtype, np.floating) and reference.size and not np.isfinite(reference).any():
            raise ExportError(
                f"{path.name}: torch's output {name!r} at level {level} has no finite value, so the file cannot be "
                "compared with it; give examples that the model answers with numbers, or verify=False"
            )
        wanted = agreement
        if isinstance(agreement, Rounded) and name in chosen:
            wanted = replace(agreement, share=agreement.chosen_share)
        problem = wanted.problem(reference, answers.got[name])
        if not problem:
            continue
        why = ""
        if isinstance(agreement, Rounded):
            why = _lossy_layers(path)
        elif isinstance(agreement, Alike):
            why = _other_weights(net, path) or diagnosis(net.model, call, answers, agreement.tolerance) or OURS
        sizes = ", ".join(str(list(tensor.shape)) for tensor in answers.inputs)
        said = f"{path.name}: output {name!r} at level {level} disagrees with torch on inputs of {sizes}: {problem}"
        raise ExportError(f"{said}; {why}" if why else said)


def _lossy_layers(path: Path) -> str:
    """Advice for an int8 file, with the layers whose rounding is predicted to cost most."""
    with Checkpoint.open(path) as checkpoint:
        ratios = {layer.name: min(layer.sqnr_db) for layer in checkpoint.layers if layer.sqnr_db}
    worst = sorted(ratios, key=lambda name: ratios[name])[:3]
    listed = ", ".join(f"{name!r} ({ratios[name]:.1f} dB)" for name in worst)
    return (
        "calibrate with inputs like those that will be served, or keep layers in float32 (keep_float); the predicted "
        f"signal-to-noise ratio is lowest in {listed}"
    )


def disagreement(expected: NDArray[Any], got: NDArray[Any], tolerance: float) -> str:
    """The difference of `got` from `expected`, in words; "" where they agree."""
    if expected.shape != got.shape or expected.dtype != got.dtype:
        return f"expected {expected.dtype} {expected.shape}, got {got.dtype} {got.shape}"
    if not np.issubdtype(expected.dtype, np.floating):
        wrong = int((expected != got).sum())
        return f"{wrong} of {expected.size} values differ" if wrong else ""
    finite = np.isfinite(expected)
    odd = int(
        (~np.where(finite, np.isfinite(got), np.equal(expected, got) | (np.isnan(expected) & np.isnan(got)))).sum()
    )
    if odd:
        return f"{odd} of {expected.size} values are NaN or infinite on one side only"
    magnitude = float(np.abs(expected[finite]).max(initial=0.0))
    error = float(np.abs(expected[finite].astype(np.float64) - got[finite]).max(initial=0.0))
    if error <= tolerance * magnitude:
        return ""
    return f"largest error {error:.3g}, tolerance {tolerance * magnitude:.3g} ({tolerance:g} of the largest magnitude)"


def _other_weights(net: NestedModel, path: Path) -> str:
    """A sentence on a layer that has other weights in the file than in the model; "" where there is none.

    It tells a damaged file from a wrong graph.
    """
    with Checkpoint.open(path) as checkpoint:
        for layer in checkpoint.layers:
            stored, _ = checkpoint.load_layer(layer.name)
            weight = net.nested_weight(layer.name)
            for level in range(net.level_count):
                if not np.array_equal(stored.at(level), weight.at(level)):
                    return f"layer {layer.name!r} is stored with other weights than the model has at level {level}"
    return ""
