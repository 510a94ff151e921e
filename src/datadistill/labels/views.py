"""Views of examples on a grid (n, channels, height, width): crop, flip and CutMix, all derived from names, so that nothing of them is stored.

A view's draws come from rng(seed, "view", epoch, sample) and are worked out in Python's own floats; applying them does the
same arithmetic to every example whatever stands beside it. So a view is the same bits in every batch, of every size, in every
process.

Difference from torchvision's RandomResizedCrop: a crop has exactly the drawn share of the area and a shape drawn from those
that fit (log-uniform, 3/4 to 4/3 of the example's own shape), where theirs are drawn again until they fit and rounded to pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..rng import rng

VISIBLE = 7  # pixels a side: a crop of fewer shows nothing; 0.08 of an example of 28 x 28 has 8 x 8
DRAWS = 14  # uniform numbers for a view: 5 for its crop and flip, 5 for its partner's, 4 for the mix


@dataclass(frozen=True)
class Drawn:
    """k views. box (k, 4): top, left, height, width as shares of the sides; flip (k,).

    partner (k,)   the example that is mixed in, cropped and flipped by other_box and other_flip
    hole (k, 4)    top, bottom, left, right of its place, in pixels       share (k,)   of the area that is not in the hole
    """

    box: Tensor
    flip: Tensor
    partner: Tensor
    other_box: Tensor
    other_flip: Tensor
    hole: Tensor
    share: Tensor


@dataclass(frozen=True)
class Views:
    """How views are drawn. crop: the least share of the area; flip: whether left and right may change; mix: with another example, or not."""

    seed: int
    crop: float = 0.08
    flip: bool = True
    mix: Literal["cutmix", "none"] = "cutmix"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def draw(self, rows: Tensor, epochs: Tensor, n: int, sides: Sequence[int]) -> Drawn:
        """The views of examples rows (k,), of n, in epochs (k,)."""
        own, other, partner, hole = [], [], [], []
        for row, epoch in zip(rows.tolist(), epochs.tolist(), strict=True):
            u = torch.rand(DRAWS, generator=rng(self.seed, "view", epoch, row), dtype=torch.float64).tolist()
            own.append((*box(u[:4], self.crop), self.flip and u[4] < 0.5))
            other.append((*box(u[5:9], self.crop), self.flip and u[9] < 0.5))
            partner.append(int(u[10] * n))
            hole.append(cut(u[11:], sides) if self.mix == "cutmix" else (0, 0, 0, 0))
        boxes, others, holes = (torch.tensor(t, dtype=torch.float64).view(len(rows), -1) for t in (own, other, hole))
        area = (holes[:, 1] - holes[:, 0]) * (holes[:, 3] - holes[:, 2])
        return Drawn(
            boxes[:, :4].float(), boxes[:, 4] > 0, torch.tensor(partner, dtype=torch.long), others[:, :4].float(), others[:, 4] > 0,
            holes.long(), (1 - area / math.prod(sides)).float(),
        )  # fmt: skip

    def of(self, read: Callable[[Tensor], Tensor], rows: Tensor, epochs: Tensor, n: int) -> Tensor:
        """(k, channels, height, width) those views; read(rows) gives examples as they are."""
        x = read(rows)
        drawn = self.draw(rows, epochs, n, x.shape[2:])
        return show(x, read(drawn.partner) if self.mix != "none" else x, drawn)


def box(u: Sequence[float], least: float) -> tuple[float, float, float, float]:
    """(top, left, height, width) as shares of the sides, from four uniform numbers; its area is uniform from `least` to 1."""
    area = least + (1 - least) * u[0]
    low, high = math.log(max(3 / 4, area)), math.log(min(4 / 3, 1 / area))
    ratio = math.exp(low + (high - low) * u[1])  # width over height
    height, width = min(1.0, math.sqrt(area / ratio)), min(1.0, math.sqrt(area * ratio))
    return u[2] * (1 - height), u[3] * (1 - width), height, width


def visible(least: float, sides: Sequence[int]) -> float:
    """The least share of the area of a crop of an example of these sides, in which at least VISIBLE pixels a side are seen, or all there are."""
    return max(least, math.prod(min(1.0, VISIBLE / side) for side in sides))


def cut(u: Sequence[float], sides: Sequence[int]) -> tuple[int, int, int, int]:
    """CutMix's hole, from three uniform numbers: its area is uniform (Beta(1, 1)), its centre anywhere, what sticks out cut off."""
    edges = []
    for side, at in zip(sides, u[1:], strict=True):
        length, centre = int(side * math.sqrt(u[0])), int(at * side)
        edges += [max(0, centre - length // 2), min(side, centre + length // 2)]
    return edges[0], edges[1], edges[2], edges[3]


def look(x: Tensor, boxes: Tensor, flip: Tensor, *, size: Sequence[int] | None = None, roll: Tensor | None = None) -> Tensor:
    """(k, channels, *size) x (k, channels, height, width) cropped to its boxes (k, 4), flipped, then rolled by (k, 2) pixels: bilinear, in one go,
    each example by itself; differentiable in x.
    """
    height, width = size or x.shape[2:]
    boxes, rows, cols = boxes.to(x), *(torch.arange(side, device=x.device).expand(len(x), side) for side in (height, width))
    if roll is not None:
        roll = roll.to(x.device)
        rows, cols = (rows - roll[:, :1]) % height, (cols - roll[:, 1:]) % width
    cols = torch.where(flip.to(x.device)[:, None], width - 1 - cols, cols)
    ys = boxes[:, 0:1] + boxes[:, 2:3] * ((rows.to(x) + 0.5) / height)
    xs = boxes[:, 1:2] + boxes[:, 3:4] * ((cols.to(x) + 0.5) / width)
    shape = (len(x), height, width)
    grid = torch.stack([(2 * xs - 1)[:, None, :].expand(shape), (2 * ys - 1)[:, :, None].expand(shape)], -1)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def show(x: Tensor, other: Tensor, drawn: Drawn) -> Tensor:
    """The views of x (k, channels, height, width), whose partners are `other`."""
    own = look(x, drawn.box, drawn.flip)
    if not bool((drawn.share < 1).any()):
        return own
    top, bottom, left, right = (edge[:, None].to(x.device) for edge in drawn.hole.unbind(1))
    rows, cols = (torch.arange(side, device=x.device) for side in x.shape[2:])
    inside = ((rows >= top) & (rows < bottom))[:, :, None] & ((cols >= left) & (cols < right))[:, None, :]
    return torch.where(inside[:, None], look(other, drawn.other_box, drawn.other_flip), own)
