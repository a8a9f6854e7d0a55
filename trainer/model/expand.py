"""expand: modules that multiply in code of their own, rewritten so that layers that can be nested do the work."""

from __future__ import annotations

import copy
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize

from .attention import OUTPUT, project
from .copied import plain
from .dense_weight import DenseWeight
from .forward_code import why_not_one_product
from .layers import KINDS
from .own_forward import reads_weight_elsewhere, route
from .product import only_product
from .stepped import STEPPED, step, why_whole

log = logging.getLogger(__name__)
Names = Mapping[nn.Module, Sequence[str]]


def expand(
    names: Names, keep_dense: Sequence[str], measured: Mapping[str, str]
) -> tuple[dict[nn.Module, Tensor], dict[nn.Module, str]]:
    """Rewrite modules of a copied model, in place; they compute as before.

    names: every module with its dotted paths. keep_dense: patterns of the paths of modules to leave as they are.
    measured: paths of modules that stay as they are, too, with the reason.
    Returns the masks of torch.nn.utils.prune on weights of new layers, and why modules were left as they are.
    """
    masks: dict[nn.Module, Tensor] = {}
    reasons: dict[nn.Module, str] = {}
    owners = _owners(names)
    for module, paths in names.items():
        attention = type(module) is nn.MultiheadAttention
        recurrent = parametrize.type_before_parametrizations(module) in STEPPED
        if not attention and not recurrent and not _multiplies(module):
            continue
        reason = measured.get(paths[0]) or _why_left(module, paths, keep_dense) or _shared(module, owners, names)
        reason = reason or (why_whole(module) if recurrent else None)
        if reason is None and attention:
            masks |= project(module, plain(module) | _of_output(module))  # type: ignore[arg-type]
        elif reason is None and recurrent:
            masks |= step(module, plain(module))
        elif reason is None:
            reason = _route(module, masks)
        if reason is not None:
            reasons[module] = reason
    reasons |= _untie(names, keep_dense, owners)
    return masks, reasons


def _of_output(attention: nn.Module) -> dict[str, Tensor]:
    """The masks that `plain` returns for the layer behind the heads, under the names that it has in `attention`."""
    output = attention.get_submodule(OUTPUT)
    if parametrize.type_before_parametrizations(output) is not NonDynamicallyQuantizableLinear:
        return {}
    return {f"{OUTPUT}.{name}": mask for name, mask in plain(output).items()}


def _owners(names: Names) -> dict[int, list[nn.Module]]:
    owners: dict[int, list[nn.Module]] = defaultdict(list)
    for module in names:
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)].append(module)
    return owners


def _multiplies(module: nn.Module) -> bool:
    """Whether the forward of `module` may be one product with its only weight, and no layer takes its place."""
    kind = parametrize.type_before_parametrizations(module)
    if kind in KINDS:
        return KINDS[kind].why_dense(module) is not None
    alone = not module._modules.keys() - {"parametrizations"}
    torchs = kind.__module__.startswith("torch.") or isinstance(module, nn.Embedding | DenseWeight)
    return alone and not torchs and any(parameter.ndim >= 2 for parameter in module.parameters())


def _own_weights(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters(recurse=False) if parameter.ndim >= 2]


def _route(module: nn.Module, masks: dict[nn.Module, Tensor]) -> str | None:
    """Let a layer inside make the product of `module`; the reason where there is none, and nothing is changed."""
    tried = copy.deepcopy(module)
    masked = bool(plain(tried))
    weights = _own_weights(tried)
    if len(weights) != 1 or weights[0].numel() == 0 or not weights[0].is_floating_point():
        return None
    found = only_product(tried, weights[0])
    if isinstance(found, str):
        kind = KINDS.get(parametrize.type_before_parametrizations(module))
        return (kind and kind.why_dense(module)) or found
    product, x = found
    if type(module) not in KINDS and (branching := why_not_one_product(type(module))):
        return f"{type(tried).__name__} is not nested: {branching}"
    computed = product.weight.untyped_storage().data_ptr() != weights[0].untyped_storage().data_ptr()
    if masked and computed:
        return f"{type(tried).__name__} is not nested: it is pruned, and computes another weight from the pruned one"
    if reads_weight_elsewhere(tried, weights[0], product, x):
        return f"{type(tried).__name__} is not nested: its forward also reads its weight beside the product"
    pruned = plain(module)
    (weight,) = _own_weights(module)
    name = next(name for name, held in module._parameters.items() if held is weight)
    found = only_product(module, weight)
    assert not isinstance(found, str)
    inner = route(module, weight, found[0])
    if name in pruned:
        masks[inner] = pruned[name].t() if module._turned else pruned[name]
    return None


def _untie(names: Names, keep_dense: Sequence[str], owners: Mapping[int, Sequence[nn.Module]]) -> dict[nn.Module, str]:
    """Give linear layers that share their weight with a table (nn.Embedding) a copy of their own; tables stay dense."""
    reasons: dict[nn.Module, str] = {}
    for module, paths in names.items():
        hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__
        if type(module) is not nn.Linear or hooked or _kept(paths, keep_dense):
            continue
        others = [owner for owner in owners[id(module.weight)] if owner is not module]
        if others and all(isinstance(owner, nn.Embedding) for owner in others):
            module.weight = nn.Parameter(module.weight.detach().clone(), module.weight.requires_grad)
            said = f"is a table, which is read, not multiplied; {paths[0]!r} has a copy of its weight, and is nested"
            reasons |= {owner: f"{type(owner).__name__} {said}" for owner in others}
            log.info(
                "%s shared its weight with %r; it has a copy now, which trains apart", paths[0], names[others[0]][0]
            )
    return reasons


def _kept(paths: Sequence[str], keep_dense: Sequence[str]) -> bool:
    return any(fnmatchcase(path, pattern) for path in paths for pattern in keep_dense)


def _why_left(module: nn.Module, paths: Sequence[str], keep_dense: Sequence[str]) -> str | None:
    if _kept(paths, keep_dense):
        return "keep_dense names it"
    return "its forward was replaced, which would be lost" if "forward" in module.__dict__ else None


def _shared(module: nn.Module, owners: Mapping[int, Sequence[nn.Module]], names: Names) -> str | None:
    for key, parameter in module.named_parameters(recurse=False):
        other = next((owner for owner in owners[id(parameter)] if owner is not module), None)
        if other is not None:
            return f"shares its {key} with {names[other][0]!r}"
    return None
