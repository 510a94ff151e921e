"""DATM: towards lossless dataset distillation via difficulty-aligned trajectory matching (Guo et al., ICLR 2024).

MTT, with the part of the experts' trajectories aligned to the size of S: early epochs teach easy patterns, which a small S can
hold, late epochs hard ones, which only a large S can; and with soft labels that are learned. In the paper's letters:
    experts   FTD's
    S_0       real images that an expert labels right; L_0 their logits, averaged over the experts that label them right
    repeat    sample t from T- .. T, where T grows from T_0 to T+ until iteration `expansion_end`
              N steps on (S, softmax(L)) from theta*_t, matched to theta*_{t+M} as in MTT
              update S, L and alpha, if the loss is at most `threshold`
At a high ipc this reached the accuracy of the full data (CIFAR-10 at ipc 1000, CIFAR-100 at 100).

Differences from the authors' code: those of `mtt`, and one Adam for S, L and alpha; an expert that labels S_0 and L_0 is
taken at the last epoch that is matched, theirs at the last of 100; where no expert labels enough of a class right, the rest
is random, and an example that none labels right has their mean; a segment whose loss is above the threshold gives a gradient
of zero; after each step L is moved back to where the class an item stands for has the largest label. Where an item gives
several examples (`form`), they share its label, and S_0 is as the form begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from ..data.task import Task
from ..errors import UsageError
from ..labels import Soft
from ..match import trajectory
from ..modalities import Modality
from ..replay import differentiable
from ..run import Run
from ..synthetic import SyntheticSet
from ..synthetic.set import Recipe
from ..training.experts import Experts, Teaching
from ..training.unroll import unroll
from .base import Paper
from .inner import average
from .trajectories import Key, Segment, Trajectory, keep_class_, likened, nearest

CHUNK = 512  # examples that an expert labels at once


@final
@dataclass(frozen=True, kw_only=True)
class DATM(Trajectory):
    """Match early or late parts of expert trajectories, as the size of S asks, and learn soft labels."""

    name: ClassVar = "datm"
    stores: ClassVar = "items, learned soft labels, a learned step size"
    soft_labels: ClassVar = True
    when: ClassVar = "large budgets up to lossless: it matches later parts of training"
    paper: ClassVar = Paper(title="Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching", venue="ICLR 2024", arxiv="2310.05773")
    may_be_zero: ClassVar = frozenset({"min_start", "expansion_end"})
    quick: ClassVar = {**Trajectory.quick, "init": "real"}  # those that an expert labels right
    quick_table: ClassVar = {**Trajectory.quick_table, "first_max_start": 1, "max_start": 3, "expansion_end": 150}
    LOOPS: ClassVar = {1: (80, 2, 4), 10: (80, 2, 20), 50: (80, 2, 40), 500: (40, 2, 60), 1000: (100, 2, 60)}
    WINDOWS: ClassVar = {1: (0, 4, 0), 10: (0, 10, 1000), 50: (0, 20, 2000), 500: (40, 60, 0), 1000: (40, 60, 0)}  # ipc: (T-, T_0, until)

    iterations: int = 10_000
    min_start: int | None = None  # T-; none: the paper's, fewer at a higher lr_expert
    first_max_start: int | None = None  # T_0; none: likewise
    expansion_end: int | None = None  # none: the paper's share of the iterations
    lr_labels: float = 0.02  # of L
    threshold: float = 1.0  # of the loss; a student that ends further off than it began teaches nothing
    rho: float = 0.01  # GSAM's radius
    gsam_alpha: float = 0.3  # GSAM's share of the orthogonal part

    def check(self, modality: Modality) -> None:
        super().check(modality)
        if self.max_start is not None and (self.min_start or 0) >= self.max_start:
            raise UsageError(f"datm: min_start={self.min_start}, max_start={self.max_start} on {modality.name} data", "a first start that is before max_start", f"--set max_start={(self.min_start or 0) + 1}")

    def window(self, task: Task) -> tuple[int, int, int]:
        """(T-, T_0, expansion_end), the last, where it is not given, the paper's share of the iterations."""
        low, first, until = self.WINDOWS[nearest(self.WINDOWS, likened(task))]
        own = self.epochs(low, least=0), self.epochs(first), round(until * self.iterations / type(self).iterations)
        given = self.min_start, self.first_max_start, self.expansion_end
        low, first, until = (b if a is None else a for a, b in zip(given, own, strict=True))
        T = self.loops(task)[2]
        return min(low, T - 1), min(first, T), until

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        syn, experts, room = self.start(task, run), self.expert_pool(task, run, Teaching(rho=self.rho, alpha=self.gsam_alpha)), self.room(run)
        N, M, T = self.loops(task)
        low, first, until = self.window(task)
        if self.init == "real" and self.form == "pixels":
            syn.x.data = task.train.read(labelled_right(experts, task, run, T - 1 + M), run.device)
        y = syn.example_labels().hard.to(run.device)
        logits = first_labels(experts, syn.examples().detach(), y, T - 1 + M).unflatten(0, (-1, syn.each)).mean(1)
        L = nn.ParameterDict({"logits": nn.Parameter(keep_class_(logits, syn.y))})

        def segment(drawn: Segment, alpha: Tensor, S: Tensor, logits: Tensor) -> Tensor:
            (theta,) = unroll(self.loss_on(experts.net, y, drawn.batches.__getitem__), (drawn.start,), alpha, (S, logits), N, **room)
            value = trajectory.distance(theta, drawn.start, drawn.target)
            return torch.where(value.detach() <= self.threshold, value, value.detach())

        replay = differentiable(segment, run.device, run.notes)

        def match(key: Key, alpha: Tensor) -> Tensor:
            starts = trajectory.window(key[0] if isinstance(key[0], int) else 0, low, first, T, until)
            return replay(self.segment(task, run, experts, starts, N, M, len(y), key), alpha, syn.examples(), L["logits"].repeat_interleave(syn.each, 0))

        alpha = self.rate(run, match)
        optimizer = self.optimizer_for((syn, self.lr), (L, self.lr_labels), (alpha, self.lr_alpha))
        for it in run.steps(self.iterations, syn, L, alpha, optimizer, room["keep"]):
            value = run.descend(optimizer, average(run, self.segments, optimizer, lambda k, it=it: match((it, k), alpha())))
            syn.clamp_()
            keep_class_(L["logits"].data, syn.y)
            run.log(it, loss=value, alpha=alpha())
        syn.labels, syn.recipe = Soft(L["logits"].detach().cpu()), Recipe(lr=alpha().item(), augment=self.augment)
        return syn


