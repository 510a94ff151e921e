"""EDC: elucidating the design space of dataset condensation (Shao et al., NeurIPS 2024).

G-VBSM's statistics (see gvbsm.py) with what a search of the design space left standing:
    x <- real examples (small images), or RDED's mosaics (large ones)
    soft category-aware matching:  1/2 || of all of T - S ||_2 + 1/2 || mean over the batch of its classes' - S ||_2
    averages over steps with alpha = 0.8;  a small rate, 0.05;  crops of at least half the area
    labels: the mean of the teachers' logits; a student's loss is MSE + 0.025 CE

Differences from the authors' code: as gvbsm.py; statistics of a class are those of its examples together, where theirs are means of each
example's own; their files of classes have mean and variance of patches exchanged; the flatness term, which no script of theirs turns
on, is left out; teachers are the families of `nets` with batch norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from ..data.task import Task
from ..labels import Objective
from ..nets.taps import convolutions_and_norms
from ..run import Run
from ..synthetic import Start, SyntheticSet
from ..training.patches import Patches
from ..training.recover import Guide, constant, recover
from ..training.relabel import relabel
from ..training.statistics import by_patch, measured
from ..training.targets import Smoothed
from .base import Paper
from .decoupled import Started, from_patches
from .gvbsm import in_class_order, square


@final
@dataclass(frozen=True, kw_only=True)
class EDC(Started):
    """From real images, match statistics of all data and of the batch's classes through several teachers."""

    name: ClassVar = "edc"
    stores: ClassVar = "items, labels of several teachers"
    when: ClassVar = "as G-VBSM from real images, with statistics of classes"
    paper: ClassVar = Paper(title="Elucidating the Design Space of Dataset Condensation", venue="NeurIPS 2024", arxiv="2404.13733")
    shares: ClassVar = Started.shares | {"alpha", "share"}

    init: Start = "real"  # above 64 pixels a side: mosaics of pieces of real examples
    net: str = "resnet+vgg"
    iterations: int = 2000
    lr: float = 0.05
    r: float = 0.01
    crop: float = 0.5
    jitter: int | None = 0
    alpha: float = 0.8
    share: float = 0.5  # of what is compared with the batch's classes
    batch: int = 100

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        self.check(task.modality)
        phis = self.phis(task, run)
        patches, side = Patches(), square(task)
        mosaics = self.init == "real" and patches.side(task.spec.shape) > 1
        syn = from_patches(task, patches, phis[0], run, originals=False) if mosaics else self.start(task, run)
        guides = []
        for phi in phis:
            layers = convolutions_and_norms(phi)
            guides.append(Guide(phi, Smoothed(layers, by_patch(side), *measured(phi, layers, task.train, run, side), self.share, self.alpha, self.first)))
        recover(syn, in_class_order(syn.y, self.batch), guides, self.recovery(task, crop=constant(self.crop)), run)
        syn.labels = relabel(syn, phis, self.labelling(task, Objective("mse_ce", gamma=0.025)), run)
        return syn
