"""SRe2L: squeeze, recover and relabel (Yin, Xing & Shen, NeurIPS 2023).

In the paper's letters:
    squeeze   theta_T <- argmin CE(phi(x), y) over T
    recover   repeat  L = CE(phi(x~), y) + alpha_BN sum_l w_l (|| mu_l(x~) - RM_l ||_2 + || sigma^2_l(x~) - RV_l ||_2)
              on batches of one item per class; x~ = random resized crop, flip and roll of x; Adam(0.5, 0.9), cosine to zero;
              w_1 = 10, others 1; norms are not squared; variances are biased; the last iterate is kept
    relabel   soft labels by phi

Defaults are those of the authors' CIFAR recipe (lr 0.25, alpha_BN 0.01, 1000 steps); with crops, which that leaves out: crop=1 gives
theirs. Tiny-ImageNet: lr=0.1, r=1, iterations=4000. ImageNet-1K: lr=0.25, r=0.01, iterations=4000.
Differences from the authors' code: see training/recover.py; noise begins within legal values; classes may have different numbers
of items. The paper labels every view that a student will see (labels=views); the default is one soft label per example, which is
what it costs little to keep.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from ..data.task import Task
from ..run import Run
from ..synthetic import SyntheticSet
from ..training.recover import Guide, across, constant, recover
from ..training.relabel import relabel
from ..training.targets import Running
from .base import Paper
from .decoupled import Started


@final
@dataclass(frozen=True, kw_only=True)
class SRe2L(Started):
    """Recover images whose classes a teacher knows and whose batch-norm statistics are those of the real data."""

    name: ClassVar = "sre2l"
    stores: ClassVar = "items, teacher labels"
    when: ClassVar = "large images and many classes; needs a teacher with batch norm"
    paper: ClassVar = Paper(title="Squeeze, Recover and Relabel: Dataset Condensation at ImageNet Scale From A New Perspective",
                            venue="NeurIPS 2023", arxiv="2306.13092")  # fmt: skip

    iterations: int = 1000
    lr: float = 0.25
    r: float = 0.01  # alpha_BN

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        self.check(task.modality)
        phis = self.phis(task, run)
        syn = self.start(task, run)
        how = self.recovery(task, crop=constant(self.crop))
        recover(syn, across(syn.y), [Guide(phi, Running(phi, self.first)) for phi in phis], how, run)
        syn.labels = relabel(syn, phis, self.labelling(task), run)
        return syn
