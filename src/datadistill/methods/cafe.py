"""CAFE: learning to condense dataset by aligning features (Wang et al., CVPR 2022).

Algorithm 1, in the paper's letters:
    repeat K times
        theta ~ P(theta)
        until the net's accuracy on T no longer changes (its range over ten rounds below lambda_1):
            L_f = sum_l w_l sum_c || mean f_l(T_c) - mean f_l(S_c) ||^2            layers l = 1..L, and the features before the head
            L_d = - sum_{x in T} log softmax_y <f_L(x), mean f_L(S_y)>              real features told apart by synthetic centres
            S <- S - eta grad_S (L_f + beta L_d)
            train theta on S until its accuracy on T has changed (its range over ten epochs above lambda_2)

Differences from the authors' code: every draw has a name; examples go through the net in pieces, real ones without gradient
(their loss also holds the cross-entropy of T, which has none by S); S is kept within legal values; both loops of rounds end
after `rounds` at most (theirs need not end); classes may differ in number and size (theirs are 10 x 3 x 32 x 32). As in their code
the features before the head count twice, the last layer once, and layers before it a tenth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import nets
from ..data.task import Task
from ..match import distribution
from ..match.pieces import add_
from ..memory import Pieces
from ..nets.layers import hidden
from ..run import Run
from ..synthetic import Start, SyntheticSet
from ..training.slopes import Slopes
from .base import TABLE, Paper
from .matching import ADAM, Batches, Fresh, Matching, cool, descend, minibatches

HALVED = (0.6, 0.8, 0.9)  # of the iterations: where eta is halved (the authors' 1200, 1600 and 1800 of 2000)


@final
@dataclass(frozen=True, kw_only=True)
class CAFE(Matching):
    """Match class means in every layer, and let synthetic centres classify real features."""

    name: ClassVar = "cafe"
    stores: ClassVar = "items"
    when: ClassVar = "as DM, when features of all layers should agree"
    family: ClassVar = "distribution"
    paper: ClassVar = Paper(title="CAFE: Learning to Condense Dataset by Aligning Features", venue="CVPR 2022", arxiv="2203.01531")
    quick: ClassVar = {"iterations": 8, "rounds": 4, "width": 16, "lr": 0.5, "real_batch": 64, "init": "representative"}
    quick_table: ClassVar = {**TABLE, "iterations": 40, **ADAM, "lr": 0.05}

    iterations: int = 2000  # K
    lr: float = 0.1  # eta
    init: Start = "noise"
    augment: bool = False  # true: CAFE+DSA
    beta: float = 0.01
    lambda_1: float = 0.04
    lambda_2: float = 0.03
    rounds: int = 20  # of either loop, at most
    lr_net: float = 0.01
    batch_train: int = 256

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        syn = self.start(task, run)
        optimizer = self.optimizer_for(syn)
        pieces, batches = self.pieces(task, run), Batches(task, run, self.real_batch, self.sampling, every=1)
        y = syn.example_labels().hard
        fresh = Fresh(self, task, run)
        theta = fresh.net.requires_grad_()
        slopes = Slopes(theta, pieces, run.device)

        for it in run.steps(self.iterations, syn, optimizer, batches):
            cool(optimizer, lambda it: 0.5 ** sum(it >= round(at * self.iterations) for at in HALVED), it)
            fresh.draw("theta", it)
            down = torch.optim.SGD(theta.parameters(), lr=self.lr_net)
            watched: list[float] = []
            for r in range(self.rounds):
                x, omega = syn.examples(), self.omega(task, run, "omega", it, r)
                real = torch.cat([indices for _, indices in batches.draw(it * self.rounds + r, theta, pieces)])
                loss, gradient = align(self.through(partial(layers_of, theta), omega), theta.head.in_features, real, x.detach(), y, self.beta, task, run, pieces)
                descend(run, optimizer, syn, x, loss, gradient)
                if r == 0:
                    run.log(it, loss=loss / len(task.classes))
                watched = [*watched[-9:], self._accuracy(theta, task, run, pieces, it, r)]
                if len(watched) == 10 and max(watched) - min(watched) < self.lambda_1:
                    break
                for e in self._until_changed(theta, task, run, pieces, it, r):
                    for batch in minibatches(task, syn.examples().detach(), y, 1, self.batch_train, self.augment, partial(run.rng, "inner", it, r, e)):
                        slopes.step(down, *batch)
        return syn

    def _until_changed(self, theta: nets.Net, task: Task, run: Run, pieces: Pieces, it: int, r: int) -> Iterator[int]:
        watched: list[float] = []
        for e in range(self.rounds):
            yield e
            watched = [*watched[-9:], self._accuracy(theta, task, run, pieces, it, r, e)]
            if len(watched) == 10 and max(watched) - min(watched) > self.lambda_2:
                return

    @torch.no_grad()
    def _accuracy(self, theta: nets.Net, task: Task, run: Run, pieces: Pieces, *key: int) -> float:
        """The mean over classes of the accuracy on 128 real examples of each."""
        rows = [task.train.pick(c, 128, run.rng("watch", c, *key)) for c in task.classes]
        flat = torch.cat(rows)
        hit = torch.cat(pieces.map(len(flat), lambda p: (theta(task.train.read(flat[p], run.device)).argmax(1).cpu() == task.train.labels[flat[p]]).float()))
        return float(torch.stack([own.mean() for own in hit.split([len(r) for r in rows])]).mean())


def layers_of(theta: nets.Net, x: Tensor) -> Tensor:
    """(n, ...) all layers side by side, each times the root of its weight, the features before the head last."""
    layers, last = hidden(theta, x)
    weights = [0.1] * (len(layers) - 1) + [1.0]
    return torch.cat([*(w**0.5 * layer.flatten(1) for w, layer in zip(weights, layers, strict=False)), 2**0.5 * last], 1)


def align(f: distribution.Embed, size: int, real: Tensor, x: Tensor, y: Tensor, beta: float, task: Task, run: Run, pieces: Pieces) -> tuple[Tensor, Tensor]:
    """(L_f + beta L_d, its gradient by x (m, *shape) of classes y (m,)).

    f    `layers_of` examples, of which the last `size` are features      real   (k,) indices into task.train of this rank's classes
    """
    labels = task.train.labels[real]

    sums: list[Tensor] = []

    @torch.no_grad()
    def part(piece: slice) -> Tensor:
        features = f(task.train.read(real[piece], run.device), labels[piece])
        last = features[:, -size:] / 2**0.5
        add_(sums, distribution.class_sums(features, labels[piece], len(task.classes)))
        return last

    last, labels = torch.cat(pieces.map(len(real), part)), labels.to(x.device)
    total, count = sums
    target, own = total / count.clamp(min=1), (count > 0).to(total)

    def loss(features: Tensor) -> Tensor:
        centres = distribution.class_means(features, y, target)
        told_apart = F.cross_entropy(last @ (centres[:, -size:] / 2**0.5).T, labels, reduction="sum")
        return distribution.discrepancy(own * target, own * centres) + beta * told_apart

    return distribution.through(f, x, y, loss, pieces)