@torch.no_grad()
def labelled_right(experts: Experts, task: Task, run: Run, epoch: int) -> Tensor:
    """(n,) real examples, task.quota of each class in class order: random ones that an expert labels right after so many epochs."""
    chosen = []
    for c in task.classes:
        left, own = task.train.pick(c, int(task.train.counts[c]), run.rng("right", c)), []
        need = int(task.quota[c])
        for k in range(experts.count):
            theta, wrong = experts.at(k, epoch), []
            for rows in left.split(CHUNK):
                if need:
                    right = experts.net(theta, task.train.read(rows, run.device)).argmax(1).cpu() == c
                    own.append(rows[right][:need])
                    need -= len(own[-1])
                    wrong.append(rows[~right])
            left = torch.cat(wrong)
            if not need or not len(left):
                break
        chosen += [*own, left[:need]]
    return torch.cat(chosen)


@torch.no_grad()
def first_labels(experts: Experts, x: Tensor, y: Tensor, epoch: int) -> Tensor:
    """(n, classes) the logits of x averaged over the experts that label it right after so many epochs; over all, where none does."""
    sums: list[Tensor] = []
    for k in range(experts.count):
        logits = torch.cat([experts.net(experts.at(k, epoch), some) for some in x.split(CHUNK)])
        right = (logits.argmax(1) == y.to(x.device))[:, None]
        new = [logits, logits * right, right.to(logits)]
        sums = new if not sums else [a + b for a, b in zip(sums, new, strict=True)]
    every, over_right, count = sums
    return torch.where(count > 0, over_right / count.clamp(min=1), every / experts.count)
