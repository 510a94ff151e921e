"""LPLD: are large-scale soft labels necessary for large-scale dataset distillation? (Xiao & He, NeurIPS 2024).

    one pass over T gives, for each class c and batch norm l, mu_{l,c} and sigma^2_{l,c}
    recover class by class, a batch being the items of one class: L = CE + r sum_l w_l (|| mu_l - mu_{l,c} ||_2 + || sigma^2_l - sigma^2_{l,c} ||_2)
    label views, and keep a random part of the labels (labels=views, then `datadistill labels compress --to 2.5%`)
Items that are recovered together are of one class, and differ more than those that each stand alone for theirs.

Differences from the authors' code: as sre2l.py; the statistics of a class are those of all its real examples in phi's eval mode,
where theirs are running averages in train mode; labels are pruned example by example, not batch by batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from ..data.task import Task
from ..run import Run
from ..synthetic import SyntheticSet
from ..training.recover import Guide, constant, recover, within
from ..training.relabel import relabel
from ..training.statistics import class_moments
from ..training.targets import ByClass
from .base import Paper
from .decoupled import Started


@final
@dataclass(frozen=True, kw_only=True)
class LPLD(Started):
    """Recover the items of a class together, against the batch-norm statistics of that class."""

    name: ClassVar = "lpld"
    stores: ClassVar = "items, teacher labels of views"
    when: ClassVar = "as SRe2L, when label storage must shrink"
    paper: ClassVar = Paper(title="Are Large-scale Soft Labels Necessary for Large-scale Dataset Distillation?", venue="NeurIPS 2024", arxiv="2410.15919")

    iterations: int = 1000
    lr: float = 0.25
    r: float = 0.01

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        self.check(task.modality)
        phis = self.phis(task, run)
        syn = self.start(task, run)
        guides = [Guide(phi, ByClass(phi, class_moments(phi, task.train, run), self.first)) for phi in phis]
        recover(syn, within(syn.y), guides, self.recovery(task, crop=constant(self.crop)), run)
        syn.labels = relabel(syn, phis, self.labelling(task), run)
        return syn
