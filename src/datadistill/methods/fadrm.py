"""FADRM: fast and accurate data residual matching (Cui et al., NeurIPS 2025).

SRe2L's loss (see sre2l.py) in stages, between which the real image that an item began as is mixed in again:
    x_0 <- a real patch, or mosaic of patches, that the teacher is undecided about
    for stage k = 1..4   (at 200/224 of the sides, full, 200/224, full; all full for sides up to 64)
        x <- alpha resize(x) + (1 - alpha) resize(x_0)   before every stage but the first         alpha = 0.5
        SRe2L's steps on x, with an Adam of its own
FADRM+ shows several teachers in turn: net=resnet+vgg.

Differences from the authors' code: as sre2l.py; teachers label in eval mode, where theirs have batch norm in train mode on
batches of 16; an item's patches are those nearest the median of the teacher's cross-entropy ("medium" there).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from ..data.task import Task
from ..run import Run
from ..synthetic import SyntheticSet
from ..training.patches import Patches
from ..training.recover import Guide, across, constant, recover
from ..training.relabel import relabel
from ..training.targets import Running
from .base import Paper
from .decoupled import Recovered, from_patches


@final
@dataclass(frozen=True, kw_only=True)
class FADRM(Recovered):
    """SRe2L from real patches, at changing resolution, the beginning mixed in again between stages."""

    name: ClassVar = "fadrm"
    stores: ClassVar = "items, teacher labels"
    when: ClassVar = "as SRe2L, from real patches mixed in again: quicker, closer to real"
    paper: ClassVar = Paper(title="FADRM: Fast and Accurate Data Residual Matching for Dataset Distillation", venue="NeurIPS 2025", arxiv="2506.24125")
    positive: ClassVar = Recovered.positive | {"smaller"}
    shares: ClassVar = Recovered.shares | {"smaller", "alpha"}

    iterations: int = 2000  # of all stages
    lr: float = 0.25
    r: float = 0.01
    stages: int = 4
    smaller: float | None = None  # the sides of every other stage, as a share of the full ones; none: 1 for sides up to 64, else 200/224
    alpha: float = 0.5
    candidates: int = 300  # real examples of each class, of which patches are taken
    factor: int | None = None  # patches to an item: its square; none: 1 for sides up to 64, else 2

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        self.check(task.modality)
        phis = self.phis(task, run)
        syn = from_patches(task, Patches(self.candidates, factor=self.factor, keep="median"), phis[0], run, originals=False)
        small = self.smaller or (1.0 if max(task.spec.shape[1:]) <= 64 else 200 / 224)
        stages = tuple(1.0 if (self.stages - k) % 2 else small for k in range(self.stages))
        how = self.recovery(task, crop=constant(self.crop), stages=stages, residual=1 - self.alpha)
        recover(syn, across(syn.y), [Guide(phi, Running(phi, self.first)) for phi in phis], how, run)
        syn.labels = relabel(syn, phis, self.labelling(task), run)
        return syn
