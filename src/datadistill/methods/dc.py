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

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.task import Task
from ..match import gradient
from ..modalities import Augmentation
from ..replay import Replay, abreast, sent
from ..run import Run
from ..synthetic import Start, SyntheticSet
from ..training.slopes import Slopes
from .base import Paper
from .matching import ADAM, SGD, Batches, Fresh, Matching, descend, minibatches

LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}  # ipc: (T, inner epochs)


@dataclass(frozen=True, kw_only=True)
class Condensation(Matching):
    """The hyper-parameters of DC and DSA."""

    family: ClassVar = "gradient"
    quick: ClassVar = {"iterations": 50, "outer": 2, "inner_epochs": 5, "width": 32, "real_batch": 64, "init": "representative", **ADAM}
    may_be_zero: ClassVar = frozenset({"inner_epochs"})
    quick_table: ClassVar = {**SGD, "lr": 0.1}

    iterations: int = 1000  # K
    lr: float = 0.1  # eta_S
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

    init: Start = "noise"
    augment: bool = False

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        return condense(self, task, run)


def condense(method: Condensation, task: Task, run: Run) -> SyntheticSet:
    """Algorithm 1, with omega (DSA) if `method.augment`."""
    syn = method.start(task, run)
    optimizer = method.optimizer_for(syn)
    pieces = method.pieces(task, run)
    batches = Batches(task, run, method.real_batch, method.sampling)
    y = syn.example_labels().hard
    T, inner_epochs = method.loops(task)
    fresh = Fresh(method, task, run)
    theta = fresh.net.requires_grad_()
    match = class_match(lambda omega: class_losses(method.through(theta, omega)), gradient.weights(theta), task, run, pieces)
    slopes = Slopes(theta, pieces, run.device)

    for step in run.steps(method.iterations * T, syn, optimizer, theta, batches):
        it, t = divmod(step, T)
        if t == 0:
            fresh.draw("theta", it)
        x = syn.examples()
        loss, pull = match_classes(match, batches.draw(step, theta, pieces), method.omega(task, run, "omega", step), x, y, task)
        descend(run, optimizer, syn, x, loss, pull)
        run.log(step, loss=loss / len(task.classes))
        if t + 1 < T:
            down = torch.optim.SGD(theta.parameters(), lr=method.lr_net)
            for batch in minibatches(task, syn.examples().detach(), y, inner_epochs, method.batch_train, method.augment, partial(run.rng, "inner", step)):
                slopes.step(down, *batch)
    return syn


def class_losses(logits: Callable[[Tensor, Tensor], Tensor]) -> gradient.Losses:
    """The cross-entropy of what logits(x, c) says."""
    return lambda x, c: F.cross_entropy(logits(x, c), c.to(x.device), reduction="sum")


Classes = list[tuple[Tensor, ...]]
"""Of each class: real examples (indices into task.train) and their labels (k,), and the items (n,) of x and their labels."""


def class_match(losses: Callable[[Augmentation], gradient.Losses], weights: list, task: Task, run: Run, pieces, kind: gradient.Distance = "cosine") -> Replay:
    """(`Classes`, omega, x (m, *shape)) -> (sum over these classes of D, its gradient by the items of each): no graph outlives its class.

    losses(omega)   what the net says under it
    """

    def match(classes: Classes, omega: Augmentation, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        seen = losses(omega)

        def one(real: Tensor, c: Tensor, rows: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            target = gradient.mean_gradient(seen, lambda piece: task.train.read(real[piece], run.device), c, weights, pieces)
            return gradient.descent(seen, x[rows], y, weights, target, pieces, kind)

        found = abreast([partial(one, *own) for own in classes])
        return torch.stack([value for value, _ in found]).sum(), [pull for _, pull in found]

    return Replay(match, run.device, run.notes)


def match_classes(match: Callable, real: list[tuple[int, Tensor]], omega: Augmentation, x: Tensor, y: Tensor, task: Task, together: int = 16) -> tuple[Tensor, Tensor]:
    """(sum over these classes of D, its gradient by all of x (m, *shape)).

    match   `class_match`, which is given so many classes `together`      real   (class, indices into task.train)      y  (m,) the class of each example of x
    """
    total, pull = x.new_zeros(()), torch.zeros_like(x)
    rows = [(y == c).nonzero().squeeze(1) for c, _ in real]
    classes = [(indices, task.train.labels[indices], own, y[own]) for (_, indices), own in zip(real, rows, strict=True)]
    for k in range(0, len(classes), together):
        value, parts = match(classes[k : k + together], omega, x.detach())
        total = total + value
        pull[sent(torch.cat(rows[k : k + together]), x.device)] = torch.cat(parts)
    return total, pull
