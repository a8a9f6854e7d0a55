"""OutputOptions: the table [output] of a recipe, the file that a run writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nested_sparse.graph.contract import ACTIVATION_FORMS
from nested_sparse.value_type import FLOAT32, INT8

from ..export.int8.byte_range import METHODS


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """Keys of [output]."""

    file: str = ""
    """Name of the checkpoint file; by default the recipe's name with .safetensors."""
    fixed_batch: bool = False
    """Whether the file takes one sample at a time, as in `export`; for a model of one large sample, such as a graph."""
    stepwise: bool = False
    """Whether the file takes a text piece by piece, with a state, so that a server can continue texts; of models that
    have a method stepwise(), such as gpt. Their metrics are those of whole texts, which pieces give, too."""
    tolerance: float = 1e-4
    """Largest accepted difference between the file and the net, as in `export`. A net that magnifies rounding needs
    more, such as one that chooses nearest points."""
    values: str = FLOAT32.name
    """Type of the stored weights, as in `export`. An int8 file is calibrated with training data of epoch 0."""
    int8_beside: bool = False
    """Whether the run writes the same levels in int8, too, in a file of that name with -int8 behind it. Where that
    cannot be made, a warning says why, and the run ends well all the same."""
    calibration_samples: int = 512
    """As in `export`, as are the next three; for int8 only."""
    calibration_method: str = next(iter(METHODS))
    activations: str = ""
    """"" leaves the choice to `export`."""
    keep_float: tuple[str, ...] = ()
    metrics: tuple[str, ...] | None = None
    """Metrics that are measured at each level and stored: None for all that the task has, () for none."""
    route_samples: int = 0
    """Training samples of epoch 0 on which the written file's lowered inferences are scored, from every level to every
    lower one at every layer. The file then names the layers at which a run may be lowered. 0 is off: everywhere."""
    max_drop: float = 0.01
    """Largest drop of accuracy, a share, of a lowered inference against its lower level, as in `route_scores`. It takes
    4000 samples or more to show that a layer loses less than 0.01."""


def output_problems(output: OutputOptions) -> Iterator[tuple[str, Any, str]]:
    """Key, value and what is expected, for each key that is wrong."""
    defaults = OutputOptions()
    for key in ("calibration_samples", "calibration_method", "activations", "keep_float"):
        value = getattr(output, key)
        if output.values != INT8.name and not output.int8_beside and value != getattr(defaults, key):
            yield key, value, f'int8_beside = true or values = "{INT8.name}" beside it'
    if output.int8_beside and output.values == INT8.name:
        yield "int8_beside", True, f'false, or other values than "{INT8.name}"'
    for key, wrong, expected in (
        ("values", output.values == INT8.name, "float32 or float16"),
        ("int8_beside", output.int8_beside, "false"),
        ("fixed_batch", output.fixed_batch, "false"),
        ("route_samples", output.route_samples > 0, "0"),
    ):
        if output.stepwise and wrong:
            yield key, getattr(output, key), f"{expected}, or stepwise = false beside it"
    if output.calibration_samples < 1:
        yield "calibration_samples", output.calibration_samples, "a whole number of at least 1"
    if output.calibration_method not in METHODS:
        yield "calibration_method", output.calibration_method, f"one of: {', '.join(METHODS)}"
    if output.route_samples < 0:
        yield "route_samples", output.route_samples, "a whole number of at least 0"
    if not 0 <= output.max_drop < 1:
        yield "max_drop", output.max_drop, "a share below 1; one point of accuracy is 0.01"
    if not 0 <= output.tolerance <= 1:
        yield "tolerance", output.tolerance, "a share of the output's largest value, such as 0.0001"
    if output.activations not in ("", *ACTIVATION_FORMS):
        yield "activations", output.activations, f"one of: {', '.join(ACTIVATION_FORMS)}"
