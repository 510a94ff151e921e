"""SC-DD: self-supervised compression for dataset distillation (Zhou, Yin, Shao & Shen, "A Good Compression Is All You Need", 2024).

    squeeze   psi <- trained on T without labels;   the head <- a linear probe, psi frozen
    recover   SRe2L's loss and steps through both (see sre2l.py)
so that the batch-norm statistics are those of a net that was not told what to throw away: they differ more between channels than those
of a net trained on labels, and recovery through large nets does not fade.

Defaults are the authors' for ImageNet-1K (lr 0.1, r 0.01, 1000 steps). CIFAR-100: lr=0.4, r=0.005, crop=1.
Differences from the authors' code: as sre2l.py; theirs are ResNets by MoCo, SwAV or DINO, read from a file (teacher=FILE reads one here,
whose head the probe replaces); ours is trained by SimCLR (see training/unlabelled.py), or with pretraining=labels is a teacher's backbone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

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
class SCDD(Started):
    """SRe2L through a backbone that never saw a label, and a linear probe."""

    name: ClassVar = "sc-dd"
    stores: ClassVar = "items, teacher labels"
    when: ClassVar = "when a self-supervised backbone is at hand"
    paper: ClassVar = Paper(title="Self-supervised Dataset Distillation: A Good Compression Is All You Need", venue="arXiv 2024", arxiv="2404.07976")

    iterations: int = 1000
    lr: float = 0.1
    r: float = 0.01
    pretraining: Literal["self-supervised", "labels"] = "self-supervised"
    probe_epochs: int = 30

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        self.check(task.modality)
        phis = self.backbones(task, run, self.pretraining, self.probe_epochs)
        syn = self.start(task, run)
        how = self.recovery(task, crop=constant(self.crop))
        recover(syn, across(syn.y), [Guide(phi, Running(phi, self.first)) for phi in phis], how, run)
        syn.labels = relabel(syn, phis, self.labelling(task), run)
        return syn
