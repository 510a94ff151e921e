"""What methods share that match expert trajectories: their hyper-parameters, and what they begin with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..data.task import Task
from ..match import trajectory
from ..replay import differentiable
from ..run import Run
from ..synthetic import SyntheticSet
from ..synthetic.set import Recipe
from ..training.experts import Experts, Teaching
from ..training.unroll import unroll
from .inner import Draw, Inner, Rate, average

RATES = 0.01, 0.02, 0.04, 0.08, 0.16  # none below the papers': a student that stands still is near its expert too, and learns nothing from S
CIFAR10 = {1: (50, 2, 2), 10: (30, 2, 20), 50: (30, 2, 40)}  # ipc: (N, M, T+), as MTT and FTD have them
PER_CLASS = 5000  # examples that CIFAR-10 has

Key = tuple[str | int, ...]


class Segment(NamedTuple):
    """theta*_t and theta*_{t+M} (P,) of an expert, and what a student that goes from the one to the other is shown."""

    start: Tensor
    target: Tensor
    batches: list[Draw]


@dataclass(frozen=True, kw_only=True)
class Trajectory(Inner):
    """A method that starts a student where an expert was, trains it on S, and compares it with the expert later on.

    Where steps, expert_epochs or max_start are not given they are the paper's for CIFAR-10 and the nearest smaller ipc, or as large a
    share of its data where that is more: FTD's and DATM's starts for CIFAR-100, with a tenth as many of a class, are at ipc 1 those
    that they have for CIFAR-10 at 10. Epochs are in proportion to the rate of its experts: ten of them are one at ten times the rate.
    """

    family: ClassVar = "trajectory"
    scales_over: ClassVar = "experts"
    positive: ClassVar = frozenset({"alpha", "lr_expert"})
    LOOPS: ClassVar[dict[int, tuple[int, int, int]]] = CIFAR10
    quick: ClassVar = {"iterations": 150, "steps": 20, "batch": 20, "experts": "auto", "lr_expert": 0.1, "width": 16, "init": "representative"}
    quick_table: ClassVar = {"expert_epochs": 5, "init": "real"}  # rows are learned later than pictures are, and the middles of their classes may lie close together

    iterations: int = 5000
    steps: int | None = None  # N, of the student on S; none: the paper's
    expert_epochs: int | None = None  # M, that the target is later than the start; none: the paper's, fewer at a higher lr_expert
    max_start: int | None = None  # T+: experts are met before this epoch; none: likewise
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = 0.03  # of S; with sgd the papers have 1e2 to 1e5
    lr_alpha: float = 0.01  # of log alpha
    alpha: float | None = None  # at the start; none: of RATES the one that brings students nearest to their experts (the papers have 0.01, MTT at 50 per class 0.001)
    segments: int = 1  # of experts per iteration, averaged, shared over ranks
    experts: int | Literal["auto"] = 100  # how many are trained, unless the cache has them; auto: from 2, on 50,000 examples or more, to 8, on 12,500 or fewer
    lr_expert: float = 0.01  # their learning rate; a higher one learns as much in fewer epochs

    def loops(self, task: Task) -> tuple[int, int, int]:
        """(N, M, T+)"""
        N, M, T = self.LOOPS[nearest(self.LOOPS, likened(task))]
        return self.steps or N, self.expert_epochs or self.epochs(M), self.max_start or self.epochs(T)

    def epochs(self, papers: int, least: int = 1) -> int:
        """How many of these experts' epochs so many of the paper's are."""
        return max(least, round(papers * type(self).lr_expert / self.lr_expert))

    def expert_pool(self, task: Task, run: Run, teaching: Teaching | None = None) -> Experts:
        """The experts, made where they are missing, up to the last epoch that is a target."""
        _, M, T = self.loops(task)
        teaching = replace(teaching or Teaching(), lr=self.lr_expert)
        auto = min(8, max(2, 100_000 // len(task.train)))  # S learns few experts by heart, and on small data more of them cost little
        count = auto if self.experts == "auto" else self.experts
        experts = Experts(task.train, run, net=self.net_for(task.modality), width=self.width, count=count, teaching=teaching)
        experts.prepare(T - 1 + M)
        return experts

    def segment(self, task: Task, run: Run, experts: Experts, starts: range, N: int, M: int, n: int, key: Key) -> Segment:
        """The segment of this name, with N minibatches of n examples of S."""
        return Segment(*experts.segment(run.rng("segment", *key), starts, M), [self.draw(task, run, n, i, *key) for i in range(N)])

    def matcher(self, task: Task, run: Run, experts: Experts, syn: SyntheticSet, room: dict[str, Any], **options: Any) -> Callable[[Key, Tensor], Tensor]:
        """MTT's loss: match(key, alpha) is that of the segment of this name, by S and the rate alpha; options are unroll's."""
        N, M, T = self.loops(task)
        y = syn.example_labels().hard.to(run.device)

        def segment(drawn: Segment, alpha: Tensor, S: Tensor) -> Tensor:
            (theta,) = unroll(self.loss_on(experts.net, y, drawn.batches.__getitem__), (drawn.start,), alpha, (S,), N, **room, **options)
            return trajectory.distance(theta, drawn.start, drawn.target)

        replay = differentiable(segment, run.device, run.notes)
        return lambda key, alpha: replay(self.segment(task, run, experts, range(T), N, M, len(y), key), alpha, syn.examples())

    def rate(self, run: Run, match: Callable[[Key, Tensor], Tensor]) -> Rate:
        """alpha at the start; match(key, alpha) is the loss of the segment of that name."""
        if self.alpha is not None:
            return Rate(self.alpha).to(run.device)
        tally = nn.Module()
        tally.register_buffer("losses", torch.full((len(RATES),), torch.inf, dtype=torch.float64))
        for k in run.steps(len(RATES), tally, label="choosing a first step size"):
            with torch.no_grad():
                tally.losses[k] = sum(float(match(("first", j), torch.tensor(RATES[k], device=run.device))) for j in range(2))
        return Rate(RATES[int(tally.losses.nan_to_num(nan=torch.inf).argmin())]).to(run.device)

    def optimizer_for(self, *moved: tuple[nn.Module, float]) -> torch.optim.Optimizer:
        """Of what is moved, each at its rate: Adam, whose steps are as long whatever the loss, or SGD."""
        groups = [{"params": list(module.parameters()), "lr": lr} for module, lr in moved]
        return torch.optim.Adam(groups) if self.optimizer == "adam" else torch.optim.SGD(groups, momentum=0.5)

    def descend(self, run: Run, syn: SyntheticSet, match: Callable[[Key, Tensor], Tensor], room: dict[str, Any], *means: Average) -> SyntheticSet:
        """S and alpha go down match(key, alpha), the loss of the segment of that name; S comes out, or its mean over iterations, if one is to be kept."""
        alpha = self.rate(run, match)
        optimizer = self.optimizer_for((syn, self.lr), (alpha, self.lr_alpha))
        for it in run.steps(self.iterations, syn, *means, alpha, optimizer, room["keep"]):
            L = run.descend(optimizer, average(run, self.segments, optimizer, lambda k, it=it: match((it, k), alpha())))
            syn.clamp_()
            for mean in means:
                mean.update(syn)
            run.log(it, loss=L, alpha=alpha())
        for mean in means:
            mean.give(syn)
        syn.recipe = Recipe(lr=alpha().item(), augment=self.augment)
        return syn


def likened(task: Task) -> float:
    """The ipc at which tables for CIFAR-10 are read: the task's own, or the one that is as large a share of CIFAR-10, where that is more."""
    share = int(task.quota.sum()) / len(task.train)
    return max(int(task.quota.max()), share * PER_CLASS)


