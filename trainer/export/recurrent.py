"""Recurrent: one node for each LSTM and GRU while a model is traced, in place of torch's loop over the time steps.

torch.onnx translates `aten::lstm` and `aten::gru` as a whole. But to find the shape of their answer, torch runs the
loop step by step, twice, and with a free batch size each step is slow. Here the shape is computed directly.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nested_sparse.errors import ExportError

_SETTINGS = (
    "bool has_biases, int num_layers, float dropout, bool train, bool bidirectional, bool batch_first"  # as torch's
)


@torch.library.custom_op(
    "nested_sparse::lstm",
    mutates_args=(),
    schema=f"(Tensor x, Tensor[] hx, Tensor[] params, {_SETTINGS}) -> (Tensor, Tensor, Tensor)",
)
def _lstm(x: Tensor, hx: Sequence[Tensor], params: Sequence[Tensor], *settings: Any) -> tuple[Tensor, Tensor, Tensor]:
    output, hidden, cell = torch.ops.aten.lstm.input(x, hx, params, *settings)
    return output, hidden, cell


@torch.library.custom_op(
    "nested_sparse::gru",
    mutates_args=(),
    schema=f"(Tensor x, Tensor hx, Tensor[] params, {_SETTINGS}) -> (Tensor, Tensor)",
)
def _gru(x: Tensor, hx: Tensor, params: Sequence[Tensor], *settings: Any) -> tuple[Tensor, Tensor]:
    output, hidden = torch.ops.aten.gru.input(x, hx, params, *settings)
    return output, hidden


@_lstm.register_fake
def _(x: Tensor, hx: Sequence[Tensor], params: Sequence[Tensor], *settings: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _answer(x, hx[0], settings), torch.empty_like(hx[0]), torch.empty_like(hx[1])


@_gru.register_fake
def _(x: Tensor, hx: Tensor, params: Sequence[Tensor], *settings: Any) -> tuple[Tensor, Tensor]:
    return _answer(x, hx, settings), torch.empty_like(hx)


def _answer(x: Tensor, hidden: Tensor, settings: Sequence[Any]) -> Tensor:
    """An empty tensor, (N, T, D · H) or (T, N, D · H) like x."""
    bidirectional = settings[4]
    return x.new_empty((*x.shape[:2], hidden.shape[2] * (2 if bidirectional else 1)))


@functools.cache
def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Translations of the two operators by torch.onnx, made at the first export; they take half a second to import.

    Where another onnxscript lacks one, torch's loop is traced.
    """
    from onnxscript.function_libs.torch_lib.ops import core

    named = {torch.ops.nested_sparse.lstm.default: "aten_lstm", torch.ops.nested_sparse.gru.default: "aten_gru"}
    return {operator: getattr(core, name) for operator, name in named.items() if hasattr(core, name)}


def _check(func: Callable[..., Any], args: Sequence[Any]) -> None:
    """Raise ExportError for packed sequences and for an LSTM with a projection."""
    if getattr(func, "__name__", "") == "_pack_padded_sequence":
        raise ExportError(
            "it packs sequences of different lengths, which a graph cannot hold; give it padded ones in eval mode"
        )
    if func != torch.lstm or not isinstance(args[1], tuple | list):
        return
    hidden, cells = (state.shape[2] for state in args[1])
    if hidden != cells:
        raise ExportError(
            f"its proj_size is {hidden}, and torch's exporter writes such an LSTM wrongly; take an LSTM without "
            "proj_size, and a Linear behind it"
        )


class WholeRecurrent(TorchFunctionMode):
    """Context in which LSTMs and GRUs over padded sequences, without a projection, are one operator each."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Hook that torch calls for every function. Raises ExportError: a call that a graph cannot hold."""
        _check(func, args)
        padded = func in (torch.lstm, torch.gru) and not kwargs and len(args) == 9
        if padded and not args[6] and len(translations()) == 2:  # args[6]: training, with dropout
            if func == torch.lstm and isinstance(args[1], tuple | list) and args[1][0].shape[2] == args[1][1].shape[2]:
                return torch.ops.nested_sparse.lstm(*args)
            if func == torch.gru and isinstance(args[2], tuple | list):
                return torch.ops.nested_sparse.gru(*args)
        return func(*args, **(kwargs or {}))
