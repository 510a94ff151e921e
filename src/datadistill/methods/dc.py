"""DC: dataset condensation with gradient matching (Zhao, Mopuri & Bilen, ICLR 2021).

Algorithm 1, in the paper's letters:
    repeat K times
        theta ~ P(theta)
        for t = 0..T-1
            for each class c:   g_T <- grad_theta L(B_T_c),   g_S <- grad_theta L(S_c)
            S <- S - eta_S grad_S sum_c D(g_S, g_T)            D: per layer and output unit, 1 - cos
            theta <- theta - eta_theta grad_theta L(S)         inner_epochs times over S, but after the last t

Differences from the authors' code: the gradient by S is taken class by class, so that one class's graph is held and not all
(the same sum); the net sees real examples in pieces of `chunk`, and forms no gradients of biases and norms, which D leaves
out; every draw has a name (theirs come from global state); S is kept within legal values after each step; T and the inner
epochs are looked up for the nearest smaller ipc of their table; a class with fewer than |B_T| examples gives all it has.
Refused: networks with batch norm, whose gradients depend on what else is in the piece (theirs freezes the statistics).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.task import Task
from ..match import gradient
from ..run import Run
from ..synthetic import SyntheticSet
from .base import Paper
from .matching import Batches, Init, Matching, descend, minibatches, train

LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}  # ipc: (T, inner epochs)


@dataclass(frozen=True, kw_only=True)
class Condensation(Matching):
    """The hyper-parameters of DC and DSA."""

    family: ClassVar = "gradient"
    quick: ClassVar = {"iterations": 50, "outer": 2, "inner_epochs": 5, "width": 32, "real_batch": 64, "init": "real", "lr": 1.0}
    may_be_zero: ClassVar = frozenset({"inner_epochs"})
    quick_table: ClassVar = {"lr": 0.1}  # a row has fewer numbers than a picture, each of which a step moves further

    iterations: int = 1000  # K
    lr: float = 0.1  # eta_S
    momentum: float = 0.5
    outer: int | None = None  # T; none: the authors', 1 at ipc 1, 10 at 10, 50 at 50
    inner_epochs: int | None = None  # of theta on S; none: the authors', 1 at ipc 1, 50 at 10, 10 at 50
    lr_net: float = 0.01  # eta_theta
    batch_train: int = 256

    def loops(self, task: Task) -> tuple[int, int]:
        """(T, inner epochs)"""
        outer, inner = LOOPS[max(ipc for ipc in LOOPS if ipc <= max(1, int(task.quota.max())))]
        return self.outer or outer, inner if self.inner_epochs is None else self.inner_epochs


@final
@dataclass(frozen=True, kw_only=True)
class DC(Condensation):
    """Match the gradients that S and T give a net, along its training on S."""

    name: ClassVar = "dc"
    stores: ClassVar = "items"
    when: ClassVar = "one item per class, small data; the origin of the family, seldom the best of it"
    paper: ClassVar = Paper(title="Dataset Condensation with Gradient Matching", venue="ICLR 2021", arxiv="2006.05929")

    init: Init = "noise"
    augment: bool = False

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        return condense(self, task, run)


def condense(method: Condensation, task: Task, run: Run) -> SyntheticSet:
    """Algorithm 1, with omega (DSA) if `method.augment`."""
    syn = method.start(task, run)
    optimizer = torch.optim.SGD(syn.parameters(), lr=method.lr, momentum=method.momentum)
    pieces = method.pieces(task, run)
    batches = Batches(task, run, method.real_batch, method.sampling)
    y = syn.example_labels().hard
    T, inner_epochs = method.loops(task)
    theta = method.network(task, run, "theta", 0)

    for step in run.steps(method.iterations * T, syn, optimizer, theta, batches):
        it, t = divmod(step, T)
        if t == 0:
            theta.load_state_dict(method.network(task, run, "theta", it).state_dict())
        logits = method.through(theta, method.omega(task, run, "omega", step))

        def losses(x: Tensor, c: Tensor, logits=logits) -> Tensor:
            return F.cross_entropy(logits(x, c), c.to(x.device), reduction="sum")

        x = syn.examples()
        loss, pull = match_classes(batches.draw(step, theta, pieces), losses, x, y, gradient.weights(theta), task, run, pieces)
        descend(run, optimizer, syn, x, loss, pull)
        run.log(step, loss=loss / len(task.classes))
        if t + 1 < T:
            shown = minibatches(task, syn.examples().detach(), y, inner_epochs, method.batch_train, method.augment, partial(run.rng, "inner", step))
            train(theta, shown, torch.optim.SGD(theta.parameters(), lr=method.lr_net), pieces)
    return syn


def match_classes(real: list[tuple[int, Tensor]], losses: gradient.Losses, x: Tensor, y: Tensor, weights: list, task: Task, run: Run, pieces,
                  kind: gradient.Distance = "cosine") -> tuple[Tensor, Tensor]:
    """(sum over these classes of D, its gradient by all of x (m, *shape)): one class after the other, no graph outlives its class.

    real   (class, indices into task.train)      y  (m,) the class of each example of x
    """
    total, pull = x.new_zeros(()), torch.zeros_like(x)
    for c, indices in real:
        rows = (y == c).nonzero().squeeze(1)

        def read(piece: slice, indices: Tensor = indices) -> Tensor:
            return task.train.read(indices[piece]).to(run.device)

        target = gradient.mean_gradient(losses, read, task.train.labels[indices], weights, pieces)
        loss, own = gradient.descent(losses, x.detach()[rows.to(x.device)], y[rows], weights, target, pieces, kind)
        total, pull[rows.to(x.device)] = total + loss, own
    return total, pull
