"""Jasper: a scaled-down network of 1-D convolutions over the frames of a spectrogram (arXiv:1904.03288)."""

from __future__ import annotations

from torch import Tensor, nn

BLOCK_KERNELS = (11, 13, 17)
"""Taps of the convolutions in each block; they increase towards the output, as in the paper."""


class JasperBlock(nn.Module):
    """`repeat` times convolution, norm, ReLU, dropout; the block's input is added before the last ReLU.

    The input goes through a 1 × 1 convolution and a norm first, as in Jasper B×R. The number of frames stays the same.
    """

    def __init__(self, channels: int, taps: int, repeat: int, dropout: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv1d(channels, channels, taps, padding=taps // 2, bias=False) for _ in range(repeat)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(channels) for _ in range(repeat))
        self.residual = nn.Sequential(nn.Conv1d(channels, channels, 1, bias=False), nn.BatchNorm1d(channels))
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, T) to (N, channels, T)."""
        shortcut = self.residual(x)
        for conv, norm in zip(self.convs[:-1], self.norms[:-1], strict=True):
            x = self.dropout(self.relu(norm(conv(x))))
        joined: Tensor = self.dropout(self.relu(self.norms[-1](self.convs[-1](x)) + shortcut))
        return joined


class Jasper(nn.Module):
    """A Jasper-like classifier of short clips: a strided convolution, three residual blocks, two convolutions, a mean.

    width: channels of the blocks; the layers after them have twice as many. mels: bands of the spectrogram.
    repeat: convolutions of a block. At width 64: 0.55 million weights and 57 MFLOP for 100 frames (a multiply-add
    counts as 2).
    """

    def __init__(
        self, *, width: int = 64, mels: int = 40, classes: int = 10, repeat: int = 2, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.prologue = _unit(mels, width, 11, stride=2)
        self.blocks = nn.Sequential(*(JasperBlock(width, taps, repeat, dropout) for taps in BLOCK_KERNELS))
        self.epilogue = nn.Sequential(_unit(width, 2 * width, 19, dilation=2), _unit(2 * width, 2 * width, 1))
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(2 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(N, mels, T) to logits (N, classes), for any T."""
        x = self.epilogue(self.blocks(self.prologue(x)))
        logits: Tensor = self.fc(self.dropout(x.mean(dim=2)))
        return logits


def _unit(inputs: int, outputs: int, taps: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution, norm, ReLU; the padding keeps frame t at frame t / stride."""
    padding = dilation * (taps // 2)
    conv = nn.Conv1d(inputs, outputs, taps, stride, padding, dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm1d(outputs), nn.ReLU())
