"""Replacement: nested layers in place of a model's modules, and the reasons why other modules stay dense."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from nested_sparse.argument import shown
from nested_sparse.errors import BudgetError, InputError
from nested_sparse.layouts import Layout

from .attention import ProjectedAttention
from .dense_weight import DenseWeight
from .expand import expand
from .layers import KINDS, NestedLayer
from .norm import LevelBatchNorm
from .stepped import STEPPED

ROOT_NAME = "model"
"""Name of a model that is a single layer."""
_NESTABLE = [kind.__name__ for kind in (*KINDS, *STEPPED) if kind.__module__.startswith("torch.")]


def replace_layers(
    model: nn.Module,
    *,
    layout: Layout,
    level_count: int,
    keep_dense: Sequence[str],
    masks: Mapping[nn.Module, Tensor] | None = None,
    measured: Mapping[str, str] | None = None,
) -> tuple[nn.Module, dict[str, str]]:
    """Replace, in place, the layers that can be nested; returns the model, and the dense layers with their reasons.

    A module with several names is replaced once and stays one module. masks: module to bool mask of its weight's shape,
    the weights that levels may keep; all for modules without one. measured: dotted path to the reason, of layers that
    stay as they are though they could be nested. Raises BudgetError, InputError.
    """
    patterns = _patterns(keep_dense)
    new_masks, left = expand(_names(model), patterns, measured or {})
    masks = {**(masks or {}), **new_masks}
    names = _names(model)
    norms = _norms(model)
    reasons = {module: left.get(module) or _why_dense(module) for module in names if _holds_weights(module)}
    reasons |= {module: why for module in names if (why := (measured or {}).get(names[module][0])) is not None}
    reasons |= {mha.out_proj: f"{type(mha).__name__} reads its weight directly" for mha in _attentions(names)}
    reasons |= _inside(norms, names, reasons)
    reasons |= _why_shared_dense(names, reasons)
    nestable = [module for module, reason in reasons.items() if reason is None]
    left_dense = {names[module][0]: reason for module, reason in reasons.items() if reason is not None}
    if not nestable:
        left_dense |= getattr(model, "left_out", {})
        found = "".join(f"\n  {name}: {reason}" for name, reason in left_dense.items()) or " none has weights"
        named, kinds = getattr(model, "named_by", (type(model).__name__, _NESTABLE))
        raise InputError(
            f"{named} has no {', '.join(kinds[:-1])} or {kinds[-1]} that can be nested; its layers:{found}"
        )
    kept_whole = _kept_whole(patterns, names, nestable, left_dense, checked=bool(measured))
    memos = _memos(norms, names, level_count)
    nested: dict[nn.Module, nn.Module] = {norm: LevelBatchNorm(norm, level_count, memos) for norm in norms}
    for module in nestable:
        layer = _nested_layer(module, layout, level_count, dense=id(module.weight) in kept_whole)
        layer.name = names[module][0]
        if module in masks and not layer.dense:
            layer.allowed = layer.turned(masks[module]).contiguous()
        nested[module] = layer
    for parent in names:
        for key, child in parent._modules.items():
            if child in nested:
                parent._modules[key] = nested[child]
    _leave_fast_paths(names)
    return nested.get(model, model), left_dense


def _names(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Every module with all its dotted paths, in the model's order."""
    names: dict[nn.Module, list[str]] = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, NestedLayer | LevelBatchNorm):
            raise InputError(f"{name!r} is nested already; nest the original model")
        names[module].append(name or ROOT_NAME)
    return dict(names)


