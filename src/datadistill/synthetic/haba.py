"""Examples as bases seen by hallucinators that all classes share (HaBa: Liu et al., "Dataset Distillation via Factorization", NeurIPS 2022)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Self, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.task import Task
from ..errors import UsageError
from ..modalities import Modality
from .form import Form, Start, beginnings, eight_bits, from_eight_bits, sixteen_bits, steepness

PARTS = ("bases", "maps", "convolutions")


@final
class HaBa(Form):
    """n items are n bases; `each` hallucinators make as many examples of each:   x_ij = Dec_j(sigma_j * Enc_j(base_i) + mu_j)

    Enc_j and Dec_j are 3 x 3 convolutions, sigma_j and mu_j have the shape of a base. What is stored: an 8-bit code for every number of bases,
    sigma and mu, a scale for each of them, and the convolutions in 16 bits. So that all of it weighs no more than n items of pixels,
    everything happens on a coarser grid, the finest that fits, and what comes out is enlarged.
    Differences from the authors' code: the grid, 8 bits, and hallucinators counted against the budget; no activation, so that a
    hallucinator can begin near the identity; no adversarial and contrastive losses, which belong to a method; parameters are not
    clamped, only what comes out of them when it is stored.
    """

    name: ClassVar = "haba"
    needs: ClassVar = frozenset({"grid"})
    default: ClassVar = 5

    def __init__(self, bases: Tensor, maps: Tensor, convolutions: Tensor, modality: Modality, gains: Tensor | None = None):
        """bases (n, C, h, w); maps (each, 2, C, h, w): sigma and mu; convolutions (each, 2, C, C * 9 + 1): Enc and Dec, the bias last"""
        super().__init__()
        self.modality, self.settings = modality, len(maps)
        self.register_buffer("gains", torch.ones(len(PARTS)) if gains is None else gains)
        for name, part, gain in zip(PARTS, (bases, maps, convolutions), self.gains, strict=True):
            setattr(self, name, nn.Parameter(part * gain))  # see `steepness`

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """bases, maps and convolutions, as they are meant"""
        return tuple(getattr(self, name) / gain for name, gain in zip(PARTS, self.gains, strict=True))

    @classmethod
    def gives(cls, settings: int) -> int:
        return settings

    @classmethod
    def start(cls, task: Task, how: Start, rng: torch.Generator, settings: int) -> Self:
        n, spec = int(task.quota.sum()), task.spec
        grid = finest(n, settings, *spec.shape)
        x = beginnings(task, how, rng)
        channels = spec.shape[0]
        identity = torch.zeros(channels, channels * 9 + 1)
        identity[torch.arange(channels), torch.arange(channels) * 9 + 4] = 1.0
        apart = lambda *shape: 0.05 * torch.randn(shape, generator=rng)  # noqa: E731  hallucinators that were the same would stay the same
        maps = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1, 1) + apart(settings, 2, channels, *grid)
        parts = [F.interpolate(x, grid, mode="area"), maps, identity + apart(settings, 2, *identity.shape)]
        few = [parts[0][:8], *parts[1:]]
        gains = [steepness(lambda p, k=k: render(*few[:k], p, *few[k + 1 :], spec.shape[1:]), few[k], rng) for k in range(len(PARTS))]
        return cls(*parts, task.modality, torch.stack(gains))

    def forward(self, items: Tensor | None = None) -> Tensor:
        bases, maps, convolutions = self.parts
        return render(bases if items is None else bases[items.to(bases.device)], maps, convolutions, self.modality.spec.shape[1:])

    def clamp_(self) -> None:
        """Any numbers are legal."""

    def pack(self) -> dict[str, Tensor]:
        bases, maps, convolutions = (part.detach().cpu().float() for part in self.parts)
        kept = {"convolutions": sixteen_bits(convolutions)}
        for name, part in (("bases", bases), ("maps", maps.flatten(0, 1))):
            codes, kept[name + "_scale"] = eight_bits(part.flatten(1))
            kept[name] = codes.view(part.shape)
        return kept

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor], modality: Modality, settings: int) -> Self:
        channels, *sides = modality.spec.shape
        bases, maps, convolutions = (tensors[name] for name in PARTS)
        grid = tuple(bases.shape[2:])
        if bases.ndim != 4 or bases.shape[1] != channels or not all(1 <= g <= side for g, side in zip(grid, sides, strict=True)):
            raise ValueError(f"bases {tuple(bases.shape)} of examples {modality.spec.shape}")
        if maps.shape != (2 * settings, channels, *grid) or convolutions.shape != (settings, 2, channels, channels * 9 + 1) or convolutions.dtype != torch.float16:
            raise ValueError(f"{settings} hallucinators of maps {tuple(maps.shape)} and convolutions {tuple(convolutions.shape)} {convolutions.dtype}")
        if not torch.isfinite(convolutions).all():
            raise ValueError("convolutions that are not finite")
        bases, maps = (from_eight_bits(t.flatten(1), tensors[name + "_scale"]).view(t.shape) for name, t in (("bases", bases), ("maps", maps)))
        return cls(bases, maps.unflatten(0, (settings, 2)), convolutions.float(), modality)


def render(bases: Tensor, maps: Tensor, convolutions: Tensor, sides: tuple[int, ...]) -> Tensor:
    """(n * each, C, *sides): all hallucinators on the first base, on the second, and so on."""
    each, _, channels = maps.shape[:3]
    enc, dec = (convolutions[:, k].reshape(each * channels, -1) for k in (0, 1))
    seen = F.conv2d(bases, enc[:, :-1].view(-1, channels, 3, 3), enc[:, -1], padding=1)
    seen = maps[:, 0].flatten(0, 1) * seen + maps[:, 1].flatten(0, 1)
    out = F.conv2d(seen, dec[:, :-1].view(-1, channels, 3, 3), dec[:, -1], padding=1, groups=each)
    return F.interpolate(out.unflatten(1, (each, channels)).flatten(0, 1), sides, mode="bilinear", align_corners=False)


def finest(n: int, each: int, channels: int, height: int, width: int) -> tuple[int, int]:
    """(h, w) of the finest grid on which n bases and their hallucinators weigh at most what n items of pixels do."""

    def weight(h: int, w: int) -> int:
        return (n + 2 * each) * (channels * h * w + 2) + 2 * 2 * each * channels * (channels * 9 + 1)

    for h in range(height, 0, -1):
        grid = h, max(1, math.floor(width * h / height))
        if weight(*grid) <= n * channels * height * width:
            return grid
    raise UsageError(f"form haba:{each} for {n} items of {(channels, height, width)}", "hallucinators that weigh less than the items do", "fewer of them, or more items")
