"""Faster dense: the layers that a device runs faster with their dense weight, by its costs, and networks that do so."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from nested_sparse.argument import shown
from nested_sparse.device_costs import DeviceCosts
from nested_sparse.errors import BudgetError
from nested_sparse.network import MEASURED

from .predicted import costs_of_layer, predicted_latency, sparse_ms
from .replace import ROOT_NAME
from .stepped import Stepped

if TYPE_CHECKING:  # NestedModel itself imports this module
    from .layers import NestedLayer
    from .nested_model import NestedModel

RULES: Mapping[str, Callable[[Iterable[bool], float], bool]] = {
    "slower": lambda _, lost_ms: lost_ms > 0,
    "ever_slower": lambda slower, _: any(slower),
}
"""Rules by name, from whether a layer is slower than dense at each level and batch, and what a sample loses at all of
them together."""


def check_rule(rule: object, costs: DeviceCosts) -> None:
    """Raise BudgetError unless `rule` is the name of one, and `costs` say what dense layers take."""
    if not isinstance(rule, str) or rule not in RULES:
        raise BudgetError(f"dense_where: expected one of {', '.join(map(repr, RULES))} or None, got {shown(rule)}")
    if all(layer.dense_ms is None for layer in costs.layers.values()):
        raise BudgetError(
            f"dense_where={rule!r}: {costs.where}: no layer has dense_ms; measure again with `nested-sparse profile "
            "FILE --costs OUT.json` of this version, and with a file of float32 values"
        )


def faster_dense(net: NestedModel, costs: Sequence[DeviceCosts], rule: str) -> dict[str, str]:
    """The modules of `net` that `rule` makes dense by `costs`, of one batch or several: dotted path to the reason.

    Layers that share a weight are dense together, and so are all layers of an LSTM or GRU.
    Raises BudgetError: costs of another network, or all layers.
    """
    found: dict[str, str] = {}
    modules = _modules(net)
    for name, layers in modules.items():
        reason = _reason(layers, costs, rule, range(net.level_count))
        if reason is not None:
            found[name] = reason
    if len(found) == len(modules):
        times = ", ".join(f"{ms_text(each.dense_ms)}{_at(each)}" for each in costs if each.dense_ms is not None)
        plain = f"; the plain network takes {times} there" if times else ""
        raise BudgetError(
            f"dense_where={rule!r}: on {costs[0].device} every layer is faster dense, so levels save no time{plain}; "
            "serve the plain model with ONNX Runtime, or give lower densities"
        )
    return found


def _modules(net: NestedModel) -> dict[str, list[NestedLayer]]:
    """The nested layers by the module that they are in the plain model; an LSTM or GRU is several."""
    inside = {
        layer: name or ROOT_NAME
        for name, module in net.model.named_modules()
        if isinstance(module, Stepped)
        for layer in module.children()
    }
    found: dict[str, list[NestedLayer]] = defaultdict(list)
    for name, layer in net.nested_layers().items():
        found[inside.get(layer, name)].append(layer)
    return found


def _reason(layers: Sequence[NestedLayer], costs: Sequence[DeviceCosts], rule: str, levels: range) -> str | None:
    """Why the layers are to be dense, with their times at the batch where they are slowest beside dense; None: no."""
    measured = []
    for each in costs:
        of_layers = [costs_of_layer(layer, each).dense_ms for layer in layers]
        known = [ms for ms in of_layers if ms is not None]
        if len(known) == len(layers):
            times_ms = [sum(sparse_ms(layer, each, level) for layer in layers) for level in levels]
            measured.append((sum(known), times_ms, each))
    slower = [ms > dense_ms for dense_ms, times_ms, _ in measured for ms in times_ms]
    lost_ms = sum((sum(times_ms) - len(times_ms) * dense_ms) / each.batch for dense_ms, times_ms, each in measured)
    if not RULES[rule](slower, lost_ms):
        return None
    dense_ms, times_ms, slowest = max(measured, key=lambda each: max(each[1]) / max(each[0], 1e-9))
    whole = all(layer.dense for layer in layers)
    ours = ms_text(times_ms[0]) if whole else f"{ms_text(times_ms[0])} to {ms_text(times_ms[-1])} sparse"
    operators = "our operator" if len(layers) == 1 else "our operators"
    return f"{MEASURED}: {ms_text(dense_ms)} in ONNX Runtime, {ours} in {operators}{_at(slowest)}"


def _at(costs: DeviceCosts) -> str:
    return "" if costs.batch == 1 else f" at batch {costs.batch}"


def warn_of_slow_levels(log: logging.Logger, net: NestedModel, costs: DeviceCosts) -> None:
    """Log a warning with the levels that take longer than the plain network in ONNX Runtime, by `costs`."""
    if costs.dense_ms is None:
        return
    dense_ms = costs.dense_ms
    slow = [(level, ms) for level, ms in enumerate(predicted_latency(net, costs)) if ms > dense_ms]
    if slow:
        said = ", ".join(f"level {level}: {ms_text(ms)}" for level, ms in slow)
        log.warning(
            "on %s the plain network takes %s in ONNX Runtime%s, and longer than that: %s; %s",
            costs.device,
            ms_text(dense_ms),
            _at(costs),
            said,
            "serve the plain model" if len(slow) == net.level_count else "leave these levels out",
        )


def ms_text(ms: float) -> str:
    """A time in three digits, with its unit."""
    return f"{ms:.3g} ms" if ms >= 1 else f"{1e3 * ms:.3g} µs"
