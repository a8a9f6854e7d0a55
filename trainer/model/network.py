"""Network: the sparse and the dense share of a whole nested model."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.utils import parametrize

from nested_sparse.network import DenseModule, Network, count_text

from .attention import ProjectedAttention
from .costs import Costs
from .layers import NestedLayer, unique_weights
from .norm import LevelBatchNorm

if TYPE_CHECKING:  # NestedModel itself imports this module
    from .nested_model import NestedModel

LARGEST = 3
"""Number of dense modules that a warning names."""


def dense_weights(
    net: NestedModel, layers: Collection[str] | None = None, used: Collection[str] | None = None
) -> dict[str, int]:
    """Number of weights outside the nested layers, parameters of two or more dimensions, by module path.

    A parameter with several names counts once. A parametrized weight counts with the size of its computed value.
    layers: names of the nested layers to leave out; None for all. used: dotted names of the only parameters that count,
    beside those of norms; None for all.
    """
    nested = net.nested_layers()
    seen = {id(layer.values) for name, layer in nested.items() if layers is None or name in layers}
    wanted = None if used is None else {id(net.model.get_parameter(name)) for name in used}
    found: dict[str, int] = {}
    for path, module, in_norm in _modules(net.model):
        for weight, sources in _weights(module):
            ids = {id(source) for source in sources}
            if seen.isdisjoint(ids) and (wanted is None or in_norm or not wanted.isdisjoint(ids)):
                seen |= ids
                place = module.name if isinstance(module, NestedLayer) else _place(net, path)
                found[place] = found.get(place, 0) + weight.numel()
    return found


def all_weights(net: NestedModel) -> int:
    """Number of weights in the whole network."""
    layers = unique_weights(net.nested_layers().values())
    return sum(layer.values.numel() for layer in layers) + sum(dense_weights(net).values())


def density(net: NestedModel, level: int, layers: Collection[str], weights: int) -> float:
    """Kept / all weights of a network with `weights` weights, of which `level` drops some in the nested `layers`."""
    nested = unique_weights([layer for name, layer in net.nested_layers().items() if name in layers])
    dropped = sum(layer.values.numel() - int(layer.mask(level).sum()) for layer in nested)
    return (weights - dropped) / weights


def network_of(
    net: NestedModel,
    costs: Costs,
    samples: int,
    layers: Collection[str] | None = None,
    used: Collection[str] | None = None,
) -> Network:
    """The network's record from the `costs` of `samples` samples. layers, used: as of `dense_weights`."""
    nested = net.nested_layers()
    counted = {name: layer for name, layer in nested.items() if layers is None or name in layers}
    sparse = {name for name, layer in counted.items() if not layer.dense}
    weights = dense_weights(net, layers, used)
    for layer in unique_weights(layer for layer in counted.values() if layer.dense):
        weights[layer.name] = layer.values.numel()
    flops = {_place(net, path): count for path, count in costs.others.items()}
    flops |= {name: count for name, count in costs.layers.items() if name not in sparse}
    reasons, modules = net.dense_layers(), dict(net.model.named_modules())
    dense = [
        DenseModule(
            name=path or type(net.model).__name__,
            flops=flops.get(path, 0) // samples,
            weights=weights.get(path, 0),
            why=reasons.get(path) or _why(nested.get(path), modules.get(path), multiplies=path in flops or not flops),
        )
        for path in flops.keys() | weights.keys()
    ]
    nested_weights = sum(layer.values.numel() for layer in unique_weights(nested[name] for name in sparse))
    return Network(
        flops=costs.total // samples,
        sparse_flops=sum(costs.layers[name] for name in sparse) // samples,
        weights=nested_weights + sum(weights.values()),
        dense=tuple(sorted(dense, key=lambda module: (-module.flops, -module.weights, module.name))),
    )


def log_network(log: logging.Logger, network: Network) -> None:
    """Log the sparse share of the network, as a warning below a half: of FLOPs if they are known, else of weights."""
    unit, whole = ("FLOP", network.flops) if network.flops else ("weights", network.weights)
    sizes = [(module.flops if network.flops else module.weights, module) for module in network.dense]
    share = network.sparse_share if network.flops else 1 - sum(size for size, _ in sizes) / max(whole, 1)
    said = f"{share:.0%} of the network's {count_text(whole)}{unit} are in sparse layers"
    if share >= 0.5:
        log.info("%s", said)
        return
    largest = sorted(sizes, key=lambda pair: -pair[0])[:LARGEST]
    named = "; ".join(f"{module.name}, {count_text(size)}{unit}: {module.why}" for size, module in largest)
    log.warning("only %s; the rest costs the same at every level. The largest: %s", said, named)


def _modules(model: nn.Module) -> Iterator[tuple[str, nn.Module, bool]]:
    """Every module with its path and whether it is in a norm; one level's norm of each; no parametrizations."""
    norms: list[str] = []
    hidden: list[str] = []
    for path, module in model.named_modules():
        inside = f"{path}."
        if any(inside.startswith(prefix) for prefix in hidden):
            continue
        if isinstance(module, LevelBatchNorm):
            norms.append(inside)
            hidden += [f"{inside}norms.{level}." for level in range(1, len(module.norms))]
        if parametrize.is_parametrized(module):
            hidden.append(f"{inside}parametrizations." if path else "parametrizations.")
        yield path, module, any(inside.startswith(prefix) for prefix in norms)


def _weights(module: nn.Module) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """The module's own weights, each with the parameters that it is computed from."""
    if isinstance(module, NestedLayer):
        yield module.values, [module.values]
        return
    for parameter in module.parameters(recurse=False):
        if parameter.ndim >= 2:
            yield parameter, [parameter]
    if parametrize.is_parametrized(module):
        for name, computing in module.parametrizations.items():  # type: ignore[union-attr, operator]
            weight = getattr(module, name)
            if weight.ndim >= 2:
                yield weight, list(computing.parameters())


def _place(net: NestedModel, path: str) -> str:
    """The path that a module would have without levels."""
    for norm in net.level_norms():
        prefix = f"{norm}.norms."
        if path.startswith(prefix):
            return ".".join([norm, *path.removeprefix(prefix).split(".")[1:]])
    return path


def _why(layer: NestedLayer | None, module: nn.Module | None, *, multiplies: bool) -> str:
    if layer is not None:
        return "kept whole at every level" if layer.dense else "nested, but forward does not call it"
    if isinstance(module, ProjectedAttention):
        return "queries, keys and values multiply each other, without a weight"
    kind = type(module).__name__ if module else "it"
    if not multiplies:
        return f"no product with the parameters of {kind} was seen"
    return f"{kind} multiplies in its own code, not in a layer that can be nested"
