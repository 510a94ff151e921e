"""ConvNet: the net of the field (Gidaris & Komodakis 2018, as used by DC and all after it).

depth x [conv 3x3 -> instance norm (affine) -> ReLU -> average pool 2], then a linear head; 3 blocks of width 128 have
320,010 parameters for 10 classes of 3x32x32. Sides that depth halvings do not divide are padded by the first convolution,
as the authors do for 28x28.
"""

from __future__ import annotations

import math
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import ChannelsLast, Net
from .pool import Halve


class InstanceNorm(nn.GroupNorm):
    """A group for each channel. On a GPU, what convolutions computed in bfloat16 and nobody differentiates stays so; the moments are float32."""

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cuda or x.dtype != torch.bfloat16 or torch.is_grad_enabled():
            return super().forward(x)
        with torch.autocast("cuda", enabled=False):
            return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


@final
class ConvNet(Net):
    """The net of the field; see the top of this file."""

    family: ClassVar = "convnet"
    axes: ClassVar = (3,)

    def __init__(self, shape: tuple[int, ...], classes: int, width: int = 128, depth: int | None = None):
        super().__init__()
        channels, *sides = shape
        depth = depth or max(2, round(math.log2(min(sides))) - 2)
        extra = [(-side % 2**depth + (side < 2**depth)) // 2 for side in sides]  # of a side that is shorter, something must be left
        blocks: list[nn.Module] = []
        for k in range(depth):
            padding = (1 + extra[0], 1 + extra[1]) if k == 0 else 1
            blocks += [nn.Conv2d(channels, width, 3, padding=padding), InstanceNorm(width, width), nn.ReLU(inplace=True), Halve()]
            channels = width
            sides = [(side + 2 * (extra[a] if k == 0 else 0)) // 2 for a, side in enumerate(sides)]
        self.features = nn.Sequential(*blocks)
        self.head = nn.Linear(width * sides[0] * sides[1], classes)

    def embed(self, x: Tensor) -> Tensor:
        return self.features(x).flatten(1)


@final
class VGG(Net):
    """VGG-11 (Simonyan & Zisserman 2015) with batch norm, its pools left out once the picture is one pixel wide."""

    family: ClassVar = "vgg"
    axes: ClassVar = (3,)
    batch_norm: ClassVar = True

    def __init__(self, shape: tuple[int, ...], classes: int, width: int = 64):
        super().__init__()
        channels, *sides = shape
        side = min(sides)
        blocks: list[nn.Module] = [ChannelsLast()]
        for step in (1, "pool", 2, "pool", 4, 4, "pool", 8, 8, "pool", 8, 8, "pool"):
            if step == "pool":
                if side >= 2:
                    blocks.append(nn.MaxPool2d(2))
                    side //= 2
            else:
                blocks += [nn.Conv2d(channels, width * step, 3, padding=1, bias=False), nn.BatchNorm2d(width * step), nn.ReLU(inplace=True)]
                channels = width * step
        self.features = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, classes)

    def embed(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(self.features(x), 1).flatten(1)
