"""FTD: minimizing the accumulated trajectory error to improve dataset distillation (Du et al., CVPR 2023).

MTT, whose students meet in evaluation parameters that no expert had, with experts in flat minima, where that matters less.
    experts   step along GSAM's direction: the gradient at the worst point within rho (adaptive, |w| g), less alpha times the
              part of the plain gradient that is orthogonal to it
    S         is the exponential moving average of what MTT's updates give

Differences from the authors' code: those of `mtt`; the moving average begins with a smaller decay, as theirs does, and is
itself what comes out, where theirs reports the better of the two on the test set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from ..data.task import Task
from ..run import Run
from ..synthetic import SyntheticSet
from ..training.experts import Teaching
from .base import Paper
from .trajectories import Average, Trajectory


@final
@dataclass(frozen=True, kw_only=True)
class FTD(Trajectory):
    """Match the trajectories of experts that were trained towards flat minima, and average S over iterations."""

    name: ClassVar = "ftd"
    stores: ClassVar = "items, a learned step size"
    when: ClassVar = "as MTT; its experts, trained flat, cost twice as much"
    paper: ClassVar = Paper(title="Minimizing the Accumulated Trajectory Error to Improve Dataset Distillation", venue="CVPR 2023", arxiv="2211.11004")
    decays: ClassVar = frozenset({"decay"})

    rho: float = 0.01  # GSAM's radius
    gsam_alpha: float = 0.3  # GSAM's share of the orthogonal part; 1 on CIFAR-100
    decay: float = 0.9995  # of the moving average of S

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        syn, experts, room = self.start(task, run), self.expert_pool(task, run, Teaching(rho=self.rho, alpha=self.gsam_alpha)), self.room(run)
        return self.descend(run, syn, self.matcher(task, run, experts, syn, room), room, Average(syn, self.decay).to(run.device))
