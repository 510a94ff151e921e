"""DM: dataset condensation with distribution matching (Zhao & Bilen, WACV 2023).

Algorithm 1, in the paper's letters:
    repeat K times
        theta ~ P(theta)                                          a fresh, untrained network psi
        L = sum_c || mean psi(omega_c(B_T)) - mean psi(omega_c(B_S)) ||^2      one omega_c for both sides
        S <- S - eta dL/dS

Differences from the authors' code: every draw has a name (theors come from the clock); classes go through psi together, in
pieces of `chunk` examples, real ones without gradient (the same sums, less memory); S is kept within legal values after each step; a class
with fewer than |B_T| examples gives all it has; classes may have different numbers of synthetic examples.
Refused: networks with batch norm, whose features depend on what else is in the piece.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from .. import nets
from ..data.task import Task
from ..errors import UsageError
from ..match import distribution
from ..memory import Pieces
from ..modalities import Modality
from ..run import Run
from ..synthetic import SyntheticSet
from .base import Method, Paper


@final
@dataclass(frozen=True, kw_only=True)
class DM(Method):
    """Match each class's mean embedding under freshly drawn, untrained networks."""

    name: ClassVar = "dm"
    family: ClassVar = "distribution"
    paper: ClassVar = Paper(title="Dataset Condensation with Distribution Matching", venue="WACV 2023", arxiv="2110.04181")
    needs: ClassVar = frozenset({"continuous"})
    scales_over: ClassVar = "classes"

    iterations: int = 20_000  # K
    lr: float = 1.0  # eta, on the synthetic examples
    momentum: float = 0.5
    real_batch: int = 256  # |B_T|, per class
    net: str = "auto"  # psi; auto: the modality's first
    width: int | None = None  # of psi; none: the family's own, which is the paper's 128 for a convnet
    init: Literal["real", "noise"] = "real"
    augment: bool = True  # omega
    chunk: int | None = None  # examples through psi at once, a knob for memory that changes no result; none: what fits the caches

    def check(self, modality: Modality) -> None:
        super().check(modality)
        family = self.net_for(modality)
        if family in nets.FAMILIES and nets.FAMILIES[family].batch_norm:
            good = [name for name in modality.nets if not nets.FAMILIES[name].batch_norm]
            raise UsageError(f"dm through net {family!r}, which has batch norm", f"a net without it: {' or '.join(good)}", f"--set net={good[0]}")

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        self.check(task.modality)
        syn = SyntheticSet.init(task, self.init, run.rng("init")).to(run.device)
        optimizer = torch.optim.SGD([syn.x], lr=self.lr, momentum=self.momentum)
        pieces = Pieces(self.chunk or self._chunk(task, run), "piece", run.notes)
        own = run.share(task.classes)
        rows = torch.isin(syn.y, torch.tensor(own)).nonzero().squeeze(1)

        for it in run.steps(self.iterations, syn, optimizer):
            psi = self._psi(task, run.rng("theta", it)).to(run.device)
            omega = task.modality.augment(run.rng("omega", it), len(task.classes)) if self.augment else _as_it_is
            real = torch.cat([task.train.pick(c, self.real_batch, run.rng("real", it, c)) for c in own])

            def embed(x: Tensor, c: Tensor, psi=psi, omega=omega) -> Tensor:
                return psi.embed(omega(x, c))

            def read(piece: slice, real=real) -> Tensor:
                return task.train.read(real[piece]).to(run.device)

            target = distribution.means(embed, read, task.train.labels[real], len(task.classes), pieces)
            loss, gradient = distribution.descent(embed, syn.x[rows], syn.y[rows], target, pieces)

            def backward(loss=loss, gradient=gradient) -> Tensor:
                syn.x.grad = torch.zeros_like(syn.x).index_copy_(0, rows.to(run.device), gradient)
                return loss

            run.descend(optimizer, backward)
            syn.clamp_()
            run.log(it, loss=loss)
        return syn

    def _psi(self, task: Task, rng: torch.Generator) -> nets.Net:
        size = {} if self.width is None else {"width": self.width}
        return nets.build(self.net_for(task.modality), task.spec, rng, **size).requires_grad_(False)

    def _chunk(self, task: Task, run: Run) -> int:
        """So many that psi's largest activation takes 16 MiB on a CPU, which caches and allocator like best, or 1 GiB on a GPU."""
        largest = nets.largest_activation(self._psi(task, run.rng("chunk")), task.spec.shape)
        return max(1, min(4096, (2**24 if run.device.type == "cpu" else 2**30) // largest))


def _as_it_is(x: Tensor, group: Tensor) -> Tensor:
    return x
