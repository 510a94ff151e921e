"""IDC: dataset condensation via efficient synthetic-data parameterization (Kim et al., ICML 2022).

Algorithm 1, in the paper's letters:
    repeat N_outer times
        theta <- a fresh network
        repeat M times
            for each class c:   L_c = D(grad l(theta; A(T_c)), grad l(theta; A(f(S_c))))       f: each item is a grid of examples
            S <- S - lambda grad_S sum_c L_c
            theta <- theta - eta grad l(theta; A(T'))              on real examples T', so that it does not overfit S

D is the squared difference of the gradients of all weights but the head's (l1 for grey pictures in the authors' code, where
lambda is then 1e-4). DREAM (Liu et al., ICCV 2023) is this with init=representative, sampling=representative and
real_batch=128.

Differences from the authors' code: every draw has a name; the classes' losses are summed for one step, where theirs steps after
each class (the same but for momentum), and gradients are taken class by class; lambda is theirs times 16, since they move pixels
in [0, 1] and this standardised ones (deviation about 1/4); A is one random operation of the modality's siamese augmentation,
theirs colour, then crop, then cutout; theta is trained without CutMix; real examples go through the net in pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..data.task import Task
from ..match import gradient
from ..run import Run
from ..synthetic import SyntheticSet
from ..training.slopes import Slopes
from .base import TABLE, Paper
from .dc import class_losses, class_match, match_classes
from .matching import ADAM, SGD, Batch, Batches, Fresh, Matching, descend


@final
@dataclass(frozen=True, kw_only=True)
class IDC(Matching):
    """Match gradients in networks trained on T, of several examples kept in each stored item."""

    name: ClassVar = "idc"
    stores: ClassVar = "items, several examples in each"
    when: ClassVar = "images, when bytes count: each item is decoded to four examples"
    family: ClassVar = "gradient"
    papers_form: ClassVar = "multiform:2"
    paper: ClassVar = Paper(title="Dataset Condensation via Efficient Synthetic-Data Parameterization", venue="ICML 2022", arxiv="2205.14959")
    quick: ClassVar = {"iterations": 8, "inner": 10, "width": 32, "real_batch": 32, "synthetic_batch": 64, "net_examples": 1000, **ADAM, "lr": 0.015, "init": "representative"}
    quick_table: ClassVar = {**TABLE, **SGD, "lr": 20.0}  # gradients of rows are small, and the steps are few

    iterations: int = 2000  # N_outer
    inner: int = 100  # M
    lr: float = 0.08  # lambda, with sgd for ten items per class and in proportion for others
    real_batch: int = 64
    synthetic_batch: int = 128  # examples of a class at most, drawn at random
    form: str = "auto"  # multiform:2 for pictures of 28 pixels a side and more (IDC); pixels is IDC-I
    distance: gradient.Distance = "mse"
    lr_net: float = 0.01  # eta
    net_examples: int = 2000  # |T'|
    net_batch: int = 64

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        syn = self.start(task, run)
        optimizer = self.optimizer_for(syn, int(task.quota.max()) / 10)
        pieces, batches = self.pieces(task, run), Batches(task, run, self.real_batch, self.sampling)
        fresh = Fresh(self, task, run)
        theta = fresh.net.requires_grad_()
        match = class_match(lambda omega: class_losses(self.through(theta, omega)), gradient.weights(theta, head=False), task, run, pieces, self.distance)
        slopes = Slopes(theta, pieces, run.device)
        down = torch.optim.SGD(theta.parameters(), lr=self.lr_net, momentum=0.9, weight_decay=5e-4)

        for step in run.steps(self.iterations * self.inner, syn, optimizer, theta, down, batches):
            if step % self.inner == 0:
                fresh.draw("theta", step // self.inner)
                down.state.clear()
            x = syn.examples()
            y = self._drawn(syn.example_labels().hard, run.rng("synthetic", step))
            loss, pull = match_classes(match, batches.draw(step, theta, pieces), self.omega(task, run, "omega", step), x, y, task)
            descend(run, optimizer, syn, x, loss, pull)
            run.log(step, loss=loss / len(task.classes))
            for batch in self._real(task, run, step):
                slopes.step(down, *batch)
        return syn

    def _drawn(self, y: Tensor, rng: torch.Generator) -> Tensor:
        """y, with -1 in the place of examples that sit this step out."""
        y = y.clone()
        for c in y.unique().tolist():
            rows = (y == c).nonzero().squeeze(1)
            y[rows[torch.randperm(len(rows), generator=rng)[self.synthetic_batch :]]] = -1
        return y

    def _real(self, task: Task, run: Run, step: int) -> Iterator[Batch]:
        """T', in batches, each example augmented by itself."""
        rows = torch.randperm(len(task.train), generator=run.rng("net", step))[: self.net_examples]
        for k, batch in enumerate(rows.split(self.net_batch)):
            omega = task.modality.augment(run.rng("shown", step, k), len(batch)) if self.augment else None
            yield task.train.read(batch, run.device), omega, task.train.labels[batch]
