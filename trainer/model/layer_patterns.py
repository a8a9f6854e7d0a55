"""Layer patterns: for each layer the pattern that its costs on a device favour, where a net may mix them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nested_sparse.device_costs import DeviceCosts
from nested_sparse.layouts import Blocks, Layout, parse_pattern
from nested_sparse.mask import block_scores, grouped

from .layers import NestedLayer, unique_weights

AUTO = "auto"
"""Name, in place of a pattern's, for a choice layer by layer."""
_SHARES = np.concatenate([np.geomspace(1e-3, 0.1, 33)[:-1], np.linspace(0.1, 1.0, 91)])
"""Shares of a layer's blocks at which patterns are compared."""
_STEPS = 60
"""Halvings of the price of a millisecond, which brings it to the last bit that matters."""


@dataclass(frozen=True, slots=True)
class _Offer:
    """One pattern of one layer. energy: share of the sum of squared weights that is kept; ms: the time; at _SHARES."""

    layout: Layout
    energy: NDArray[np.float64]
    ms: NDArray[np.float64]

    def gain(self, price: float) -> tuple[float, float]:
        """The largest energy less the price of its milliseconds, and these milliseconds."""
        gains = self.energy - price * self.ms
        at = int(np.argmax(gains))
        return float(gains[at]), float(self.ms[at])


def choose_patterns(layers: Iterable[NestedLayer], costs: DeviceCosts, times_ms: Sequence[float]) -> None:
    """Give each sparse layer the measured pattern of blocks that keeps the most of the weights' energy in the times.

    times_ms: the time of each level that the sparse layers have together. A price of a millisecond, in energy, is found
    for each level: at that price the layers, each with its best pattern and share, take the level's time. A layer gets
    the pattern with the largest sum, over the levels, of energy less the price of its time. Energies are those of the
    weights of now. Layers that share a weight get one pattern. Masks are reset: every level keeps everything.
    """
    sparse = [layer for layer in layers if not layer.dense]
    offers = {id(layer.values): _offers(layer, sparse, costs) for layer in unique_weights(sparse)}
    value = {key: np.zeros(len(each)) for key, each in offers.items()}
    for ms in times_ms:
        price = _price([*offers.values()], ms)
        for key, each in offers.items():
            value[key] += [offer.gain(price)[0] for offer in each]
    for layer in sparse:
        key = id(layer.values)
        if offers[key]:
            layer.set_layout(offers[key][int(np.argmax(value[key]))].layout)


def _offers(layer: NestedLayer, layers: Sequence[NestedLayer], costs: DeviceCosts) -> list[_Offer]:
    """The measured patterns of blocks; none for a layer without costs, which the budget then names."""
    alike = [costs.layers[each.name] for each in layers if each.values is layer.values and each.name in costs.layers]
    flat = layer.values.detach().flatten(1).float().cpu().numpy()
    names = [name for name in (alike[0].patterns if alike else ()) if all(name in each.patterns for each in alike)]
    offers = []
    for name in names:
        layout = parse_pattern(name)
        if not isinstance(layout, Blocks) or layout.fitted(len(flat), layer.row_parts, layer.row_step) != layout:
            continue
        energies = np.square(grouped(flat, layout.block_rows), dtype=np.float64).sum(axis=1).reshape(-1)
        order = np.argsort(-block_scores(flat, layout.block_rows), axis=None, kind="stable")
        kept = np.concatenate([[0.0], np.cumsum(energies[order])]) / max(energies.sum(), np.finfo(np.float64).tiny)
        blocks = np.maximum(1, np.round(_SHARES * order.size)).astype(np.int64)
        ms = sum(each.patterns[name].ms(blocks * (flat.size / order.size)) for each in alike)
        offers.append(_Offer(layout, kept[blocks], np.asarray(ms)))
    return offers


def _price(offers: Sequence[Sequence[_Offer]], ms: float) -> float:
    """Energy for a millisecond at which all layers together take `ms`, or just less."""

    def spent_ms(price: float) -> float:
        best = [max((offer.gain(price) for offer in of_layer), default=(0.0, 0.0)) for of_layer in offers]
        return sum(ms for _, ms in best)

    low, high = 1e-9, 1e12
    for _ in range(_STEPS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if spent_ms(middle) > ms else (low, middle)
    return high
