"""Int8: the switch by which a nested model computes as its int8 file will, with ranges that training observes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from nested_sparse.errors import TrainingError

from ..layer_names import chosen_layers
from .nested_model import NestedModel


def round_to_int8(net: NestedModel, keep_float: Sequence[str] = ()) -> None:
    """Round the inputs and weights of the layers of `net` as an int8 file does, from now on.

    Ranges that were observed before are kept. keep_float: dotted names of layers that stay float32, or fnmatch patterns
    of them. Raises TrainingError: a pattern that matches no layer.
    """
    layers = net.nested_layers()
    kept = chosen_layers("int8_keep_float", keep_float, layers, TrainingError)
    for name, layer in layers.items():
        if name in kept or not layer.has_int8:
            layer.int8_ranges = None
        elif layer.int8_ranges is None:
            layer.int8_ranges = torch.full((net.level_count, 2), torch.nan, device=layer.values.device)


@contextmanager
def not_rounded(net: NestedModel) -> Iterator[None]:
    """A context in which `net` computes in float32; afterwards it rounds again where it did. The ranges stay."""
    layers = net.nested_layers().values()
    before = {layer: layer.rounds for layer in layers}
    for layer in layers:
        layer.rounds = False
    try:
        yield
    finally:
        for layer, rounds in before.items():
            layer.rounds = rounds


def clear_int8(net: NestedModel) -> None:
    """Compute in float32 again, and forget the observed ranges."""
    for layer in net.nested_layers().values():
        layer.int8_ranges = None
