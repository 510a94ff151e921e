"""Pieces of real examples that a teacher is sure of, or undecided about: RDED's items, and where other methods begin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import nets
from ..data.task import Real
from ..labels.views import box, look, visible
from ..memory import Pieces
from ..run import Run

CHUNK = 64  # examples cropped and scored together


@dataclass(frozen=True)
class Patches:
    """Of each class `candidates` random real examples, `crops` random crops of each, resized to 1/factor of the sides; scored by the
    teacher's cross-entropy when padded with zeros to the full size; factor^2 of them make an item.

    least    the least share of the area of a crop, which has 7 x 7 pixels at least; 1: whole examples          factor   none: 1 for sides up to 64, else 2
    keep     "surest": each example's best crop, the best first; "median": its best crop, those nearest the median first
    """

    candidates: int = 300
    crops: int = 5
    least: float = 0.08
    factor: int | None = None
    keep: Literal["surest", "median"] = "surest"

    def side(self, shape: tuple[int, ...]) -> int:
        """The factor for examples of this shape."""
        return self.factor or (1 if max(shape[1:]) <= 64 else 2)

    def items(self, real: Real, phi: nets.Net, c: int, n: int, run: Run) -> Tensor:
        """(n, *shape) mosaics of class c, on the CPU; item j is of patches j, j + n, ..., row by row."""
        cropped, (rows, which), _ = self._chosen(real, phi, c, n, run)
        patches = torch.cat([cropped(*part) for part in zip(rows.split(CHUNK), which.split(CHUNK), strict=True)]).cpu()
        return mosaic(patches, n, self.side(real.modality.spec.shape), real.modality.spec.shape)

    def sources(self, real: Real, phi: nets.Net, c: int, n: int, run: Run) -> Tensor:
        """(n, factor^2) the real examples that the patches of each of these items come from: whole ones, with crops=1, least=1, factor=1."""
        _, (rows, _), examples = self._chosen(real, phi, c, n, run)
        return examples[rows].view(-1, n).T

    def _chosen(self, real: Real, phi: nets.Net, c: int, n: int, run: Run) -> tuple[Callable[[Tensor, Tensor], Tensor], tuple[Tensor, Tensor], Tensor]:
        """(what crops, (example, crop) of each patch, the examples)."""
        shape, f = real.modality.spec.shape, self.side(real.modality.spec.shape)
        examples = real.pick(c, max(self.candidates, n * f * f), run.rng("candidates", c))
        u = torch.rand((len(examples), self.crops, 4), generator=run.rng("crops", c), dtype=torch.float64)
        least = visible(self.least, shape[1:])
        boxes = torch.tensor([box(own, least) for own in u.flatten(0, 1).tolist()]).float().view(len(examples), self.crops, 4)

        def cropped(rows: Tensor, which: Tensor) -> Tensor:
            """Crops `which` (k,) of examples[rows] (k,), at 1/f of the sides."""
            whole = look(real.read(examples[rows], run.device), boxes[rows, which], torch.zeros(len(rows), dtype=torch.bool))
            return shrunk(whole, f)

        @torch.no_grad()
        def doubt(piece: slice) -> Tensor:
            """(k, crops) the teacher's cross-entropy."""
            rows = torch.arange(len(examples))[piece]
            logits = phi(padded(cropped(rows.repeat_interleave(self.crops), torch.arange(self.crops).repeat(len(rows))), shape[1:]))
            return F.cross_entropy(logits.float(), torch.full((len(logits),), c, device=logits.device), reduction="none").view(-1, self.crops).cpu()

        doubts = torch.cat(Pieces(CHUNK, "chunk of crops", run.notes).map(len(examples), doubt))
        return cropped, ranked(doubts, n * f * f, self.keep), examples


def ranked(doubts: Tensor, wanted: int, keep: Literal["surest", "median"]) -> tuple[Tensor, Tensor]:
    """(example, crop), each (wanted,), of doubts (n, crops): every example's best crop first, in the order that `keep` says; then the
    second best; and all again where these do not do.
    """
    order = doubts.argsort(dim=1, stable=True)
    chosen = []
    for place in range(doubts.shape[1]):
        which = order[:, place]
        rows = doubts.gather(1, which[:, None]).squeeze(1).argsort(stable=True)
        if keep == "median":  # the middle one, then to both sides in turn
            at = torch.arange(len(rows))
            middle = len(rows) // 2
            rows = rows[(2 * (at - middle).abs() - (at < middle).long()).argsort(stable=True)]
        chosen.append(torch.stack([rows, which[rows]]))
    best = torch.cat(chosen, 1)
    rows, which = best.repeat(1, -(-wanted // best.shape[1]))[:, :wanted]
    return rows, which


def shrunk(x: Tensor, f: int) -> Tensor:
    """x (n, *shape) at 1/f of the sides, by averages; what f does not divide is rounded up."""
    return x if f == 1 else F.interpolate(x, [-(-side // f) for side in x.shape[2:]], mode="area")


def padded(patches: Tensor, sides: tuple[int, ...]) -> Tensor:
    """In the middle of zeros, which are the mean colour."""
    down, across = (side - own for side, own in zip(sides, patches.shape[2:], strict=True))
    return F.pad(patches, (across // 2, across - across // 2, down // 2, down - down // 2))


def mosaic(patches: Tensor, n: int, f: int, shape: tuple[int, ...]) -> Tensor:
    """(n, *shape) from f^2 n patches: item j has patches j, j + n, ..., row by row; a side that f does not divide is cut unevenly."""
    x = torch.zeros((n, *shape))
    for own, (rows, cols) in zip(patches.split(n), places(shape, f), strict=True):
        x[:, :, rows, cols] = F.interpolate(own, (rows.stop - rows.start, cols.stop - cols.start), mode="bilinear", align_corners=False)
    return x


def places(shape: tuple[int, ...], f: int) -> list[tuple[slice, slice]]:
    """(rows, columns) of the f x f tiles of examples (channels, height, width), row by row."""
    down, across = ([slice(int(part[0]), int(part[-1]) + 1) for part in torch.arange(side).tensor_split(f)] for side in shape[1:])
    return [(rows, cols) for rows in down for cols in across]


def tiles(x: Tensor, f: int) -> Tensor:
    """(f^2 n, *shape) the tiles of items x (n, *shape), each enlarged to the full size: of the first place all items', then of the second."""
    return torch.cat([F.interpolate(x[:, :, rows, cols], x.shape[2:], mode="bilinear", align_corners=False) for rows, cols in places(x.shape[1:], f)])
