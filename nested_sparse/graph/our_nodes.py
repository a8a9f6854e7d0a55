"""OurNodes: whether the nodes of our operators have the attributes that the file's metadata asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..checkpoint import Checkpoint
from ..excerpt import excerpt
from ..metadata import LayerEntry
from ..placement import placement
from ..wire import WireError
from .contract import CONV_KIND, LAYER, OPERATOR_OF, OPERATORS


class OurNodes:
    """The layers of an open checkpoint, and where its segments hold their arrays."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        segments = checkpoint.segment_places()
        self._layers = {layer.name: layer for layer in checkpoint.layers}
        self._placements = {layer.name: asdict(placement(layer.shape, segments)) for layer in checkpoint.layers}

    def check(self, operator: str, attributes: Mapping[str, tuple[str, Any]]) -> None:
        """Raises WireError where a node of `operator` has other attributes than its layer.

        attributes: (kind, value) by name; kinds as in contract.Attribute.
        """
        known = OPERATORS[operator]
        for name, (kind, _) in attributes.items():
            if name not in known or known[name].kind != kind:
                raise WireError(f"has an attribute {excerpt(name)!r} of {operator} that it does not take")
        if operator not in OPERATOR_OF.values():
            return
        given = {name: value for name, (_, value) in attributes.items()}
        name = given.get(LAYER, b"").decode(errors="replace")
        layer = self._layers.get(name)
        if layer is None or operator != OPERATOR_OF[layer.op]:
            raise WireError(f"has a {operator} of a layer {excerpt(name)!r}, which the metadata does not have")
        for key, expected in {**self._placements[name], **_of_metadata(layer)}.items():
            if isinstance(expected, list):
                got = (given.get(key) or [])[: len(expected)]  # a slice has fewer levels than its graph
            else:
                got = given.get(key, known[key].default or 0)
            if got != expected:
                raise WireError(
                    f"says {key} {excerpt(got, 60)} of layer {excerpt(name)!r}, the metadata {excerpt(expected, 60)}"
                )


def _of_metadata(layer: LayerEntry) -> dict[str, Any]:
    """The attributes of a convolution that the metadata has, as its node has them."""
    return {
        name: (list(values) or [0])[0] if name in CONV_KIND else list(values)
        for name, values in layer.attributes.items()
    }
