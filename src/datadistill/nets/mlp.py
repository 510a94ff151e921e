"""Nets that see an example as one vector: MLP (no norm), a linear model, and a residual MLP with batch norm for rows."""

from __future__ import annotations

import math
from typing import ClassVar, final

from torch import Tensor, nn

from .base import Net


@final
class MLP(Net):
    """Two hidden layers with ReLU and no norm, as the field's MLP."""

    family: ClassVar = "mlp"
    axes: ClassVar = (1, 2, 3, 4)

    def __init__(self, shape: tuple[int, ...], classes: int, width: int = 128, depth: int = 2):
        super().__init__()
        layers: list[nn.Module] = []
        features = math.prod(shape)
        for _ in range(depth):
            layers += [nn.Linear(features, width), nn.ReLU()]
            features = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(features, classes)

    def embed(self, x: Tensor) -> Tensor:
        return self.features(x.flatten(1))


@final
class Linear(Net):
    """Multinomial logistic regression."""

    family: ClassVar = "linear"
    axes: ClassVar = (1, 2, 3, 4)

    def __init__(self, shape: tuple[int, ...], classes: int):
        super().__init__()
        self.head = nn.Linear(math.prod(shape), classes)

    def embed(self, x: Tensor) -> Tensor:
        return x.flatten(1)


@final
class TabResNet(Net):
    """Residual MLP for rows (Gorishniy et al., NeurIPS 2021, "ResNet"), without dropout."""

    family: ClassVar = "tabresnet"
    axes: ClassVar = (1,)
    batch_norm: ClassVar = True

    def __init__(self, shape: tuple[int, ...], classes: int, width: int = 128, blocks: int = 2):
        super().__init__()
        self.stem = nn.Linear(shape[0], width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)) for _ in range(blocks)
        )
        self.last = nn.Sequential(nn.BatchNorm1d(width), nn.ReLU())
        self.head = nn.Linear(width, classes)

    def embed(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for block in self.blocks:
            h = h + block(h)
        return self.last(h)
