"""DD: dataset distillation (Wang, Zhu, Torralba & Efros, 2018).

Algorithm 1, in the paper's letters, x~ the synthetic examples and eta~ a learned rate for every step:
    repeat
        x_t ~ T                                                   a minibatch of real examples
        theta_0 ~ p(theta_0)                                      one or several random initialisations
        theta_{i+1} = theta_i - eta~_i grad l(x~_i, theta_i)      a few steps, each on its own part of x~, several times over
        L = l(x_t, theta_end)
        x~ <- x~ - alpha dL/dx~;   eta~ <- eta~ - alpha dL/deta~
The gradient goes back through the training step by step, as their code does too.

Differences from the authors' code: the ipc examples of a class are dealt out to at most 10 parts (theirs: 10 parts of one
each), gone through so often that the steps are the paper's 30 (10 parts, 3 times); eta~ is learned as a logarithm (theirs: a
softplus), whose slope is cut off at 5; examples begin as real ones (theirs: noise, init=noise); S is kept within legal values.
The rate falls by half after every tenth of the run, as theirs does; in short runs half a cosine (schedule=cosine) measured better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from ..data.task import Task
from ..rates import half_cosine
from ..run import Run
from ..synthetic import SyntheticSet
from ..synthetic.set import Recipe
from ..training.embedding import narrow
from ..training.unroll import Flat, Loss, unroll
from .base import TABLE, Paper
from .inner import Inner, Rate, average, real_loss
from .matching import cool, pieces_for


@final
@dataclass(frozen=True, kw_only=True)
class DD(Inner):
    """Differentiate the real loss of a net trained on S for a few steps."""

    name: ClassVar = "dd"
    stores: ClassVar = "items, learned step sizes"
    when: ClassVar = "as a reference: the first method of the field"
    family: ClassVar = "kernel"
    paper: ClassVar = Paper(title="Dataset Distillation", venue="arXiv 2018", arxiv="1811.10959")
    scales_over: ClassVar = "nets"
    quick: ClassVar = {"iterations": 100, "width": 16, "real_batch": 256, "lr": 0.05, "schedule": "cosine", "init": "representative"}
    quick_table: ClassVar = {**TABLE, "iterations": 200}
    positive: ClassVar = frozenset({"eta"})

    iterations: int = 20_000
    lr: float = 0.01  # the paper's alpha, of x~ and of log eta~, by Adam
    schedule: Literal["halving", "cosine"] = "halving"  # of lr: half after every tenth of the iterations, or half a cosine to zero
    eta: float = 0.02  # eta~ at the start
    parts: int = 10  # of x~, at most: a step sees one
    epochs: int | None = None  # over the parts; none: as many as make 30 steps
    real_batch: int = 1024  # |x_t|
    nets: int = 1  # initialisations per iteration, averaged, shared over ranks
    augment: bool = False

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        syn, net = self.start(task, run), narrow(self.net_for(task.modality), task.spec, self.width, run.rng("shape")).to(run.device)
        flat, pieces, room = Flat(net), pieces_for(net, task, run), self.room(run)
        y = syn.example_labels().hard
        parts = deal(y, self.parts)
        steps = len(parts) * (self.epochs or max(1, 30 // len(parts)))
        eta = Rate(self.eta, steps).to(run.device)
        optimizer = torch.optim.Adam([*syn.parameters(), *eta.parameters()], lr=self.lr, betas=(0.5, 0.999))

        for it in run.steps(self.iterations, syn, eta, optimizer, room["keep"]):
            cool(optimizer, self._share, it)

            def one(k: int, it: int = it) -> Tensor:
                theta = Flat.of(narrow(self.net_for(task.modality), task.spec, self.width, run.rng("theta", it, k))).to(run.device)
                losses = [self.loss(flat, task, run, y[rows], it, k, p) for p, rows in enumerate(parts)]
                (theta,) = unroll(in_turn(losses, parts), (theta,), eta(), (syn.examples(),), steps, **room)
                rows = torch.randperm(len(task.train), generator=run.rng("real", it, k))[: self.real_batch]
                return real_loss(flat, theta, task, run, rows, pieces, ("real", it, k) if self.augment else None)[0]

            loss = run.descend(optimizer, average(run, self.nets, optimizer, one))
            syn.clamp_()
            run.log(it, loss=loss, alpha=eta().mean())
        syn.recipe = Recipe(lr=eta().mean().item(), steps=steps, augment=self.augment)
        return syn

    def _share(self, it: int) -> float:
        """The part of lr that is left at this step."""
        return 0.5 ** (it // -(-self.iterations // 10)) if self.schedule == "halving" else half_cosine(it, self.iterations)


def deal(y: Tensor, most: int) -> list[Tensor]:
    """Rows of y (n,) class numbers in at most `most` parts, each class dealt out one by one; none empty."""
    place = torch.zeros_like(y)
    for c in y.unique():
        own = (y == c).nonzero().squeeze(1)
        place[own] = torch.arange(len(own)) % most
    return [(place == p).nonzero().squeeze(1) for p in place.unique()]


def in_turn(losses: list[Loss], parts: list[Tensor]) -> Loss:
    """Step i is on part i, over and over."""

    def part(theta: Tensor, i: int, piece: slice, x: Tensor) -> Tensor:
        p = i % len(parts)
        return losses[p].part(theta, i, piece, x[parts[p].to(x.device)])

    return Loss(lambda i: losses[i % len(parts)].size(i), part)
