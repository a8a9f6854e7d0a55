"""OurNodes: whether the nodes of our operators have the attributes that the file's metadata asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..checkpoint import Checkpoint
from ..excerpt import excerpt
from ..placement import placement
from ..wire import WireError
from .byte_ranges import check_ranges
from .contract import ATTENTION, FUNCTION, FUNCTIONS, LAYER, LAYER_KINDS, LAYER_OPERATORS, OPERATORS
from .heads import check_heads
from .input_norm import check_input_norm


class OurNodes:
    """The layers of an open checkpoint, and where its segments hold their arrays.

    level_count: levels of the graph; the file has fewer if it is a slice.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        segments = checkpoint.segment_places()
        self.level_count = len(segments)
        self._layers = {layer.name: layer for layer in checkpoint.layers}
        self._placements = {layer.name: asdict(placement(layer.shape, segments)) for layer in checkpoint.layers}

    def check(self, operator: str, attributes: Mapping[str, tuple[str, Any]]) -> None:
        """Raises WireError where a node of `operator` has other attributes than its layer.

        attributes: (kind, value) by name; kinds as in contract.Attribute.
        """
        known = OPERATORS[operator]
        for name, (held_as, _) in attributes.items():
            if name not in known or known[name].kind != held_as:
                raise WireError(f"has an attribute {excerpt(name)!r} of {operator} that it does not take")
        needed = (name for name, each in known.items() if each.default is None and not each.optional)
        missing = next((name for name in needed if name not in attributes), None)
        if missing is not None:
            raise WireError(f"has a {operator} without its attribute {missing!r}")
        given = {name: value for name, (_, value) in attributes.items()}
        check_ranges(given, self.level_count)
        if operator == ATTENTION:
            check_heads(given)
        if not 0 <= given.get(FUNCTION, 0) < len(FUNCTIONS):
            raise WireError(f"says {FUNCTION} {given[FUNCTION]}, expected 0 to {len(FUNCTIONS) - 1}")
        kind = LAYER_OPERATORS.get(operator)
        if kind is None:
            return
        name = given.get(LAYER, b"").decode(errors="replace")
        layer = self._layers.get(name)
        if layer is None or LAYER_KINDS[layer.op].operator_for(layer.value_type) != operator:
            raise WireError(f"has a {operator} of a layer {excerpt(name)!r}, which the metadata does not have")
        check_input_norm(given, layer.columns)
        for key, expected in {**self._placements[name], **kind.in_node(layer.attributes)}.items():
            if isinstance(expected, list):
                held = given.get(key)
                got = held[: len(expected)] if isinstance(held, list) else []  # a slice has fewer levels than its graph
            else:
                got = given.get(key, known[key].default or 0)
            if got != expected:
                raise WireError(
                    f"says {key} {excerpt(got, 60)} of layer {excerpt(name)!r}, the metadata {excerpt(expected, 60)}"
                )
