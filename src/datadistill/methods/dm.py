"""DM: dataset condensation with distribution matching (Zhao & Bilen, WACV 2023).

Algorithm 1, in the paper's letters:
    repeat K times
        theta ~ P(theta)                                          a fresh, untrained network psi
        L = sum_c || mean psi(omega_c(B_T)) - mean psi(omega_c(B_S)) ||^2      one omega_c for both sides
        S <- S - eta dL/dS

Differences from the authors' code: every draw has a name (theirs come from the clock); classes go through psi together, in
pieces of `chunk` examples, real ones without gradient (the same sums, less memory); S is kept within legal values after each step; a class
with fewer than |B_T| examples gives all it has; classes may have different numbers of synthetic examples.
Refused: networks with batch norm, whose features depend on what else is in the piece.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..data.task import Task
from ..match import distribution
from ..modalities import Augmentation
from ..replay import Replay
from ..run import Run
from ..synthetic import SyntheticSet
from .base import Paper
from .matching import ADAM, Batches, Fresh, Matching, descend, own_items


@final
@dataclass(frozen=True, kw_only=True)
class DM(Matching):
    """Match each class's mean embedding under freshly drawn, untrained networks."""

    name: ClassVar = "dm"
    stores: ClassVar = "items"
    when: ClassVar = "the distillation to try first: cheap, no inner loop, few settings"
    family: ClassVar = "distribution"
    paper: ClassVar = Paper(title="Dataset Condensation with Distribution Matching", venue="WACV 2023", arxiv="2110.04181")
    quick: ClassVar = {"iterations": 300, "width": 32, "real_batch": 64, **ADAM, "init": "representative"}

    iterations: int = 20_000  # K
    lr: float = 1.0  # eta, on the synthetic examples; the authors take 10 from 100 per class on

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        syn = self.start(task, run)
        optimizer = self.optimizer_for(syn)
        pieces, batches = self.pieces(task, run), Batches(task, run, self.real_batch, self.sampling)
        items, y = own_items(task, run, syn)
        psi = Fresh(self, task, run)

        def match(real: Tensor, c: Tensor, omega: Augmentation, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            embed = self.through(psi.net.embed, omega)
            target = distribution.means(embed, lambda piece: task.train.read(real[piece], run.device), c, len(task.classes), pieces)
            return distribution.descent(embed, x, y, target, pieces)

        replay = Replay(match, run.device, run.notes)
        for it in run.steps(self.iterations, syn, optimizer, batches):
            real = torch.cat([indices for _, indices in batches.draw(it, psi.draw("theta", it), pieces)])
            x = syn.examples(items)
            loss, gradient = replay(real, task.train.labels[real], self.omega(task, run, "omega", it), x.detach(), y)
            descend(run, optimizer, syn, x, loss, gradient)
            run.log(it, loss=loss)
        return syn
