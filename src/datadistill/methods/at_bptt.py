"""AT-BPTT: when random is not enough: exploring automatic truncated optimization for dataset distillation (NeurIPS 2025).

RaT-BPTT, with a window that looks for where the inner loop learns. An epoch is once over T in batches; its window is drawn
from the norms of the gradients g_0..g_{T-1} of a whole inner loop, by stages of the distillation:
    1   begin at t ~ softmax(|g_t|);      length W - d + 2 d rank(| |g_t| - |g_{t-1}| |) / T
    2   begin anywhere;                   length W + d
    3   begin at T - t - length, t as in 1;   length W - d
Stage 1 ends when the accuracy on real batches has grown by less than 1.5 points in each of 0.15 T epochs in a row, stage 2
at less than 1 point in each of 0.125 T.

Differences from the authors' code: those of `rat-bptt`; counts of epochs are rounded up; the paper's low-rank approximation of
the Hessian, which is not in their code, is not here: the step-wise adjoint needs no graph of the window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from ..data.task import Task
from ..errors import UsageError
from ..match import trajectory
from ..modalities import Modality
from ..run import Run
from ..synthetic import SyntheticSet
from ..training.unroll import Adam, State, unroll
from .base import Paper
from .inner import average
from .rat_bptt import Loop, Truncated, clipped

GAINS = {1: (1.5, 0.15), 2: (1.0, 0.125)}  # stage: it ends where the accuracy gains less, in points, in so many epochs, as a share of T


@final
@dataclass(frozen=True, kw_only=True)
class ATBPTT(Truncated):
    """Backpropagate the real loss through a window that is placed where training on S has large gradients."""

    quick: ClassVar = {**Truncated.quick, "reach": 3}
    name: ClassVar = "at-bptt"
    stores: ClassVar = "items"
    when: ClassVar = "as RaT-BPTT, with windows where gradients are largest"
    paper: ClassVar = Paper(title="When Random Is Not Enough: Exploring Automatic Truncated Optimization for Dataset Distillation", venue="NeurIPS 2025")
    may_be_zero: ClassVar = frozenset({"reach"})

    window: int = 40  # W
    reach: int = 10  # d, by which windows are longer or shorter

    def check(self, modality: Modality) -> None:
        super().check(modality)
        if self.reach >= self.window:
            raise UsageError(f"at-bptt: reach={self.reach} of window={self.window} on {modality.name} data", "less than the window", f"--set reach={self.window // 4}")

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        syn, room, stage = self.begin(task, run), self.room(run), Stage(self.total)
        loop = Loop(self, task, run, syn.example_labels().hard)
        optimizer = clipped(torch.optim.Adam(syn.parameters(), lr=self.lr), self.clip, self.clip_decay)
        epoch = -(-len(task.train) // self.real_batch)

        for it in run.steps(self.iterations, syn, optimizer, room["keep"], stage):
            if it % epoch == 0:
                stage.ends_epoch()
                norms = torch.zeros(self.total) if stage.number == 2 else self.norms(loop, syn.examples().detach(), it, room)
                u = float(torch.rand((), generator=run.rng("window", it)))
                stage.window = torch.tensor(trajectory.truncation(norms, int(stage.number), self.window, self.reach, u))

            def one(k: int, it: int = it) -> Tensor:
                first, size = stage.window.tolist()
                return loop.through(syn.examples(), first, size, room, it, k)

            loss = run.descend(optimizer, average(run, self.nets, optimizer, one))
            syn.clamp_()
            stage.saw(loop.accuracy())
            run.log(it, loss=loss, stage=stage.number)
        return syn

    def norms(self, loop: Loop, x: Tensor, it: int, room: dict[str, Any]) -> Tensor:
        """(T,) |g_t| along a whole inner loop."""
        inner = Watched([])
        with torch.no_grad():
            unroll(loop.inner(it, -1), loop.start(it, -1), self.lr_inner, (x,), self.total, inner=inner, pieces=room["pieces"])
        return torch.stack(inner.norms).cpu()


@dataclass(frozen=True)
class Watched:
    """Adam, and the norms of the gradients it is given."""

    norms: list[Tensor]

    def start(self, theta: Tensor) -> State:
        return Adam().start(theta)

    def step(self, state: Sequence[Tensor], g: Tensor, lr: Tensor) -> State:
        self.norms.append(g.norm())
        return Adam().step(state, g, lr)


class Stage(nn.Module):
    """Which stage the distillation is in, from the accuracy of each epoch; saved with the run."""

    def __init__(self, total: int):
        super().__init__()
        self.total = total
        for name in ("number", "idle", "seen"):
            self.register_buffer(name, torch.tensor(1 if name == "number" else 0))
        self.register_buffer("window", torch.zeros(2, dtype=torch.long))
        self.register_buffer("points", torch.zeros(2, dtype=torch.float64))  # summed over this epoch; mean of the last

    def saw(self, accuracy: float) -> None:
        self.points[0] += 100 * accuracy
        self.seen += 1

    def ends_epoch(self) -> None:
        """Take the epoch's accuracy into account."""
        if not self.seen:
            return
        mean = self.points[0] / self.seen
        for stage, (least, share) in GAINS.items():
            if self.number == stage:  # the epoch that ends stage 1 is the first that stage 2 looks at
                self.idle.copy_(self.idle + 1 if mean - self.points[1] < least else torch.zeros_like(self.idle))
                if self.idle >= math.ceil(share * self.total):
                    self.number += 1
                    self.idle.zero_()
        self.points.copy_(torch.stack([torch.zeros_like(mean), mean]))
        self.seen.zero_()
