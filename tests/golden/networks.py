"""Networks: those of the golden files. make.py gives them exact weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Images(nn.Module):
    """Strided, grouped, depthwise, dilated convolutions, a residual sum, two kinds of pooling, a norm on its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.BatchNorm2d(2, eps=0.0)
        self.stem, self.stem_norm = nn.Conv2d(2, width, 3, padding=1, bias=False), nn.BatchNorm2d(width, eps=0.0)
        self.depth, self.depth_norm = (
            nn.Conv2d(width, width, 3, padding=1, groups=width),
            nn.BatchNorm2d(width, eps=0.0),
        )
        self.point, self.point_norm = nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width, eps=0.0)
        self.group = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, groups=2)
        self.line = nn.Conv2d(2 * width, width, (1, 3), padding=(0, 2), dilation=(1, 2))
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem_norm(self.stem(self.scale(x))))
        x = F.max_pool2d(x, 3, 2, 1)
        kept = x
        x = F.relu(self.depth_norm(self.depth(x)))
        x = F.relu6(self.point_norm(self.point(x)) + kept)
        x = F.relu6(self.line(F.relu6(self.group(x))))
        return self.head(x.mean((2, 3)))


class Vectors(nn.Module):
    """Linear layers alone."""

    def __init__(self, tiny: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(24, 33), nn.Linear(33, 40), nn.Linear(40, 6)
        self.tiny = tiny

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.second(F.relu6(self.first(x)))))


class Lines(nn.Module):
    """Conv1d, two inputs, two outputs, a weight read past its layer, a norm of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.wide_norm = nn.Conv1d(3, 12, 5, stride=2, padding=2, bias=False), nn.BatchNorm1d(12, eps=0.0)
        self.group, self.own = nn.Conv1d(12, 12, 3, padding=1, groups=3), Affine(12)
        self.embed = nn.Linear(12, 10)

    def forward(self, signal: Tensor, offset: Tensor) -> dict[str, Tensor]:
        x = F.relu6(self.wide_norm(self.wide(signal)))
        x = F.relu6(self.own(self.group(x)))
        hidden = self.embed(x.mean(2)) + offset
        return {"hidden": hidden, "again": F.linear(x.amax(2), self.embed.weight) + 2.0**-12}


class Affine(nn.BatchNorm1d):
    """A norm of the user's own: no statistics, only what is learnt, for each level."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[None, :, None] + self.bias[None, :, None]


class Wide(nn.Module):
    """More than 65536 columns, hence indices of four bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(65540, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


class Joined(nn.Module):
    """Each row depends on the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(16, 18), nn.Linear(18, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        return self.head(x - x.mean(0, keepdim=True))


class Volumes(nn.Module):
    """A norm in front, a convolution over volumes, and a transposed one."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.stem = nn.BatchNorm3d(2, eps=0.0), nn.Conv3d(2, 8, 3, stride=(1, 2, 1), padding=1)
        self.norm, self.point = nn.BatchNorm3d(8, eps=0.0), nn.Conv3d(8, 12, 1, bias=False)
        self.up = nn.ConvTranspose3d(12, 6, (2, 3, 2), stride=2, padding=(0, 1, 0), output_padding=(0, 1, 0))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(F.relu6(self.scale(x)))
        x = self.point(F.relu6(self.norm(stem))) + torch.cat([stem, stem[:, :4]], dim=1)
        return self.head(F.relu6(self.up(F.relu6(x))).amax((2, 3, 4)))


class Steps(nn.Module):
    """A step of a state that the caller, or the server, keeps; signals of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv1d(3, 12, 5, padding=2)
        self.of_input, self.of_state, self.head = nn.Linear(12, 10), nn.Linear(10, 10, bias=False), nn.Linear(10, 4)

    def forward(self, signal: Tensor, state: Tensor) -> dict[str, Tensor]:
        x = F.relu6(self.wide(signal)).amax(2)
        state = F.hardtanh(self.of_input(x) + self.of_state(state[0]), 1.0, 6.0)
        return {"answer": self.head(state), "next": state[None]}


class Recurrent(nn.Module):
    """LSTM and GRU, and functions of outputs: answers are near, not equal."""

    rounds = True

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LSTM(6, 8, batch_first=True), nn.GRU(8, 8, batch_first=True, bidirectional=True)
        self.wide, self.head = nn.Linear(16, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x)[0])[0]
        return self.head(F.hardswish(self.head_of(x[:, -1])))

    def head_of(self, x: Tensor) -> Tensor:
        return F.silu(self.wide(x))


class Normed(nn.Module):
    """Norms of inputs: one of two layers, one without shift and with an epsilon of its own; rows are many and few."""

    rounds = True

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.other = nn.LayerNorm(24), nn.LayerNorm(33, eps=0.25, bias=False)
        self.first, self.second, self.head = nn.Linear(24, 33), nn.Linear(24, 33), nn.Linear(33, 6)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.norm(x)
        y = self.other(F.relu(self.first(x)) + self.second(x))
        return {"many": self.head(y), "few": self.head(self.other(y.sum(1)))}


class Attention(nn.Module):
    """Attention of every kind of view: causal of one packed projection; of two heads' keys and values, with a mask."""

    rounds = True

    def __init__(self) -> None:
        super().__init__()
        self.packed, self.query, self.both = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(6, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor, others: Tensor, there: Tensor) -> Tensor:
        query, key, value = self.packed(x).unflatten(-1, (3, 4, 2)).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2)
        query = self.query(x).unflatten(-1, (4, 2)).transpose(1, 2)
        key, value = (each.unflatten(-1, (2, 2)).transpose(1, 2) for each in self.both(others).chunk(2, -1))
        seen = (there > 0)[:, None, None]
        mixed = F.scaled_dot_product_attention(query, key, value, seen, scale=0.5, enable_gqa=True)
        return self.head(mixed.transpose(1, 2).flatten(2))
