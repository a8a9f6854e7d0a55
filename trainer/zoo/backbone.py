"""Backbone: the residual stages that the detectors stand on."""

from __future__ import annotations

from torch import Tensor, nn

from .residual import ResidualBlock


class Backbone(nn.Module):
    """A stem and three residual stages, to maps of an image at a quarter and an eighth of its height and width.

    width: channels of the first stage; the others have 2 and 4 times as many. size: height and width of an image in
    pixels.
    """

    def __init__(self, channels: int, width: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.stem = nn.Conv2d(channels, width, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.stage1 = ResidualBlock(width, width)
        self.stage2 = ResidualBlock(width, 2 * width, 2)
        self.stage3 = ResidualBlock(2 * width, 4 * width, 2)

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, channels, size, size) to (N, 2 width, size/4, size/4) and (N, 4 width, size/8, size/8).

        Raises ValueError for images of another size.
        """
        if x.shape[2:] != (self.size, self.size):
            raise ValueError(
                f"{type(self).__name__}: expected images of {self.size} × {self.size} pixels, got "
                f"{tuple(x.shape[2:])}; set [model] size to theirs"
            )
        fine = self.stage2(self.stage1(self.relu(self.bn(self.stem(x)))))
        return fine, self.stage3(fine)
