"""Label distillation: learn labels instead of images (Bohdal, Yang & Hospedales, "Flexible Dataset Distillation", 2020).

Algorithm 2 (ridge regression), in the paper's letters:
    x~ <- real examples of each class, which stay;   y~ <- their labels;   theta <- a fresh network f
    repeat K times
        (x, y) <- a batch of T
        W <- argmin_W || f(x~) W - y~ ||^2 + lambda ||W||^2                      in closed form
        L <- cross-entropy of alpha f(x) W with y                                alpha learned (their beta changes nothing)
        y~ <- y~ - eta dL/dy~;   theta <- theta - eta_theta dL/dtheta
        every `per_net` iterations: theta <- a fresh network                     (theirs: when validation no longer improves)

Differences from the authors' code: y~ is a softmax of learned logits, so that it is a distribution (theirs is any vector), less
1/C in the regression; labels start smoothed; Adam for both; examples go through the net in pieces, with the same gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import nets
from ..data.task import Task
from ..labels import Soft
from ..match import ridge
from ..match.pieces import add_
from ..memory import Pieces
from ..modalities import Modality
from ..run import Run
from ..synthetic import Choice, SyntheticSet
from ..synthetic.set import real_indices
from ..training.embedding import narrow
from .base import Method, Paper
from .matching import without_batch_norm


@final
@dataclass(frozen=True, kw_only=True)
class LabelDistillation(Method):
    """Real examples as they are, with learned soft labels."""

    name: ClassVar = "label-distillation"
    stores: ClassVar = "real examples, learned soft labels"
    soft_labels: ClassVar = True
    shares: ClassVar = frozenset({"smoothing"})
    when: ClassVar = "when the items must stay real"
    family: ClassVar = "kernel"
    paper: ClassVar = Paper(title="Flexible Dataset Distillation: Learn Labels Instead of Images", venue="NeurIPS 2020 workshop on meta-learning", arxiv="2006.08572")
    quick: ClassVar = {"iterations": 300, "real_batch": 256, "per_net": 100, "width": 32, "init": "representative"}

    iterations: int = 5000  # K
    lr: float = 0.05  # eta, on the logits of y~
    lr_net: float = 0.001  # eta_theta
    ridge: float = 1.0  # lambda, times the mean squared length of f(x~)
    real_batch: int = 1024  # of all classes together
    per_net: int = 500
    smoothing: float = 0.1  # mass that each label gives to the other classes at the start
    net: str = "auto"  # f
    width: int | None = None
    init: Choice = "real"  # x~; representative: those in the middle of their class's clusters
    augment: bool = True  # of real examples
    chunk: int = 64  # examples through the net at once: memory, no result

    def check(self, modality: Modality) -> None:
        super().check(modality)
        without_batch_norm(self, modality)

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        self.check(task.modality)
        indices = real_indices(task, run.rng("select"), how=self.init)
        y = task.train.labels[indices]
        held, pieces = Learned(smoothed(y, len(task.classes), self.smoothing)).to(run.device), Pieces(self.chunk, "piece", run.notes)
        optimizer = torch.optim.Adam(held.parameters(), lr=self.lr)
        theta = narrow(self.net_for(task.modality), task.spec, self.width, run.rng("theta", 0)).to(run.device)
        down = torch.optim.Adam(theta.parameters(), lr=self.lr_net)
        x = task.train.read(indices, run.device)

        for it in run.steps(self.iterations, held, optimizer, theta, down):
            if it % self.per_net == 0:
                theta.load_state_dict(narrow(self.net_for(task.modality), task.spec, self.width, run.rng("theta", it)).state_dict())
                down.state.clear()
            rows = torch.randperm(len(task.train), generator=run.rng("real", it))[: self.real_batch]
            real, target = task.train.read(rows, run.device), task.train.labels[rows].to(run.device)
            if self.augment:
                real = task.modality.augment(run.rng("omega", it), len(rows))(real, torch.arange(len(rows)))

            def backward(real=real, target=target) -> Tensor:
                return self._backward(theta, held, x, real, target, pieces)

            run.log(it, loss=run.descend(optimizer, backward))
            down.step()
        return SyntheticSet(x.cpu(), Soft(held.logits, y), task.modality, rows=task.train.stored[indices], origin=indices)

    def _backward(self, theta: nets.Net, held: Learned, x: Tensor, real: Tensor, target: Tensor, pieces: Pieces) -> Tensor:
        """Gradients of L where they belong, in `held` and theta; L."""
        both = torch.cat([x, real])
        with torch.no_grad():
            features = torch.cat(pieces.map(len(both), lambda piece: theta.embed(both[piece])))
        features.requires_grad_()
        loss = held.loss(features[: len(x)], features[len(x) :], target, self.ridge)
        pull, *own = torch.autograd.grad(loss, [features, *held.parameters()])
        for p, g in zip(held.parameters(), own, strict=True):
            p.grad = g
        weights, total = [p for name, p in theta.named_parameters() if not name.startswith("head.")], []

        def part(piece: slice) -> None:
            add_(total, torch.autograd.grad(theta.embed(both[piece]), weights, pull[piece]))

        if weights:
            pieces.map(len(both), part)
        for p, g in zip(weights, total, strict=True):
            p.grad = g
        return loss.detach()


class Learned(nn.Module):
    """The logits of y~ (n, classes), and alpha."""

    def __init__(self, logits: Tensor):
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.alpha = nn.Parameter(torch.ones((), dtype=logits.dtype))

    def loss(self, synthetic: Tensor, real: Tensor, target: Tensor, strength: float) -> Tensor:
        """Cross-entropy of the real examples' labels under the ridge regression of y~ on the synthetic features (n, d)."""
        labels = F.softmax(self.logits, 1) - 1 / self.logits.shape[1]
        size = strength * synthetic.detach().square().sum(1).mean()
        return F.cross_entropy(self.alpha * ridge.predict(real, synthetic, labels, size), target)


def smoothed(y: Tensor, classes: int, smoothing: float) -> Tensor:
    """(n, classes) logits of labels that give `smoothing` of their mass to the other classes, in equal parts."""
    mass = torch.full((len(y), classes), smoothing / max(1, classes - 1))
    mass[torch.arange(len(y)), y] = 1 - smoothing
    return mass.clamp(min=1e-6).log()
