"""Entry: the decorator of the trainer's public functions. It sets torch to a known state and converts exceptions."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn
from torch.utils import _python_dispatch

from nested_sparse.errors import NestedSparseError
from nested_sparse.excerpt import excerpt

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_LIBRARIES = {"torch", "numpy", "sympy", "onnx", "onnx_ir", "onnxscript", "onnxruntime"}
_PASSES = "_nested_sparse_passes"


def entry(
    error: type[NestedSparseError], *, gradients: bool = False, inference: bool = False, callbacks: bool = False
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Make a function an entry: its first argument is the model, and it raises only NestedSparseError.

    error: class that replaces other exceptions. It names the module whose forward raised, and keeps the cause.
    gradients: whether the function needs gradients. inference: whether torch is set as for a deployed model, see
        `plain`.
    callbacks: whether the function calls functions of the caller. Exception classes of the caller's own then pass
        unchanged, so that a callback can end a run.
    """

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def entered(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            given = signature.bind(*args, **kwargs).arguments  # TypeError: the call itself is wrong, as anywhere
            model = next(iter(given.values()), None)
            with foreign_errors(function.__name__, error, model, callbacks=callbacks):
                _check_plain_tensors(function.__name__, error)
                with ExitStack() as stack:
                    stack.enter_context(torch.inference_mode(False))
                    if gradients:
                        stack.enter_context(torch.enable_grad())
                    if inference and isinstance(model, nn.Module):
                        stack.enter_context(plain(model))
                    return function(*args, **kwargs)

        return entered

    return decorate


@contextmanager
def foreign_errors(
    doing: str, error: type[NestedSparseError], model: object, *, callbacks: bool = False
) -> Iterator[None]:
    """A context in which exceptions of other packages become `error`; KeyboardInterrupt and the like pass.

    doing: name of the function, for messages. callbacks: as of `entry`.
    """
    try:
        yield
    except NestedSparseError:
        raise
    except Exception as cause:
        origin = type(cause).__module__.split(".")[0]
        if hasattr(cause, _PASSES) or (callbacks and origin not in sys.stdlib_module_names | _LIBRARIES):
            raise
        where = _where(cause, model) if isinstance(model, nn.Module) else ""
        raise error(f"{doing} failed{where}: {described(cause)}") from cause


def described(error: BaseException) -> str:
    """The class and the first line of a foreign exception, in one printable line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}{': ' if lines else ''}{excerpt(lines[0], 300) if lines else ''}"


def passing(callback: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """`callback`, with its exceptions marked to leave an entry unchanged, so that the caller can end the work."""

    @functools.wraps(callback)
    def called(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return callback(*args, **kwargs)
        except Exception as error:
            setattr(error, _PASSES, True)
            raise

    return called


@contextmanager
def plain(model: nn.Module) -> Iterator[None]:
    """A context in which torch computes as a deployed model does; afterwards the settings are restored.

    It has no gradients, no autocast, float32 as the default type, and new tensors on the device of the parameters.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for kind in {"cpu", device.type} - {"meta"}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(device)
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        yield


def _check_plain_tensors(doing: str, error: type[NestedSparseError]) -> None:
    """Raise `error` when tensors have no values or are being traced."""
    modes = [type(mode).__name__ for mode in _python_dispatch._get_current_dispatch_mode_stack()]
    fake = [name for name in modes if "Fake" in name or "Proxy" in name or "Functional" in name]
    if fake:
        raise error(f"{doing} cannot work within {fake[-1]}, where tensors have no values; leave it first")
    if torch._C._functorch.peek_interpreter_stack() is not None:
        raise error(f"{doing} cannot work within a torch.func transform (vmap, grad, …); call it outside")


def _where(cause: BaseException, model: nn.Module) -> str:
    """ ", in module 'a.b' (Kind)": the innermost module of `model` that ran when `cause` was raised; "" if none did."""
    names = {id(module): name for name, module in model.named_modules()}
    found, kind = None, ""
    trace = cause.__traceback__
    while trace is not None:
        running: Any = trace.tb_frame.f_locals.get("self")
        if isinstance(running, nn.Module) and names.get(id(running)):
            found, kind = names[id(running)], type(running).__name__
        trace = trace.tb_next
    return f", in module {found!r} ({kind})" if found else ""
