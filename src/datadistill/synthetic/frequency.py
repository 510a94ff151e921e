"""Examples by their cosine coefficients, of which only those are kept that tell examples of T apart (FreD, Shin et al., NeurIPS 2023)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Self, final

import torch
from torch import Tensor, nn

from ..data.task import Task
from ..modalities import Modality
from .form import Form, Start, beginnings, eight_bits, from_eight_bits

SAMPLE = 2000  # examples of T that choose the coefficients


@final
class Frequency(Form):
    """`each` examples per item, each by one in `each` of the coefficients of the orthonormal DCT-II over its last two axes.

    The coefficients kept are those of the largest variance over T, the same for every example; the others are zero. What is
    stored: an 8-bit code for every coefficient, a scale for every frequency, and one bit for each that says whether it is kept.
    Differences from the authors' code: one choice of frequencies for all classes; 8 bits in place of 32, so that an item has as
    many bytes as one of pixels; parameters are not clamped, only what comes out of them when it is stored.
    """

    name: ClassVar = "frequency"
    needs: ClassVar = frozenset({"grid"})
    default: ClassVar = 4

    def __init__(self, coefficients: Tensor, kept: Tensor, modality: Modality, each: int):
        """coefficients (n * each, k); kept (C*H*W,) bool, of which k are true"""
        super().__init__()
        self.x = nn.Parameter(coefficients)
        self.register_buffer("kept", kept)
        self.modality, self.settings = modality, each

    @classmethod
    def gives(cls, settings: int) -> int:
        return settings

    @classmethod
    def start(cls, task: Task, how: Start, rng: torch.Generator, settings: int) -> Self:
        x = beginnings(task, how, rng, settings)
        some = torch.randperm(len(task.train), generator=rng)[:SAMPLE]
        spread = dct(task.train.read(some)).flatten(1).var(0, correction=0)
        kept = torch.zeros(len(spread), dtype=torch.bool)
        kept[spread.argsort(descending=True, stable=True)[: max(1, len(spread) // settings)]] = True
        return cls(dct(x).flatten(1)[:, kept], kept, task.modality, settings)

    def forward(self, items: Tensor | None = None) -> Tensor:
        x = self.of(items, self.x)
        whole = x.new_zeros(len(x), len(self.kept)).index_copy(1, self.kept.nonzero().squeeze(1), x)
        return dct(whole.unflatten(1, self.modality.spec.shape), inverse=True)

    def clamp_(self) -> None:
        """Any coefficients are legal."""

    def pack(self) -> dict[str, Tensor]:
        codes, scale = eight_bits(self.x.data.cpu().float().T)
        return {"codes": codes.T.contiguous(), "scale": scale, "kept": to_bits(self.kept.cpu())}

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor], modality: Modality, settings: int) -> Self:
        codes, kept = tensors["codes"], from_bits(tensors["kept"], math.prod(modality.spec.shape))
        if codes.ndim != 2 or int(kept.sum()) != codes.shape[1] or len(codes) % settings:
            raise ValueError(f"codes {tuple(codes.shape)} for {int(kept.sum())} coefficients")
        return cls(from_eight_bits(codes.T, tensors["scale"]).T.contiguous(), kept, modality, settings)


def dct(x: Tensor, inverse: bool = False) -> Tensor:
    """The orthonormal DCT-II (or its inverse, the transpose) of the last two axes of x."""
    rows, columns = (_cosines(side).to(x) for side in x.shape[-2:])
    return rows.T @ x @ columns if inverse else rows @ x @ columns.T


def _cosines(n: int) -> Tensor:
    """(n, n): row k is the k-th cosine, of length one."""
    at, k = torch.arange(n, dtype=torch.float64), torch.arange(n, dtype=torch.float64)[:, None]
    waves = torch.cos(math.pi * (at + 0.5) * k / n) * math.sqrt(2 / n)
    waves[0] /= math.sqrt(2)
    return waves


BITS = 2 ** torch.arange(8)


def to_bits(flags: Tensor) -> Tensor:
    """(ceil(n / 8),) uint8 of flags (n,) bool."""
    padded = torch.cat([flags, flags.new_zeros(-len(flags) % 8)]).view(-1, 8)
    return (padded * BITS).sum(1).to(torch.uint8)


def from_bits(bits: Tensor, n: int) -> Tensor:
    """(n,) bool. Raises ValueError for what `to_bits` cannot have written."""
    if bits.dtype != torch.uint8 or bits.shape != (-(-n // 8),):
        raise ValueError(f"{n} flags in {tuple(bits.shape)} {bits.dtype}")
    flags = (bits.long()[:, None] & BITS).bool().flatten()
    if flags[n:].any():
        raise ValueError("flags beyond the last")
    return flags[:n]
