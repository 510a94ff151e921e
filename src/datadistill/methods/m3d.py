"""M3D: dataset condensation by minimizing maximum mean discrepancy (Zhang et al., AAAI 2024).

    repeat K times
        theta ~ P(theta), a fresh, untrained network psi, kept for `per_net` iterations
        L = sum_c MMD^2(psi(omega_c(T_c)), psi(omega_c(S_c)))         in the space of a Gaussian kernel: all moments, not the mean alone
        S <- S - eta dL/dS                                           S in grids of factor x factor, as IDC keeps it

Differences from the paper: its Gaussian kernel's width is not given there, here it is the sum over five, from a quarter to
four times the mean squared distance of the features of both sides; K and eta are ours for the same reason. Every draw has a
name; the classes' losses are summed for one step, where theirs steps after each class (by plain descent the same but for
momentum); S is kept within legal values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..data.task import Task
from ..match import distribution
from ..match.statistics import mmd2
from ..run import Run
from ..synthetic import SyntheticSet
from .base import TABLE, Paper
from .matching import ADAM, SGD, Batches, Matching, descend, own_items


@final
@dataclass(frozen=True, kw_only=True)
class M3D(Matching):
    """Match each class's whole distribution of embeddings, by the mean in a kernel's space."""

    name: ClassVar = "m3d"
    stores: ClassVar = "items"
    when: ClassVar = "as DM, when more than the mean of features should agree"
    family: ClassVar = "distribution"
    papers_form: ClassVar = "multiform:2"
    paper: ClassVar = Paper(title="M3D: Dataset Condensation by Minimizing Maximum Mean Discrepancy", venue="AAAI 2024", arxiv="2312.15927")
    quick: ClassVar = {"iterations": 200, "width": 32, "real_batch": 64, **ADAM, "init": "representative"}
    quick_table: ClassVar = {**TABLE, **SGD, "lr": 0.3}

    iterations: int = 10_000  # K
    lr: float = 1.0  # eta, with sgd times the items of the largest class: an item's share of L goes down with their number
    form: str = "auto"  # multiform:2 for pictures of 28 pixels a side and more
    per_net: int = 10  # iterations with one network
    scales: int = 5  # Gaussians in the kernel

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        syn = self.start(task, run)
        optimizer = self.optimizer_for(syn, int(task.quota.max()))
        pieces, batches = self.pieces(task, run), Batches(task, run, self.real_batch, self.sampling)
        items, y = own_items(task, run, syn)

        for it in run.steps(self.iterations, syn, optimizer, batches):
            theta = self.network(task, run, "theta", it // self.per_net).requires_grad_(False)
            psi = self.through(theta.embed, self.omega(task, run, "omega", it))
            real = batches.draw(it, theta, pieces)
            x = syn.examples(items)
            loss, gradient = per_class(psi, real, x.detach(), y, lambda t, s, c: mmd2(t, s, self.scales), task, run, pieces)
            descend(run, optimizer, syn, x, loss, gradient)
            run.log(it, loss=loss / len(task.classes))
        return syn


def per_class(psi: distribution.Embed, real: list[tuple[int, Tensor]], x: Tensor, y: Tensor, compare, task: Task, run: Run, pieces) -> tuple[Tensor, Tensor]:
    """(sum over classes of compare(features of T_c, features of S_c, c), its gradient by all of x (m, *shape)).

    real   (class, indices into task.train)      y  (m,) the class of each example of x
    """
    target: dict[int, Tensor] = {}
    for c, indices in real:

        def read(piece: slice, indices: Tensor = indices) -> Tensor:
            return task.train.read(indices[piece], run.device)

        target[c] = distribution.all_features(psi, read, task.train.labels[indices], pieces)

    def loss(features: Tensor) -> Tensor:
        return torch.stack([compare(target[c], features[(y == c).to(features.device)], c) for c in target]).sum()

    return distribution.through(psi, x, y, loss, pieces)
