"""RDED: on the diversity and realism of distilled dataset (Sun, Shi, Yu & Lin, CVPR 2024).

For each class, with factor f and n items:
    300 real examples, 5 random square crops of each, resized to 1/f of the sides         f = 1 for sides up to 64, else 2
    realism of a crop: - CE(phi(crop, padded with zeros to the full size), y);   the best crop of each example is kept
    of these the f^2 n most realistic; item j is the f x f mosaic of crops j, j + n, j + 2n, ...
    labels by phi

Nothing is learned: minutes where recovery takes hours. Items hold pieces of real examples, and say so.
Differences from the authors' code: crops are resized by bilinear interpolation to the full size, then averaged; a class with fewer
than f^2 n examples gives its second-best crops too; a side that f does not divide is cut unevenly. They label every view of a
student's training with the teacher at hand (labels=views stores such labels); the default is one soft label per example.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import nets
from ..data.task import Task
from ..labels import Hard
from ..labels.views import box, look
from ..memory import Pieces
from ..run import Run
from ..synthetic import SyntheticSet
from ..training.relabel import relabel
from .base import Paper
from .decoupled import Decoupled
from .selection import per_class

CHUNK = 64  # examples cropped and scored at once


@final
@dataclass(frozen=True, kw_only=True)
class RDED(Decoupled):
    """Mosaics of the real crops that a teacher is surest of."""

    name: ClassVar = "rded"
    paper: ClassVar = Paper(title="On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation Paradigm", venue="CVPR 2024", arxiv="2312.03526")
    statistics: ClassVar = False
    scales_over: ClassVar = "classes"

    candidates: int = 300  # real examples of each class
    crops: int = 5  # of each
    crop: float = 0.08  # the least share of the area
    factor: int | None = None  # f; none: 1 for sides up to 64, else 2

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        self.check(task.modality)
        phi = self.phi(task, run)
        x = per_class(task, run, torch.zeros((len(task.labels), *task.spec.shape)), lambda c: self.mosaics(task, run, phi, c))
        syn = SyntheticSet(x, Hard(task.labels, len(task.classes)), task.modality, originals=True).to(run.device)
        syn.labels = relabel(syn, [phi], self.labelling(task), run)
        return syn

    def mosaics(self, task: Task, run: Run, phi: nets.Net, c: int) -> Tensor:
        """(task.quota[c], *shape) the items of class c."""
        n, shape = int(task.quota[c]), task.spec.shape
        f = self.factor or (1 if max(shape[1:]) <= 64 else 2)
        examples = task.train.pick(c, max(self.candidates, n * f * f), run.rng("candidates", c))
        u = torch.rand((len(examples), self.crops, 4), generator=run.rng("crops", c), dtype=torch.float64)
        boxes = torch.tensor([box(own, self.crop) for own in u.flatten(0, 1).tolist()]).float().view(len(examples), self.crops, 4)
        small = [-(-side // f) for side in shape[1:]]

        def cropped(rows: Tensor, which: Tensor) -> Tensor:
            """Crops `which` (k,) of examples[rows] (k,), at 1/f of the sides."""
            whole = look(task.train.read(examples[rows]).to(run.device), boxes[rows, which], torch.zeros(len(rows), dtype=torch.bool))
            return whole if f == 1 else F.interpolate(whole, small, mode="area")

        @torch.no_grad()
        def doubt(piece: slice) -> Tensor:
            """(k, crops) the teacher's cross-entropy."""
            rows = torch.arange(len(examples))[piece]
            patches = cropped(rows.repeat_interleave(self.crops), torch.arange(self.crops).repeat(len(rows)))
            logits = phi(_padded(patches, shape[1:]))
            return F.cross_entropy(logits, torch.full((len(logits),), c, device=logits.device), reduction="none").view(-1, self.crops).cpu()

        doubts = torch.cat(Pieces(CHUNK, "chunk of crops", run.notes).map(len(examples), doubt))
        rows, which = _most_realistic(doubts, n * f * f)
        return mosaic(torch.cat([cropped(*part) for part in zip(rows.split(CHUNK), which.split(CHUNK), strict=True)]).cpu(), n, f, shape)


def _most_realistic(doubts: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
    """(example, crop), each (wanted,): every example's best crop first, the surest first; then the second best; and all again where these do not do."""
    order = doubts.argsort(dim=1, stable=True)
    ranked = []
    for place in range(doubts.shape[1]):
        which = order[:, place]
        rows = doubts.gather(1, which[:, None]).squeeze(1).argsort(stable=True)
        ranked.append(torch.stack([rows, which[rows]]))
    best = torch.cat(ranked, 1)
    rows, which = best.repeat(1, -(-wanted // best.shape[1]))[:, :wanted]
    return rows, which


def _padded(patches: Tensor, sides: tuple[int, ...]) -> Tensor:
    """In the middle of zeros, which are the mean colour."""
    down, across = (side - own for side, own in zip(sides, patches.shape[2:], strict=True))
    return F.pad(patches, (across // 2, across - across // 2, down // 2, down - down // 2))


def mosaic(patches: Tensor, n: int, f: int, shape: tuple[int, ...]) -> Tensor:
    """(n, *shape) from f^2 n patches: item j has patches j, j + n, ..., row by row."""
    x = torch.zeros((n, *shape))
    places = [(rows, cols) for rows in torch.arange(shape[1]).tensor_split(f) for cols in torch.arange(shape[2]).tensor_split(f)]
    for own, (rows, cols) in zip(patches.split(n), places, strict=True):
        x[:, :, rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1] = F.interpolate(own, (len(rows), len(cols)), mode="bilinear", align_corners=False)
    return x
