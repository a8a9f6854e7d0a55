"""Copied: a copy of a user's model that can be nested, with the utilities of torch on its layers resolved."""

from __future__ import annotations

import copy
import inspect
import logging
import sys
from collections import OrderedDict
from collections.abc import Iterator
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

from nested_sparse.errors import InputError

from .layers import KINDS
from .modes import evaluating

if TYPE_CHECKING:
    from torch._dynamo.eval_frame import OptimizedModule

log = logging.getLogger(__name__)


def copy_of(model: nn.Module) -> tuple[nn.Module, dict[nn.Module, Tensor]]:
    """A copy of `model`, and the masks of torch.nn.utils.prune in it: module to bool mask of its weight's shape.

    In the copy, layers that can be nested hold the plain weight that they compute with now: masks of
    torch.nn.utils.prune are applied; parametrizations, and the hooks of weight_norm and spectral_norm, are folded.
    `model` is unchanged. Raises InputError: it is not a module, a copy would run the original, or a layer has no
    weights yet.
    """
    if not isinstance(model, nn.Module):
        twice = "; this is what torch.compile made of a compiled module: nest the module itself"
        compiled = hasattr(model, "_torchdynamo_orig_callable")
        raise InputError(f"model: expected a torch module, got a {type(model).__name__}{twice if compiled else ''}")
    _check_ready(model)
    _check_forwards(model)
    computed = {id(tensor): tensor.detach().clone() for tensor in _tensors(model) if not tensor.is_leaf}
    memo: dict[int, Any] = dict(computed)
    copied = copy.deepcopy(model, memo)  # without the memo, deepcopy refuses computed tensors
    for module in model.modules():
        if _is_compiled_forward(module):
            del memo[id(module)].__dict__["forward"]
        if _is_compiled(module):
            _copy_hooks(module, memo[id(module._orig_mod)], memo)
    copied = _uncompiled(copied)
    masks: dict[nn.Module, Tensor] = {}
    for module in list(copied.modules()):
        if parametrize.type_before_parametrizations(module) in KINDS:
            mask = plain(module).get("weight")
            if mask is not None:
                masks[module] = mask
    return copied, masks


def _uncompiled(model: nn.Module) -> nn.Module:
    """`model` without torch.compile around it or its parts; compiled code would run the layers of the original."""
    while _is_compiled(model):
        model = model._orig_mod
    for parent in model.modules():
        for key, child in parent._modules.items():
            if _is_compiled(child):
                parent._modules[key] = _uncompiled(child)
    return model


def _copy_hooks(wrapper: nn.Module, inner: nn.Module, memo: dict[int, Any]) -> None:
    """Give `inner`, a copy, the hooks of its torch.compile wrapper, which run around `inner`'s own hooks.

    They would be lost with the wrapper. memo: memo of copy.deepcopy, so that hooks which are methods of copied modules
    become methods of the copies.
    """
    for name in ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"):
        getattr(inner, name).update(copy.deepcopy(getattr(wrapper, name), memo))
    for name in ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"):
        outer = copy.deepcopy(getattr(wrapper, name), memo)
        setattr(inner, name, OrderedDict({**outer, **getattr(inner, name)}))


def _is_compiled(module: object) -> TypeGuard[OptimizedModule]:
    """Whether torch.compile made the module. Its class is in a part of torch that takes over a second to import."""
    frames = sys.modules.get("torch._dynamo.eval_frame")
    return frames is not None and isinstance(module, frames.OptimizedModule)


def _is_compiled_forward(module: nn.Module) -> bool:
    """Whether the module's forward is the class's own, compiled: `module.forward = torch.compile(module.forward)`."""
    compiled = getattr(module.__dict__.get("forward"), "_torchdynamo_orig_callable", None)
    own = None if compiled is None else inspect.unwrap(compiled)  # for its own modules torch adds a wrapper
    return isinstance(own, MethodType) and own.__self__ is module and own.__func__ is type(module).forward


def plain(module: nn.Module) -> dict[str, Tensor]:
    """Make parameters of what computes parameters of `module`, in place, with the values that they have now.

    That is a parametrization or a hook of torch.nn.utils, of the module's own parameters. Returns the bool masks of
    torch.nn.utils.prune, by the name of the parameter.
    """
    masks: dict[str, Tensor] = {}
    with torch.no_grad(), evaluating(module):
        _bake(module)
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                name = hook._tensor_name
                masks[name] = module._buffers[f"{name}_mask"].detach().bool()  # type: ignore[union-attr]
                prune.remove(module, name)  # type: ignore[no-untyped-call]
            elif isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
    return masks


def _bake(module: nn.Module) -> None:
    """Remove parametrizations. (torch's own function would change the class that the original model shares.)"""
    if not parametrize.is_parametrized(module):
        return
    lists: dict[str, nn.Module] = dict(module.parametrizations.items())  # type: ignore[operator, union-attr]
    values = {name: getattr(module, name).detach().clone() for name in lists}
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module._modules["parametrizations"]
    for name, value in values.items():
        trains = any(parameter.requires_grad for parameter in lists[name].parameters())
        module.register_parameter(name, nn.Parameter(value, trains))


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """Every tensor that a module of `model` holds, as an attribute or in containers that are attributes."""
    for module in model.modules():
        yield from _within(vars(module), depth=3)


def _within(value: Any, depth: int) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, dict | list | tuple | set):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _within(item, depth - 1)


def _check_ready(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if any(is_lazy(held) for held in [*module._parameters.values(), *module._buffers.values()]):
            raise InputError(f"{name!r} has no weights yet; run one batch through the model before nesting it")


def _check_forwards(model: nn.Module) -> None:
    """Raise InputError when a replaced forward is a function that holds parts of `model`; warn of such hooks.

    copy.deepcopy does not copy functions: the copy's forward would use the original's weights at every level.
    """
    parts = {id(part) for part in model.modules()} | {id(parameter) for parameter in model.parameters()}
    for name, module in model.named_modules():
        where = f"{name or 'the model'} ({type(module).__name__})"
        undone = _is_compiled(module) or _is_compiled_forward(module)  # the copy has no compiled forward
        if not undone and _holds(module.__dict__.get("forward"), parts):
            raise InputError(
                f"{where}: its forward was replaced by a function that holds parts of the model, so that a copy would "
                "run the original; use a subclass, or types.MethodType(function, module) with a function that takes "
                "the module"
            )
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        if any(_holds(hook, parts) for hook in hooks):
            log.warning(
                "%s: a hook holds parts of the model; in the nested copy it will see the original's parts", where
            )


def _holds(function: Any, parts: set[int], depth: int = 4) -> bool:
    """Whether a function's closure leads to one of `parts`."""
    if not isinstance(function, FunctionType) or not depth:
        return False
    for cell in function.__closure__ or ():
        try:
            value = cell.cell_contents
        except ValueError:  # a closure cell without a value yet
            continue
        held = value.__self__ if isinstance(value, MethodType) else value
        if id(held) in parts or _holds(value, parts, depth - 1):
            return True
    return False
