"""RDED: on the diversity and realism of distilled dataset (Sun, Shi, Yu & Lin, CVPR 2024).

For each class, with factor f and n items:
    300 real examples, 5 random square crops of each, resized to 1/f of the sides         f = 1 for sides up to 64, else 2
    realism of a crop: - CE(phi(crop, padded with zeros to the full size), y);   the best crop of each example is kept
    of these the f^2 n most realistic; item j is the f x f mosaic of crops j, j + n, j + 2n, ...
    labels by phi

Nothing is learned: minutes where recovery takes hours. Items hold pieces of real examples, and say so.
Differences from the authors' code: crops have shapes from 3/4 to 4/3, and are resized by bilinear interpolation to the full size, then
averaged; a class with fewer than f^2 n examples gives its second-best crops too. They label every view of a student's training with the
teacher at hand (labels=views stores such labels); the default is one soft label per example.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from ..data.task import Task
from ..run import Run
from ..synthetic import SyntheticSet
from ..training.patches import Patches
from ..training.relabel import relabel
from .base import Paper
from .decoupled import Decoupled, from_patches


@final
@dataclass(frozen=True, kw_only=True)
class RDED(Decoupled):
    """Mosaics of the real crops that a teacher is surest of."""

    name: ClassVar = "rded"
    stores: ClassVar = "pieces of real examples, teacher labels"
    when: ClassVar = "large images and many classes: minutes, nothing is optimised"
    paper: ClassVar = Paper(title="On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation Paradigm", venue="CVPR 2024", arxiv="2312.03526")
    statistics: ClassVar = False
    scales_over: ClassVar = "classes"
    positive: ClassVar = Decoupled.positive | {"crop"}
    shares: ClassVar = Decoupled.shares | {"crop"}

    candidates: int = 300  # real examples of each class
    crops: int = 5  # of each
    crop: float = 0.08  # the least share of the area
    factor: int | None = None  # f; none: 1 for sides up to 64, else 2

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        self.check(task.modality)
        phis = self.phis(task, run)
        syn = from_patches(task, Patches(self.candidates, self.crops, self.crop, self.factor), phis[0], run)
        syn.labels = relabel(syn, phis, self.labelling(task), run)
        return syn
