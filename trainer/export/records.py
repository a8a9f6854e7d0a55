"""Records: the layers and levels of a nested model in the form that the checkpoint's writer takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from nested_sparse.errors import ExportError
from nested_sparse.network import Network
from nested_sparse.value_type import ValueType
from nested_sparse.writer import LayerRecord, LevelRecord

from ..model.costs import Costs
from ..model.layers import NestedLayer
from ..model.nested_model import NestedModel
from ..model.network import density
from .fuse import FusedGraph
from .pads import PADS


def norm_tables(net: NestedModel) -> dict[str, NDArray[np.float64]]:
    """(L, 2, C) scale and shift of every level norm at inference, by dotted path."""
    return {
        path: np.stack([_scale_and_shift(path, level, norm) for level, norm in enumerate(module.norms)])
        for path, module in net.level_norms().items()
    }


def _scale_and_shift(path: str, level: int, norm: nn.Module) -> NDArray[np.float64]:
    mean, var = getattr(norm, "running_mean", None), getattr(norm, "running_var", None)
    if mean is None or var is None:
        raise ExportError(
            f"module {path!r} (LevelBatchNorm): level {level} has no running statistics, so its output depends on the "
            "batch; make the norm with track_running_stats=True and calibrate it"
        )
    deviation = np.sqrt(_float64(var) + float(norm.eps))  # type: ignore[arg-type]
    gamma, beta = getattr(norm, "weight", None), getattr(norm, "bias", None)
    scale = (1.0 if gamma is None else _float64(gamma)) / deviation
    shift = (0.0 if beta is None else _float64(beta)) - _float64(mean) * scale
    return np.stack([scale, shift])


def _float64(tensor: Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = tensor.detach().cpu().double().numpy()
    return array


def layer_records(
    net: NestedModel, fused: FusedGraph, tables: Mapping[str, NDArray[np.float64]], stored: ValueType
) -> list[LayerRecord]:
    """One record for each nested layer in the graph, in the order of the graph, in which a run reads a level.

    tables: what `norm_tables` returns. stored: type of the stored values. Raises ExportError where there is no layer.
    """
    layers = net.nested_layers()
    if not fused.norm_of:
        raise ExportError(
            "forward calls no nested layer; make the model with nest() and export the returned model; where forward "
            "reads all weights past their layers, let it call some of the layers"
        )
    return [
        LayerRecord(
            weight=net.nested_weight(name),
            norms=_folded_norms(layers[name], None if norm is None else tables[norm], net.level_count),
            op=layers[name].op,
            attributes=layers[name].attributes() | ({PADS: fused.pads[name]} if name in fused.pads else {}),
            pattern=layers[name].layout.name,
            value_type=stored,
        )
        for name, norm in fused.norm_of.items()
    ]


def _folded_norms(layer: NestedLayer, table: NDArray[np.float64] | None, level_count: int) -> NDArray[np.float32]:
    """(L, 2, O) scale and shift that are applied to the layer's sums: those of its norm, its own scale and bias."""
    rows = int(layer.values.shape[0])
    if table is None:
        table = np.stack([np.ones((level_count, rows)), np.zeros((level_count, rows))], axis=1)
    bias = np.zeros((level_count, rows)) if layer.biases is None else _float64(layer.biases)
    scale = table[:, 0] if layer.scales is None else table[:, 0] * _float64(layer.scales)
    return np.stack([scale, table[:, 1] + bias * table[:, 0]], axis=1).astype(np.float32)


def level_records(
    net: NestedModel,
    layers: Sequence[LayerRecord],
    costs: Costs,
    network: Network,
    samples: int,
    metrics: Mapping[str, Sequence[float]],
) -> list[LevelRecord]:
    """One record for each level, with the density and FLOPs of the whole network.

    A level drops weights of nested layers in the graph only. costs: multiplications of a run over `samples` samples at
    the densest level. metrics: one value per level, by name.
    """
    names = [record.weight.name for record in layers]
    positions = costs.positions(net.nested_layers())
    outside = costs.total - sum(costs.layers[name] for name in names)

    def flops(level: int) -> int:
        kept = sum(record.weight.nnz(level) * positions.get(record.weight.name, 0) for record in layers)
        return (outside + 2 * kept) // samples

    return [
        LevelRecord(
            density=density(net, level, names, network.weights),
            flops=flops(level),
            metrics={name: values[level] for name, values in metrics.items()},
        )
        for level in range(net.level_count)
    ]
