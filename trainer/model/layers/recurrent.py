"""NestedRecurrence: the recurrent half of an LSTM or GRU layer, in one direction, with nested weights.

The other half multiplies the inputs of all steps at once, as a linear layer does: NestedProjection.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nested_sparse.errors import ExportError
from nested_sparse.graph.contract import LAYER_KINDS, REVERSE
from nested_sparse.layouts import Layout

from .layer import NestedLayer
from .linear import NestedLinear

State = tuple[Tensor, ...]
"""Nothing for zeros; else the hidden state (N, H) and, of an LSTM, the cells (N, H)."""


class Projection(nn.Linear):
    """The half of a recurrent layer that reads its inputs; weight (G·H, K), the rows of one gate after another's.

    gates: G, equal parts of the rows.
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, gates: int) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.weight, self.bias, self.gates = weight, bias, gates  # type: ignore[assignment]


class Recurrence(nn.Module):
    """The half of a recurrent layer that reads its own hidden state; weight (G·H, H), gates in torch's order.

    op: the kind, "lstm" or "gru". reverse: whether time runs backwards.
    """

    op: ClassVar[str]

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, reverse: bool) -> None:
        super().__init__()
        self.weight, self.bias, self.reverse = weight, bias, reverse

    @property
    def gates(self) -> int:
        """G, equal parts of the rows."""
        return LAYER_KINDS[self.op].gates

    def forward(self, projected: Tensor, *state: Tensor) -> State:
        """As NestedRecurrence's."""
        return recur(self.op, projected, self.weight, self.bias, state, reverse=self.reverse)


class LSTMRecurrence(Recurrence):
    """That of an LSTM."""

    op = "lstm"


class GRURecurrence(Recurrence):
    """That of a GRU."""

    op = "gru"


def recur(op: str, projected: Tensor, weight: Tensor, bias: Tensor | None, state: State, *, reverse: bool) -> State:
    """All steps of a recurrent layer: its hidden states (T, N, H), and of an LSTM its last cells (N, H).

    projected: (T, N, G·H), the inputs' part of each gate. state: before the first step.
    """
    hidden, *rest = state or (projected.new_zeros(projected.shape[1], weight.shape[1]),)
    cells = rest[0] if rest else torch.zeros_like(hidden)
    answers: list[Tensor] = []
    for given in projected.flip(0) if reverse else projected:
        sums = F.linear(hidden, weight, bias)
        if op == "lstm":
            in_, forget, value, out = (given + sums).chunk(4, dim=-1)
            cells = forget.sigmoid() * cells + in_.sigmoid() * value.tanh()
            hidden = out.sigmoid() * cells.tanh()
        else:
            (x_reset, x_keep, x_new), (reset, keep, new) = given.chunk(3, dim=-1), sums.chunk(3, dim=-1)
            fresh = (x_new + (x_reset + reset).sigmoid() * new).tanh()
            hidden = torch.lerp(fresh, hidden, (x_keep + keep).sigmoid())
        answers.append(hidden)
    output = torch.stack(answers[::-1] if reverse else answers)
    return (output, cells) if op == "lstm" else (output,)


class NestedProjection(NestedLinear):
    """A Projection with nested weights; no block holds rows of two gates."""

    def __init__(self, projection: Projection, *, layout: Layout, level_count: int) -> None:
        super().__init__(projection, layout=layout, level_count=level_count)
        self.gates = projection.gates

    @staticmethod
    def stays_whole(module: Any, layout: Layout) -> bool:
        """Under pattern channel: a channel is a row of every gate, and a column of both halves."""
        return layout.whole_channels

    @property
    def row_parts(self) -> int:
        """The gates."""
        return self.gates


class NestedRecurrence(NestedLayer):
    """A Recurrence with nested weights (G·H, H): NestedLSTM or NestedGRU; no block holds rows of two gates.

    reverse: whether time runs backwards.
    """

    row_step = 16

    def __init__(self, recurrence: Recurrence, *, layout: Layout, level_count: int) -> None:
        super().__init__(recurrence, layout=layout, level_count=level_count)
        self.reverse = recurrence.reverse

    def forward(self, projected: Tensor, *state: Tensor) -> State:
        """(T, N, G·H), the inputs' part of the gates, to the hidden states (T, N, H), at the current level.

        state: before the first step, zeros where it is not given: hidden (N, H) and, of an LSTM, cells (N, H). An LSTM
        returns its last cells (N, H), too.
        """
        weight, bias = self.masked_weight(self.level), self.level_bias()
        return recur(self.op, projected, weight, bias, state, reverse=self.reverse)

    @staticmethod
    def stays_whole(module: Any, layout: Layout) -> bool:
        """As a NestedProjection."""
        return NestedProjection.stays_whole(module, layout)

    @property
    def row_parts(self) -> int:
        """The gates."""
        return LAYER_KINDS[self.op].gates

    def attributes(self) -> dict[str, list[int]]:
        """`reverse`, where it is not the operator's default."""
        return {REVERSE: [1]} if self.reverse else {}

    def output_shape(self, x: Tensor) -> tuple[int, ...]:
        """(T, N, H)."""
        rows, columns = self.values.shape
        if x.dim() != 3 or x.shape[-1] != rows:
            raise ExportError(f"{self.name!r}: expected an input [T, N, {rows}], got {list(x.shape)}")
        return (*x.shape[:-1], columns)

    def positions(self, x: Tensor, most: int, generator: torch.Generator) -> Tensor:
        """(M,) pairs of step and sequence of `x`, (T, N, G·H), as rows of (T·N, G·H)."""
        rows = x.numel() // x.shape[-1]
        return torch.randperm(rows, generator=generator)[:most].sort().values

    def columns(self, x: Tensor, positions: Tensor) -> Tensor:
        """(1, M, H) the hidden states before these steps of sequences that begin with zeros."""
        output = self.forward(x)[0]
        first = torch.zeros_like(output[:1])
        before = torch.cat([output[1:], first] if self.reverse else [first, output[:-1]])
        return before.flatten(0, 1)[positions.to(x.device)][None]


class NestedLSTM(NestedRecurrence):
    """That of an LSTM: gates i, f, g, o."""

    op = "lstm"


class NestedGRU(NestedRecurrence):
    """That of a GRU: gates r, z, n."""

    op = "gru"
