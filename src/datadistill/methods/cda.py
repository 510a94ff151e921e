"""CDA: dataset distillation via curriculum data synthesis (Yin & Shen, TMLR 2024).

SRe2L (see sre2l.py) with crops that begin large and become small. At t = step / steps, in the paper's letters:
    beta_l(t) = 0.08 + 0.92 (1 + cos(pi t / m)) / 2 for t < m, then 0.08         the least share of a crop's area; m = 1
Defaults are those of Tiny-ImageNet (lr 0.4, r 0.05, 4000 steps), with 1000 steps, since small images take no more.
Differences from the authors' code: as sre2l.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from ..data.task import Task
from ..run import Run
from ..synthetic import SyntheticSet
from ..training.recover import Guide, across, easing, recover
from ..training.relabel import relabel
from ..training.targets import Running
from .base import Paper
from .decoupled import Started


@final
@dataclass(frozen=True, kw_only=True)
class CDA(Started):
    """SRe2L from whole images to small crops: easy views first."""

    name: ClassVar = "cda"
    stores: ClassVar = "items, teacher labels"
    when: ClassVar = "as SRe2L, from easy to hard crops"
    paper: ClassVar = Paper(title="Dataset Distillation via Curriculum Data Synthesis in Large Data Era", venue="TMLR 2024", arxiv="2311.18838")
    positive: ClassVar = Started.positive | {"milestone"}
    shares: ClassVar = Started.shares | {"milestone"}

    iterations: int = 1000
    lr: float = 0.4
    r: float = 0.05
    milestone: float = 1.0  # m

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        self.check(task.modality)
        phis = self.phis(task, run)
        syn = self.start(task, run)
        how = self.recovery(task, crop=easing(self.crop, self.milestone))
        recover(syn, across(syn.y), [Guide(phi, Running(phi, self.first)) for phi in phis], how, run)
        syn.labels = relabel(syn, phis, self.labelling(task), run)
        return syn
