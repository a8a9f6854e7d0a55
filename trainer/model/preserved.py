"""Preserved: a copy of a model's tensors and attributes, to undo the changes that its forward makes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .layers import NestedLayer
from .norm import LevelBatchNorm

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_CONTAINERS = (list, dict, set)


class Preserved:
    """The state that a forward may change: parameters, buffers, and attributes (numbers, tensors, lists, dicts, sets).

    The values of nested weights are not copied: only training changes them. Changes inside objects of other kinds are
    not noticed. levels: as of `preserved`.
    """

    def __init__(self, model: nn.Module, *, levels: bool = True) -> None:
        ours = set() if levels else set(_of_levels(model))
        self._modules = [(path, module) for path, module in model.named_modules() if module not in ours]
        self._held = [
            (module, dict(module._parameters), dict(module._buffers), self._attributes(module))
            for _, module in self._modules
        ]
        self._requires_grad = [
            (each, each.requires_grad) for _, module in self._modules for each in module.parameters(recurse=False)
        ]
        nested = {id(module.values) for _, module in self._modules if isinstance(module, NestedLayer)}
        self._copies = {id(each): _Copy(each) for each in self._tensors() if id(each) not in nested}

    def changed(self) -> list[str]:
        """Dotted names of the buffers, parameters and attributes that have changed."""
        names = []
        for (path, _), (module, parameters, buffers, attributes) in zip(self._modules, self._held, strict=True):
            now = {**module._parameters, **module._buffers}
            before: dict[str, Any] = {**parameters, **buffers}
            names += [_dotted(path, name) for name, held in before.items() if self._differs(held, now.get(name))]
            own = self._attributes(module)
            names += [
                _dotted(path, name)
                for name in {**attributes, **own}
                if name not in own or name not in attributes or self._attribute_differs(attributes[name], own[name])
            ]
        return names

    def restore(self) -> None:
        """Restore all of the state."""
        for module, parameters, buffers, attributes in self._held:
            for now, before in ((module._parameters, parameters), (module._buffers, buffers)):
                if [*now] != [*before] or _identities(now) != _identities(before):
                    now.clear()
                    now.update(before)
            for name in self._attributes(module).keys() - attributes.keys():
                del module.__dict__[name]
            for name, (value, content) in attributes.items():
                if isinstance(value, list):
                    value[:] = content
                elif isinstance(value, dict | set):
                    value.clear()
                    value.update(content)
                module.__dict__[name] = value
        for parameter, required in self._requires_grad:
            parameter.requires_grad_(required)
        for each in self._copies.values():
            each.restore()

    def _attributes(self, module: nn.Module) -> dict[str, tuple[Any, Any]]:
        """Name to value, and to a copy of a container's content; empty for modules of this package."""
        if isinstance(module, NestedLayer | LevelBatchNorm) or hasattr(module, "level_count"):
            return {}
        return {
            name: (value, value.copy() if isinstance(value, _CONTAINERS) else None)
            for name, value in vars(module).items()
            if name not in _OF_EVERY_MODULE and name != "forward"
        }

    def _tensors(self) -> Iterator[Tensor]:
        for _, parameters, buffers, attributes in self._held:
            held = [*parameters.values(), *buffers.values(), *(value for value, _ in attributes.values())]
            yield from (each for each in held if isinstance(each, Tensor))

    def _differs(self, before: Tensor | None, now: Tensor | None) -> bool:
        if before is None or now is None:
            return before is not now
        copied = self._copies.get(id(before))
        return now is not before or (copied is not None and copied.differs())

    def _attribute_differs(self, before: tuple[Any, Any], now: tuple[Any, Any]) -> bool:
        (value, content), (other, other_content) = before, now
        if isinstance(value, Tensor):
            return self._differs(value, other if isinstance(other, Tensor) else None)
        if isinstance(value, _CONTAINERS):
            return (
                value is not other or len(content) != len(other_content) or _identities(content) != _identities(value)
            )
        if isinstance(value, int | float | str):
            return bool(value != other)
        return value is not other


class _Copy:
    """A tensor and a copy of its values. Values are compared, because a write through `.data` keeps the version."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._content = tensor.detach().clone()

    def differs(self) -> bool:
        now, before = self._tensor.detach(), self._content
        if not self._fits():
            return True
        return not torch.equal(now, before) and not torch.equal(now.nan_to_num(), before.nan_to_num())

    def restore(self) -> None:
        if not self.differs():
            return
        if self._fits():
            self._tensor.detach().copy_(self._content)
        else:
            self._tensor.data = self._content.clone()

    def _fits(self) -> bool:
        return self._tensor.shape == self._content.shape and self._tensor.dtype == self._content.dtype


def _of_levels(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        if isinstance(module, NestedLayer | LevelBatchNorm):
            yield from module.modules()


def _identities(content: Any) -> list[int]:
    items = content.values() if isinstance(content, dict) else content
    return [id(item) for item in items]


def _dotted(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


@contextmanager
def preserved(model: nn.Module, *, levels: bool = True) -> Iterator[Preserved]:
    """A context in which forwards of `model` may change its state; afterwards the state is restored.

    levels: whether nested layers and level norms are restored, too, or only the user's own modules.
    """
    state = Preserved(model, levels=levels)
    try:
        yield state
    finally:
        with torch.no_grad(), torch.inference_mode(False):
            state.restore()


@contextmanager
def preserved_generators() -> Iterator[None]:
    """A context after which the random generators of torch, Python and numpy have their former states."""
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = torch.cuda.get_rng_state_all() if started else None
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
