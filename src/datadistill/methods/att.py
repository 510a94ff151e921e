"""ATT: dataset distillation by automatic training trajectories (Liu et al., ECCV 2024).

MTT with a student of no fixed length: of its N_S steps the one that came nearest to the expert is matched, so that S need not
bend itself to a number of steps that does not fit the segment. In the paper's letters:
    roll out theta^_1 .. theta^_{N_S} on S from theta*_t
    N_opt = argmin_i || theta^_i - theta*_{t+N_T} ||
    L = || theta^_{N_opt} - theta*_{t+N_T} ||^2 / || theta*_t - theta*_{t+N_T} ||^2

Differences from the authors' code: those of `mtt`; the nearest is found in the Euclidean distance, as the paper has it, where
the code has the sum of absolute differences; S is not averaged over iterations (their code does, as `ftd`). N_S, N_T and T+
are MTT's where they are not given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from ..data.task import Task
from ..match import trajectory
from ..run import Run
from ..synthetic import SyntheticSet
from ..training.unroll import unroll
from .base import Paper
from .trajectories import Key, Trajectory


@final
@dataclass(frozen=True, kw_only=True)
class ATT(Trajectory):
    """Match an expert where the student comes nearest to it, after however many steps."""

    name: ClassVar = "att"
    stores: ClassVar = "items, a learned step size"
    when: ClassVar = "as MTT, when the number of steps is hard to choose"
    paper: ClassVar = Paper(title="Dataset Distillation by Automatic Training Trajectories", venue="ECCV 2024", arxiv="2407.14245")

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        syn, experts, room = self.start(task, run), self.expert_pool(task, run), self.room(run)
        N, M, T = self.loops(task)
        y = syn.example_labels().hard

        def match(key: Key, alpha: Tensor) -> Tensor:
            start, target = experts.segment(run.rng("segment", *key), range(T), M)
            loss = self.loss(experts.net, task, run, y, *key)
            (theta,) = unroll(loss, (start,), alpha, (syn.examples(),), N, **room, best=lambda at: (at - target).norm())
            return trajectory.distance(theta, start, target)

        return self.descend(run, syn, match, room)
