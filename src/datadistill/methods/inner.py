"""What methods with an inner loop share: hyper-parameters, the loss on minibatches of S, a learned step size, averages over loops."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.task import Task
from ..match.pieces import gradients
from ..memory import Pieces
from ..modalities import Augmentation, Modality
from ..replay import sent
from ..run import Run
from ..synthetic import Start, SyntheticSet, forms
from ..training.unroll import Flat, Keep, Loss
from .base import Method
from .matching import without_batch_norm

Draw = tuple[Tensor, Augmentation | None]


@dataclass(frozen=True, kw_only=True)
class Inner(Method):
    """A method that trains on S and differentiates that training. Abstract: the hyper-parameters that all of them have."""

    needs: ClassVar = frozenset({"continuous"})

    iterations: int
    lr: float  # of the synthetic items, in network space
    batch: int | None = None  # of the inner loop; none: all of S
    net: str = "auto"  # auto: the modality's first
    width: int | None = None  # none: the family's own, which is the papers' 128 for a convnet
    init: Start = "real"  # representative: real examples in the middle of their class's clusters
    form: str = "pixels"  # what is stored: pixels, multiform:2, ... (see synthetic/forms.py)
    augment: bool = True
    chunk: int | None = None  # examples through the net at once, a knob for memory that changes no result; none: a whole minibatch
    memory: float | None = None  # GiB for graphs of inner steps, those that do not fit are made again; none: 1, or half of what a GPU has free

    def check(self, modality: Modality) -> None:
        super().check(modality)
        forms.check(self.form, modality)
        without_batch_norm(self, modality)

    def start(self, task: Task, run: Run) -> SyntheticSet:
        """S at the beginning, on the run's device."""
        self.check(task.modality)
        return SyntheticSet.init(task, self.init, run.rng("init"), self.form).to(run.device)

    def room(self, run: Run) -> dict[str, Any]:
        """For `unroll`: how many examples at once, and how much memory for graphs."""
        limit = 2**30 if run.device.type != "cuda" else torch.cuda.mem_get_info(run.device)[0] / 2
        return {"pieces": Pieces(self.chunk or sys.maxsize, "piece of S", run.notes), "keep": Keep(limit if self.memory is None else self.memory * 2**30, run.notes)}

    def draw(self, task: Task, run: Run, n: int, i: int, *key: str | int) -> Draw:
        """The i-th minibatch of n examples in the inner loop of this name, and omega, one draw for each of them, if they are augmented."""
        size = min(self.batch or n, n)
        epoch, at = divmod(i, -(-n // size))
        rows = torch.arange(n) if size == n else torch.randperm(n, generator=run.rng("batch", *key, epoch))[at * size : (at + 1) * size]
        return rows, task.modality.augment(run.rng("omega", *key, i), len(rows)) if self.augment else None

    def loss(self, net: Flat, task: Task, run: Run, y: Tensor, *key: str | int) -> Loss:
        """`loss_on` minibatches that are drawn when they are asked for."""
        return self.loss_on(net, y.to(run.device), lambda i: self.draw(task, run, len(y), i, *key))

    def loss_on(self, net: Flat, y: Tensor, drawn: Callable[[int], Draw]) -> Loss:
        """Of x and logits: cross-entropy on the i-th minibatch of the examples x (n, *shape), each augmented by itself.

        y (n,) their classes, where the net is, used where no learned logits (n, classes) of soft labels are given
        """
        n, size = len(y), min(self.batch or len(y), len(y))

        def part(theta: Tensor, i: int, piece: slice, x: Tensor, logits: Tensor | None = None) -> Tensor:
            batch, omega = drawn(i)
            own = sent(batch[piece], x.device)
            shown = x if len(own) == n else x[own]
            if omega is not None:
                shown = omega(shown, torch.arange(piece.start, piece.start + len(own), device=x.device))
            return F.cross_entropy(net(theta, shown), y[own] if logits is None else F.softmax(logits[own], 1), reduction="sum") / len(batch)

        return Loss(lambda i: min(size, n - i % -(-n // size) * size), part)


class Rate(nn.Module):
    """alpha, one or several step sizes that are learned as logarithms and so stay positive: from 1e-5 to 1, or to where they began.

    Slopes are cut off, so that one bad step cannot end it.
    """

    def __init__(self, alpha: float, *shape: int, steepest: float = 5.0):
        super().__init__()
        self.log = nn.Parameter(torch.full(shape, math.log(alpha)))
        self.log.register_hook(lambda slope: slope.clamp(-steepest, steepest))
        self.range = math.log(min(alpha, 1e-5)), math.log(max(alpha, 1.0))

    def forward(self) -> Tensor:
        self.log.data.clamp_(*self.range)  # where the last descent may have left it
        return self.log.exp()


def average(run: Run, n: int, optimizer: torch.optim.Optimizer, one: Callable[[int], Tensor]) -> Callable[[], Tensor]:
    """For run.descend: the mean of one(0), ..., one(n - 1) and its gradients, each made by itself and shared over ranks."""

    def backward() -> Tensor:
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            p.grad = torch.zeros_like(p)
        total = torch.zeros((), device=run.device)
        for k in run.share(range(n)):
            loss = one(k) / n
            loss.backward()
            total = total + loss.detach()
        return total

    return backward


def real_loss(net: Flat, theta: Tensor, task: Task, run: Run, rows: Tensor, pieces: Pieces, augment: tuple[str | int, ...] | None) -> tuple[Tensor, float]:
    """(mean cross-entropy of theta on these real examples, done in pieces and differentiable in theta, once; the accuracy).

    augment   the key of one draw for each example; none: as they are
    """
    omega = task.modality.augment(run.rng("real omega", *augment), len(rows)) if augment is not None else None
    leaf = theta.detach().requires_grad_()
    right: dict[int, int] = {}  # by where a piece begins: one that is done again replaces itself

    def loss_sum(piece: slice) -> Tensor:
        x, y = task.train.read(rows[piece], run.device), task.train.labels[rows[piece]].to(run.device)
        logits = net(leaf, x if omega is None else omega(x, torch.arange(piece.start, piece.stop)))
        right[piece.start] = int((logits.argmax(1) == y).sum())
        return F.cross_entropy(logits, y, reduction="sum") / len(rows)

    loss, (slope,) = gradients(pieces, len(rows), loss_sum, [leaf])
    return loss + (theta - leaf.detach()) @ slope, sum(right.values()) / len(rows)
