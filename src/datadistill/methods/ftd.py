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

from torch import Tensor

from ..data.task import Task
from ..match import trajectory
from ..replay import differentiable
from ..run import Run
from ..synthetic import SyntheticSet
from ..synthetic.set import Recipe
from ..training.experts import Teaching
from ..training.unroll import unroll
from .base import Paper
from .inner import average, descent
from .trajectories import Average, Segment, Trajectory


@final
@dataclass(frozen=True, kw_only=True)
class FTD(Trajectory):
    """Match the trajectories of experts that were trained towards flat minima, and average S over iterations."""

    name: ClassVar = "ftd"
    stores: ClassVar = "items, a learned step size"
    when: ClassVar = "as MTT; its experts, trained flat, cost twice as much"
    paper: ClassVar = Paper(title="Minimizing the Accumulated Trajectory Error to Improve Dataset Distillation", venue="CVPR 2023", arxiv="2211.11004")
    shares: ClassVar = frozenset({"decay"})

    rho: float = 0.01  # GSAM's radius
    gsam_alpha: float = 0.3  # GSAM's share of the orthogonal part; 1 on CIFAR-100
    decay: float = 0.9995  # of the moving average of S

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        syn, experts, room = self.start(task, run), self.expert_pool(task, run, Teaching(rho=self.rho, alpha=self.gsam_alpha)), self.room(run)
        N, M, T = self.loops(task)
        y = syn.example_labels().hard.to(run.device)

        def segment(drawn: Segment, alpha: Tensor, S: Tensor) -> Tensor:
            (theta,) = unroll(self.loss_on(experts.net, y, drawn.batches.__getitem__), (drawn.start,), alpha, (S,), N, **room)
            return trajectory.distance(theta, drawn.start, drawn.target)

        replay = differentiable(segment, run.device, run.notes)

        def match(key: tuple[str | int, ...], alpha: Tensor) -> Tensor:
            return replay(self.segment(task, run, experts, range(T), N, M, len(y), key), alpha, syn.examples())

        alpha = self.rate(run, match)
        mean = Average(syn, self.decay).to(run.device)
        optimizer = descent(self.optimizer, (syn.parameters(), self.lr), (alpha.parameters(), self.lr_alpha))
        for it in run.steps(self.iterations, syn, mean, alpha, optimizer, room["keep"]):
            L = run.descend(optimizer, average(run, self.segments, optimizer, lambda k, it=it: match((it, k), alpha())))
            syn.clamp_()
            mean.update(syn)
            run.log(it, loss=L, alpha=alpha())
        mean.give(syn)
        syn.recipe = Recipe(lr=alpha().item(), augment=self.augment)
        return syn
