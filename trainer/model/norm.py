"""LevelBatchNorm: a batch normalisation for each level."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from .modes import replaced_forward

PLAIN_FORWARDS = (_BatchNorm.forward, nn.SyncBatchNorm.forward)
"""Forwards of torch's own batch normalisations: at inference both only scale and shift."""


_ARGUMENTS = {
    F.batch_norm: ("input", "running_mean", "running_var", "weight"),
    torch.batch_norm: ("input", "weight"),
}


class LevelBatchNorm(nn.Module):
    """One batch normalisation per level: its own affine and its own statistics (slimmable networks, arXiv:1812.08928).

    norms: one copy of the original module per level, including its hooks and a replaced forward; it runs unchanged.
    level: the level whose norm `forward` runs.
    """

    def __init__(self, norm: _BatchNorm, level_count: int, memos: list[dict[int, Any]] | None = None) -> None:
        """memos: one memo of copy.deepcopy for each level, so that parts shared by norms stay shared in each level."""
        super().__init__()
        memos = memos or [{} for _ in range(level_count)]
        self.norms = nn.ModuleList(copy.deepcopy(norm, memo) for memo in memos)
        self.level = level_count - 1

    @property
    def plain(self) -> bool:
        """Whether the module only normalises, without a forward, parametrization or hook of the user's."""
        norm = self.norms[0]
        forward = norm.__dict__.get("forward", type(norm).forward)
        alone = not norm._forward_hooks and not norm._forward_pre_hooks and not any(norm.children())
        return forward in PLAIN_FORWARDS and alone

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The output of the current level's norm; the first argument is the tensor to normalise."""
        return self.norms[self.level](*args, **kwargs)


def epsilons(model: nn.Module) -> dict[str, float]:
    """The epsilon that each level norm of `model` adds to its variance, by dotted path."""
    norms = ((path, module.norms[0]) for path, module in model.named_modules() if isinstance(module, LevelBatchNorm))
    return {path: norm.eps for path, norm in norms if isinstance(norm, _BatchNorm)}


@contextmanager
def noting(norm: nn.Module, note: Callable[[Tensor], None]) -> Iterator[None]:
    """A context in which `note` gets every tensor that `norm` normalises: the input of its call of batch_norm.

    It gets nothing when a forward of the user's normalises without torch's batch_norm.
    """
    forward = norm.forward

    def noted(*args: Any, **kwargs: Any) -> Any:
        with _Noted(norm, note):
            return forward(*args, **kwargs)

    with replaced_forward(norm, noted):
        yield


class _Noted(TorchFunctionMode):
    """Notes the calls of batch_norm; if the norm contains other norms, only calls with the norm's own scale."""

    def __init__(self, norm: nn.Module, note: Callable[[Tensor], None]) -> None:
        super().__init__()
        self._inner = any(isinstance(module, _BatchNorm) for module in norm.modules() if module is not norm)
        self._scale, self._note = getattr(norm, "weight", None), note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Pass the input to `note`, then call the function."""
        if func in _ARGUMENTS:
            given = dict(zip(_ARGUMENTS[func], args, strict=False)) | (kwargs or {})
            if not self._inner or given.get("weight") is self._scale:
                self._note(given["input"])
        return func(*args, **(kwargs or {}))
