"""Imagined costs: those of a device for any net, in which each layer has a fixed time and one for each kept weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nested_sparse.device_costs import DeviceCosts, LayerCosts
from nested_sparse.time_curve import TimeCurve
from nested_sparse.trainer import NestedModel

OTHER_MS = 0.25
FIXED_MS = 0.5


def imagined_costs(
    net: NestedModel,
    ms_per_weight: Mapping[str, float] | float = 0.001,
    *,
    patterns: Sequence[str] = ("unstructured", "block4x1", "gs8x2"),
) -> DeviceCosts:
    """Costs of every layer, with one time per kept weight for all patterns."""

    def line(name: str, weights: int) -> TimeCurve:
        slope = ms_per_weight if isinstance(ms_per_weight, float) else ms_per_weight[name]
        return TimeCurve(((0, FIXED_MS), (weights, FIXED_MS + slope * weights)))

    layers = {
        name: LayerCosts(
            layer.op,
            len(layer.values),
            layer.values[0].numel(),
            positions=1,
            patterns={pattern: line(name, layer.values.numel()) for pattern in patterns},
        )
        for name, layer in net.nested_layers().items()
    }
    return DeviceCosts("imagined", "none", "", 1, "float32", OTHER_MS, layers)
