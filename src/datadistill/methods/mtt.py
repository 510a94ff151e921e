"""MTT: dataset distillation by matching training trajectories (Cazenavette et al., CVPR 2022).

Algorithm 1, in the paper's letters; tau* are expert trajectories, theta*_t an expert's parameters after t epochs on T:
    repeat
        sample tau* and a start epoch t < T+;   theta^_t <- theta*_t
        for n = 0..N-1:   theta^_{t+n+1} <- theta^_{t+n} - alpha grad l(A(b_{t+n}); theta^_{t+n})        b ~ S
        L = || theta^_{t+N} - theta*_{t+M} ||^2 / || theta*_t - theta*_{t+M} ||^2
        update S and alpha with respect to L

Differences from the authors' code: dL/dS comes from a step-wise adjoint (the same gradient, in the memory of one step and the
N states); alpha is learned as its logarithm, so that it stays positive, with slopes cut off at 5, and begins as the best of
five in a trial (theirs: alpha=0.01 or 0.001); S and alpha go down by Adam at one rate for all data, where theirs is SGD at a
rate between 1e2 and 1e5 for each data set (optimizer=sgd); each example of a minibatch draws its own augmentation; S is kept
within legal values; N, M and T+ go by the ipc or, where that is more, by the share of the data that S is; experts are trained,
with the same augmentation, only for the T+ - 1 + M epochs that are used, and on fewer than 20,480 examples in smaller batches;
an iteration draws any expert, where theirs goes through them in turn. No ZCA.
Refused: networks with batch norm, whose statistics are no part of theta.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from ..data.task import Task
from ..run import Run
from ..synthetic import SyntheticSet
from .base import Paper
from .trajectories import Trajectory


@final
@dataclass(frozen=True, kw_only=True)
class MTT(Trajectory):
    """Train on S from an expert's parameters, and end where the expert was some epochs of real data later."""

    name: ClassVar = "mtt"
    stores: ClassVar = "items, a learned step size"
    when: ClassVar = "few items and time for experts; strong on small images"
    paper: ClassVar = Paper(title="Dataset Distillation by Matching Training Trajectories", venue="CVPR 2022", arxiv="2203.11932")

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        syn, experts, room = self.start(task, run), self.expert_pool(task, run), self.room(run)
        return self.descend(run, syn, self.matcher(task, run, experts, syn, room), room)
