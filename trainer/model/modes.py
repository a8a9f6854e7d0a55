"""Modes: contexts for eval mode and for a replaced forward, and the stack of running modules."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_CALL = nn.Module._call_impl.__code__


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A context in eval mode; afterwards every module has its former mode again."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """A context in which a call of `module` runs `forward`, with the module's hooks around it."""
    absent = object()
    before = module.__dict__.get("forward", absent)
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if before is absent:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = before


def called_by_other(module: nn.Module) -> bool:
    """Whether the running code is called by a module, and the innermost such call is not a call of `module`.

    This tells the module's own forward and hooks from those of other modules. It reads the stack, because any part of a
    model may be called, as activation checkpointing does.
    """
    if torch.compiler.is_compiling():
        return True
    frame = sys._getframe(1)
    while frame is not None and frame.f_code is not _CALL:
        frame = frame.f_back  # type: ignore[assignment]
    return frame is not None and frame.f_locals.get("self") is not module


@contextmanager
def module_stack(model: nn.Module) -> Iterator[list[str]]:
    """Dotted paths of the running modules, outermost first; after an error, the last one has raised it."""
    active: list[str] = []
    handles = []
    for path, module in model.named_modules():

        def enter(module: nn.Module, inputs: Any, path: str = path) -> None:
            active.append(path)

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            active.pop()

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield active
    finally:
        for handle in handles:
            handle.remove()


def named(model: nn.Module, path: str) -> str:
    """A description of the module at `path`: "module 'a.b' (Kind)"."""
    try:
        kind = type(model.get_submodule(path)).__name__
    except AttributeError:
        return f"module {path!r}"
    return f"module {path!r} ({kind})" if path else f"the model ({kind})"
