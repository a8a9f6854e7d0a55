"""GAT: a graph attention network on a dense adjacency (arXiv:1710.10903)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GraphAttention(nn.Module):
    """GAT's layer on a dense adjacency: each node's mean of its neighbours, by weights from both nodes."""

    def __init__(self, inputs: int, outputs: int, heads: int) -> None:
        super().__init__()
        self.heads, self.outputs = heads, outputs
        self.project = nn.Linear(inputs, heads * outputs, bias=False)
        self.sender, self.receiver = (nn.Parameter(0.1 * torch.randn(heads, outputs)) for _ in range(2))

    def forward(self, x: Tensor, closed: Tensor) -> Tensor:
        """x (N, nodes, inputs), closed (N, nodes, nodes): -1e9 where no edge is; to (N, nodes, heads × outputs)."""
        states = self.project(x).unflatten(2, (self.heads, self.outputs)).transpose(1, 2)
        to, by = ((states * each[:, None]).sum(-1) for each in (self.receiver, self.sender))
        scores = F.leaky_relu(to[..., :, None] + by[..., None, :], 0.2) + closed[:, None]
        mixed: Tensor = torch.softmax(scores, -1) @ states
        return mixed.transpose(1, 2).flatten(2)


class GAT(nn.Module):
    """Two layers of graph attention.

    width: values of each head of the first layer; the paper has 8 heads of 8 for Cora. dropout: on both layers' inputs.
    """

    def __init__(
        self, *, features: int = 1433, width: int = 64, heads: int = 8, classes: int = 7, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.first = GraphAttention(features, width, heads)
        self.second = GraphAttention(heads * width, classes, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """x (N, nodes, features), adjacency (N, nodes, nodes) of 0 and 1, to logits (N, nodes, classes)."""
        closed = (1.0 - adjacency) * -1e9
        hidden = F.elu(self.first(self.dropout(x), closed))
        y: Tensor = self.second(self.dropout(hidden), closed)
        return y
