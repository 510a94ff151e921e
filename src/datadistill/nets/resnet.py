"""ResNet (He et al. 2016) for small pictures: a 3x3 stem of stride 1, no first pool, batch norm.

`resnet` is narrow and shallow, for a CPU; `resnet18` is that of the field: width 64, two blocks in each of four stages.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch.nn.functional as F
from torch import Tensor, nn

from .base import ChannelsLast, Net


class Around(nn.Conv2d):
    """A 1x1 convolution of every `stride`-th position.

    With fewer than 16 channels the positions are picked first: the gradient of oneDNN's own stride (uxlfoundation/oneDNN#6035) then writes past its
    workspace, which ends the process at 64 x 64 positions.
    """

    def forward(self, x: Tensor) -> Tensor:
        down, across = self.stride
        return F.conv2d(x[:, :, ::down, ::across], self.weight) if self.in_channels < 16 else super().forward(x)


class Block(nn.Module):
    """Two convolutions and the way around them."""

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        same = stride == 1 and channels == width
        self.shortcut = nn.Identity() if same else nn.Sequential(Around(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu_(self.norm1(self.conv1(x)))
        return F.relu_(self.norm2(self.conv2(h)) + self.shortcut(x))


class Residual(Net):
    """A residual net; see the top of this file."""

    axes: ClassVar = (3,)
    batch_norm: ClassVar = True

    def __init__(self, shape: tuple[int, ...], classes: int, width: int = 16, blocks: tuple[int, ...] = (1, 1, 1)):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(shape[0], width, 3, 1, 1, bias=False), ChannelsLast(), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        channels = width
        for stage, count in enumerate(blocks):
            for k in range(count):
                layers.append(Block(channels, width * 2**stage, 2 if stage and k == 0 else 1))
                channels = width * 2**stage
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, classes)

    def embed(self, x: Tensor) -> Tensor:
        return self.features(x).mean((2, 3))


@final
class ResNet(Residual):
    """The narrow one."""

    family: ClassVar = "resnet"


@final
class ResNet18(Residual):
    """ResNet-18 for small pictures."""

    family: ClassVar = "resnet18"

    def __init__(self, shape: tuple[int, ...], classes: int, width: int = 64, blocks: tuple[int, ...] = (2, 2, 2, 2)):
        super().__init__(shape, classes, width, blocks)
