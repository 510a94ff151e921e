"""SelMatch: effectively scaling up dataset distillation via selection-based initialization and partial updates (Lee & Chung, ICML 2024).

MTT for a large S, which full distillation makes too easy. In the paper's letters, for ipc images of each class:
    order the class's images from hard to easy; leave out the beta * ipc hardest, take the next ipc: a sliding window
    the harder (1 - alpha) * ipc of them, D_select, stay the real images that they are
    the easier alpha * ipc, D_distill, are updated by MTT's loss, whose students train on both

Differences from the authors' code: those of `mtt`; difficulty is the number of forgetting events (Toneva et al., ICLR 2019;
the authors offer it, beside a C-score that must be had from elsewhere), counted in one training run of a few epochs, ties at
random; alpha and beta are those of the nearest smaller ipc of their CIFAR-10 runs, which begin at 250: below that alpha is 1
and the window lies in the middle of the class; it moves back where a class is too small for it; N, M and T+ are looked up as
MTT's. Their nets have batch norm; their stronger augmentation in evaluation is the judge's matter. An artifact that keeps real
images says that it has originals.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, final

import torch
from torch import Tensor

from ..data.task import Task
from ..errors import UsageError
from ..labels import Hard
from ..modalities import Modality
from ..run import Run
from ..synthetic import SyntheticSet
from ..training.embedding import content_key
from .base import Paper
from .forgetting import Forgetting
from .trajectories import Trajectory, nearest

SHARES = {1: (1.0, None), 250: (0.6, 0.5), 500: (0.2, 0.3), 1000: (0.1, 0.2)}  # ipc: (alpha, beta)


@final
@dataclass(frozen=True, kw_only=True)
class SelMatch(Trajectory):
    """Keep real examples of the right difficulty, and match trajectories by changing only a part of them."""

    name: ClassVar = "selmatch"
    stores: ClassVar = "real and moved items"
    when: ClassVar = "large budgets: a part of the set stays real"
    paper: ClassVar = Paper(title="SelMatch: Effectively Scaling Up Dataset Distillation via Selection-Based Initialization and Partial Updates by Trajectory Matching",
                            venue="ICML 2024", arxiv="2406.18561")
    may_be_zero: ClassVar = frozenset({"forgetting_epochs"})
    positive: ClassVar = Trajectory.positive | {"distilled"}
    shares: ClassVar = frozenset({"distilled"})
    quick: ClassVar = {**Trajectory.quick, "init": "real"}  # its own selection
    LOOPS: ClassVar = {**Trajectory.LOOPS, 250: (55, 2, 80)}

    iterations: int = 10_000
    batch: int | None = 125
    distilled: float | None = None  # the paper's alpha, the share of each class that is changed
    left_out: float | None = None  # the paper's beta, the hardest images before the window, as a multiple of ipc
    forgetting_epochs: int = 5  # of the run that difficulty is counted in; 0: no difficulty, the window is random

    def check(self, modality: Modality) -> None:
        super().check(modality)
        if self.form != "pixels" or self.init != "real":
            raise UsageError(f"selmatch with form={self.form}, init={self.init} on {modality.name} data", "form=pixels, init=real", "leave both out")

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        self.check(task.modality)
        experts, room = self.expert_pool(task, run), self.room(run)
        rows, fixed = self.windows(task, run)
        x = task.train.read(rows)
        syn = SyntheticSet(x.clone(), Hard(task.train.labels[rows], len(task.classes)), task.modality, originals=bool(fixed.any())).to(run.device)
        moves = (~fixed).to(syn.x).view(-1, *[1] * (x.ndim - 1))
        syn.x.register_hook(lambda slope: slope * moves)
        syn = self.descend(run, syn, self.matcher(task, run, experts, syn, room), room)
        syn.x.data[fixed.to(run.device)] = x[fixed].to(run.device)
        return syn

    def windows(self, task: Task, run: Run) -> tuple[Tensor, Tensor]:
        """(n,) real examples, each class's window from hard to easy, in class order; (n,) whether they stay as they are."""
        scores = self.difficulty(task, run)
        own_alpha, own_beta = SHARES[nearest(SHARES, int(task.quota.max()))]
        alpha, beta = self.distilled or own_alpha, own_beta if self.left_out is None else self.left_out
        rows, fixed = [], []
        for c in task.classes:
            own, n = task.train.indices(c), int(task.quota[c])
            own = own[torch.randperm(len(own), generator=run.rng("ties", c))]
            own = own[torch.argsort(scores[own], descending=True, stable=True)]
            room = len(own) - n
            first = room // 2 if beta is None else min(int(beta * n), room)
            rows.append(own[first : first + n])
            fixed.append(torch.arange(n) < n - max(1, int(alpha * n)))
        return torch.cat(rows), torch.cat(fixed)

    def difficulty(self, task: Task, run: Run) -> Tensor:
        """(N,) how often each real example was forgotten."""
        if not self.forgetting_epochs:
            return torch.zeros(len(task.train))
        count = Forgetting(epochs=self.forgetting_epochs, net=self.net_for(task.modality), **({} if self.width is None else {"width": self.width}))
        key = content_key(task.train, run, **{f.name: getattr(count, f.name) for f in fields(count)})
        return run.cached("forgetting", key, lambda: {"scores": count.count(task, run).scores()})["scores"]