def _norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch normalisations, also of subclasses, without those inside another one."""
    if isinstance(model, _BatchNorm):
        return [model]
    found: dict[_BatchNorm, None] = {}
    for child in model.children():
        found |= dict.fromkeys(_norms(child))
    return list(found)


def _memos(norms: Sequence[_BatchNorm], names: Mapping[nn.Module, Any], level_count: int) -> list[dict[int, Any]]:
    """Memos of copy.deepcopy for copies of the norms, one per level: parameters shared with the model stay shared."""
    within = {module for norm in norms for module in norm.modules()}
    shared = [parameter for module in names if module not in within for parameter in module.parameters(recurse=False)]
    return [{id(parameter): parameter for parameter in shared} for _ in range(level_count)]


def _inside(
    norms: Sequence[_BatchNorm], names: Mapping[nn.Module, list[str]], reasons: Mapping[nn.Module, str | None]
) -> dict[nn.Module, str]:
    """Reasons for the layers inside norms to stay dense."""
    return {
        module: f"is a part of {names[norm][0]}, of which every level has its own copy"
        for norm in norms
        for module in norm.modules()
        if module in reasons and module is not norm
    }


def _holds_weights(module: nn.Module) -> bool:
    if isinstance(module, parametrize.ParametrizationList):  # it counts with the module whose weight it computes
        return False
    return parametrize.is_parametrized(module) or any(value.ndim >= 2 for value in module.parameters(recurse=False))


def _why_dense(module: nn.Module) -> str | None:
    """The reason why a module with weights cannot be nested; None when it can."""
    kind = type(module)
    if parametrize.is_parametrized(module):
        computed = ", ".join(module.parametrizations)  # type: ignore[arg-type]
        return f"{kind.__name__}: its {computed} is computed by torch.nn.utils.parametrize"
    if isinstance(module, DenseWeight):
        return module.why
    if kind is ProjectedAttention:
        return "its bias_k and bias_v are keys and values, not weights of a product"
    if issubclass(kind, nn.MultiheadAttention):
        return f"{kind.__name__} is not nested; to nest its work, replace it by projections of your own (nn.Linear)"
    if kind not in KINDS:  # a subclass may compute something else
        return f"{kind.__name__} is not nested, only {', '.join(_NESTABLE[:-1])} and {_NESTABLE[-1]} are"
    weight = module._parameters.get("weight")
    if weight is None:
        return "its weight is not a parameter but computed from others"
    if "forward" in module.__dict__:
        return "its forward was replaced, which would be lost"
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return "it has hooks, which would be lost"
    if not weight.is_floating_point() or weight.numel() == 0:
        return f"its weight is {weight.dtype} {tuple(weight.shape)}"
    return KINDS[kind].why_dense(module)


def _attentions(modules: Mapping[nn.Module, list[str]]) -> list[nn.MultiheadAttention]:
    """Those that are not made of linear layers."""
    return [
        module
        for module in modules
        if isinstance(module, nn.MultiheadAttention) and not isinstance(module, ProjectedAttention)
    ]


def _why_shared_dense(names: dict[nn.Module, list[str]], reasons: dict[nn.Module, str | None]) -> dict[nn.Module, str]:
    """Reasons for layers that share parameters with others to stay dense; layers of one `_kind` may share a weight."""
    owners: dict[int, list[nn.Module]] = defaultdict(list)
    for module in names:
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)].append(module)
    shared: dict[nn.Module, str] = {}
    for module in [module for module, reason in reasons.items() if reason is None]:
        for key, parameter in module.named_parameters(recurse=False):
            others = [owner for owner in owners[id(parameter)] if owner is not module]
            taken = key != "weight" or KINDS[type(module)].turned(parameter) is parameter  # else each makes its own
            alike = taken and all(_kind(owner) == _kind(module) and reasons.get(owner, "") is None for owner in others)
            if others and not (key == "weight" and alike):
                shared[module] = f"shares its {key} with {names[others[0]][0]!r}"
    return shared


def _kind(module: nn.Module) -> tuple[type, object]:
    """The properties that must be equal in layers that share a weight, so that one mask fits all of them."""
    return type(module), _groups(module)


def _groups(module: nn.Module) -> int:
    """The number of equal parts of the rows of a torch layer, which read different inputs."""
    return getattr(module, "groups", 1)


def _patterns(keep_dense: Sequence[str]) -> list[str]:
    """`keep_dense` as a list. Raises BudgetError."""
    patterns = [keep_dense] if isinstance(keep_dense, str) else keep_dense
    if not isinstance(patterns, Collection) or not all(isinstance(each, str) for each in patterns):
        raise BudgetError(f"keep_dense: expected a list of module paths, e.g. ('fc',), got {shown(keep_dense)}")
    return list(patterns)


def _kept_whole(
    patterns: Sequence[str],
    names: dict[nn.Module, list[str]],
    nestable: Sequence[nn.Module],
    left_dense: dict[str, str],
    *,
    checked: bool,
) -> set[int]:
    """Identities of the weights that `patterns` match.

    Raises BudgetError for a pattern that matches nothing, unless all were checked, as long as every layer was nested.
    """
    matched: set[int] = set()
    for pattern in patterns:
        hits = [module for module in nestable if any(fnmatchcase(name, pattern) for name in names[module])]
        if not hits and not checked and not any(fnmatchcase(name, pattern) for name in left_dense):
            known = ", ".join(names[module][0] for module in nestable)
            raise BudgetError(f"keep_dense: no layer matches {pattern!r}; the layers are: {known}")
        matched |= {id(module.weight) for module in hits}
    return matched


def _nested_layer(module: nn.Module, layout: Layout, level_count: int, *, dense: bool) -> NestedLayer:
    kind = KINDS[type(module)]
    dense = dense or kind.stays_whole(module, layout)
    chosen = kind.whole_layout(layout) if dense else kind.own_layout(layout)
    weight: Tensor = module.weight  # type: ignore[assignment]
    parts = getattr(module, "gates", _groups(module))
    fitted = chosen.fitted(len(kind.turned(weight)), parts, kind.row_step)
    layer = kind(module, layout=fitted, level_count=level_count)
    layer.dense = dense
    return layer


def _leave_fast_paths(modules: dict[nn.Module, list[str]]) -> None:
    """Turn off the fast paths of torch's transformer layers, which read weights directly, without the mask."""
    for module in modules:
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
