"""Examples as mixtures of a few bases that all classes share (Deng & Russakovsky, "Remember the Past", NeurIPS 2022)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Self, final

import torch
from torch import Tensor, nn

from ..data.task import Task
from ..modalities import Modality
from .form import Form, Start, beginnings, eight_bits, from_eight_bits, sixteen_bits


@final
class Basis(Form):
    """n items are n bases B (n, C*H*W); the examples of item i are rows of A B, with A (n * each, n) the addressing matrix.

    Any example may draw on any basis; an item's class is that of the examples it gives. What is stored: an 8-bit code for every
    number of B, with a scale for each basis, and A in 16 bits, which for large n weighs more than the bases.
    Differences from the authors' code: the start is the best approximation of real examples (or noise) by n bases, where theirs is
    noise; A is not reduced in size; parameters are not clamped, only what comes out of them when it is stored.
    """

    name: ClassVar = "basis"
    needs: ClassVar = frozenset({"continuous"})
    default: ClassVar = 4

    def __init__(self, bases: Tensor, address: Tensor, modality: Modality, each: int):
        super().__init__()
        gain = (bases.square().sum() / len(bases)).sqrt().clamp(min=1e-6)
        self.x, self.scaled = nn.Parameter(bases), nn.Parameter(address * gain)  # a step in B and one in gain A move examples alike
        self.register_buffer("gain", gain)
        self.modality, self.settings = modality, each

    @property
    def address(self) -> Tensor:
        """A (n * each, n)"""
        return self.scaled / self.gain

    @classmethod
    def gives(cls, settings: int) -> int:
        return settings

    @classmethod
    def start(cls, task: Task, how: Start, rng: torch.Generator, settings: int) -> Self:
        n = int(task.quota.sum())
        x = beginnings(task, how, rng, settings)
        left, size, right = torch.linalg.svd(x.flatten(1).double(), full_matrices=False)
        rank = min(n, len(size))
        bases, address = torch.zeros(n, right.shape[1]), torch.zeros(len(x), n)
        root = math.sqrt(len(x) / n)  # rows of A have length one on average, so that a step moves examples as one on pixels does
        bases[:rank] = (size[:rank, None] * right[:rank] / root).float()
        address[:, :rank] = (left[:, :rank] * root).float()
        return cls(bases, address, task.modality, settings)

    def forward(self, items: Tensor | None = None) -> Tensor:
        address = self.of(items, self.address)
        return (address @ self.x).unflatten(1, self.modality.spec.shape)

    def clamp_(self) -> None:
        """Any numbers are legal."""

    def pack(self) -> dict[str, Tensor]:
        codes, scale = eight_bits(self.x.data.cpu().float())
        return {"codes": codes, "scale": scale, "address": sixteen_bits(self.address.detach().cpu())}

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor], modality: Modality, settings: int) -> Self:
        bases, address = from_eight_bits(tensors["codes"], tensors["scale"]), tensors["address"]
        if bases.shape[1] != math.prod(modality.spec.shape) or address.shape != (len(bases) * settings, len(bases)) or address.dtype != torch.float16:
            raise ValueError(f"{tuple(bases.shape)} bases addressed by {tuple(address.shape)} {address.dtype}")
        if not torch.isfinite(address).all():
            raise ValueError("addresses that are not finite")
        return cls(bases, address.float(), modality, settings)