def nearest(table: dict[int, tuple], ipc: float) -> int:
    """The largest ipc of the table that is not above this one."""
    return max(own for own in table if own <= max(1, ipc))


class Average(nn.Module):
    """The exponential moving average of a set's parameters: x_ema <- d x_ema + (1 - d) x, d at most `decay` and smaller at first."""

    def __init__(self, syn: SyntheticSet, decay: float):
        super().__init__()
        self.decay = decay
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.kept = nn.ParameterList([nn.Parameter(p.detach().clone(), requires_grad=False) for p in syn.parameters()])

    @torch.no_grad()
    def update(self, syn: SyntheticSet) -> None:
        self.updates += 1
        t = int(self.updates)
        share = 1 - min(self.decay, (1 + t) / (10 + t))
        for kept, p in zip(self.kept, syn.parameters(), strict=True):
            kept.lerp_(p, share)

    @torch.no_grad()
    def give(self, syn: SyntheticSet) -> None:
        """Put the average into the set."""
        for kept, p in zip(self.kept, syn.parameters(), strict=True):
            p.copy_(kept)


def keep_class_(logits: Tensor, y: Tensor) -> Tensor:
    """Make logits (n, classes), in place, such that the largest of each row is the one of its class y (n,), in float16 too; others stay as they were.

    An item stays an item of its class, as the budget and the pages have it; a label that is learned away from it comes out even.
    """
    y = y.to(logits.device)[:, None]
    others = logits.scatter(1, y, -torch.inf).amax(1, keepdim=True)
    least = others + 2.0**-9 * others.abs().clamp(min=1)
    return logits.scatter_(1, y, torch.maximum(logits.gather(1, y), least))
