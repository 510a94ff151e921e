"""RFAD: efficient dataset distillation using random feature approximation (Loo, Hasani, Amini & Rus, NeurIPS 2022).

Algorithm 1, in the paper's letters:
    repeat
        theta_1 .. theta_N ~ P(theta)                   fresh, untrained networks;   X_t, y_t ~ T
        K_ab = (1 / N) sum_k f_k(X_a) f_k(X_b)^T        their features: N times as many random features of the NNGP kernel
        L = cross-entropy of tau K_ts (K_ss + lambda I)^-1 y_s with the classes of T         Platt's scaling: tau is learned
        X_s, y_s, tau <- a step of Adam down L

Differences from the authors' code: Adam for AdaBelief; no learned transform of the pixels before the network (theirs is 3072 x 3072,
and no part of the set); no ZCA; our ConvNet has instance norm and torch's initial weights, so that K is the NNGP of that network, theirs no
norm and He's weights; K is without the part of the head's bias, theirs with 0.01; a number of iterations is given, theirs end when a
held-out loss has not improved for 1000; 5000 real examples, theirs 5120; S is kept within legal values. As theirs, lambda is
5e-3 tr(K_ss) / n, tau has a step size of its own, and the regression is solved in double precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..data.task import Task
from ..match import distribution, kernel
from ..run import Run
from ..synthetic import SyntheticSet
from .base import Paper
from .matching import descend
from .regression import Features


@final
@dataclass(frozen=True, kw_only=True)
class RFAD(Features):
    """Learn examples and labels so that regression on the features of untrained networks is right on T."""

    name: ClassVar = "rfad"
    paper: ClassVar = Paper(title="Efficient Dataset Distillation using Random Feature Approximation", venue="NeurIPS 2022", arxiv="2210.12067")
    stores: ClassVar = "items and learned outputs"
    when: ClassVar = "as KIP where its exact kernel does not fit: networks are drawn, none is trained"
    quick: ClassVar = {"iterations": 200, "lr": 0.02, "real_batch": 256, "nets": 2, "width": 32, "lr_tau": 0.03, "init": "representative"}

    iterations: int = 10_000
    lr: float = 1e-3  # of Adam, on X_s and y_s
    lr_tau: float = 0.01  # on log tau
    real_batch: int = 5000
    ridge: float = 5e-3  # lambda, as a multiple of the mean of K_ss's diagonal
    nets: int = 8  # N
    width: int | None = 256  # 4096 features a network of a convnet on 32 x 32

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        syn, learned = self.start(task, run)
        moved = [*learned.outputs(), learned.log_tau]
        optimizer = torch.optim.Adam([{"params": [*syn.parameters(), *learned.outputs()]}, {"params": [learned.log_tau], "lr": self.lr_tau}], lr=self.lr)
        pieces = self.pieces(task, run)

        for it in run.steps(self.iterations, syn, learned, optimizer):
            psis = [self.network(task, run, "theta", it, k) for k in range(self.nets)]

            def f(x: Tensor, psis=psis) -> Tensor:
                return torch.cat([psi.embed(x) for psi in psis], 1) / self.nets**0.5

            rows, size = self.rows(task, run, it)
            f_t, y_t = self.of_real(f, task, run, rows, pieces).double(), task.train.labels[rows].to(run.device)

            def loss(f_s: Tensor, f_t=f_t, y_t=y_t, size=size) -> Tensor:
                f_s = f_s.double()
                said = kernel.predict(f_s @ f_s.T, f_t @ f_s.T, learned.of_examples(syn.each), self.ridge)
                return kernel.platt(said, y_t, learned.log_tau).sum() / size

            x = syn.examples()
            value, g, *others = distribution.through(lambda x, c, f=f: f(x), x.detach(), torch.zeros(len(x)), loss, pieces, moved)
            run.log(it, loss=descend(run, optimizer, syn, x, value, g, moved, others), tau=learned.log_tau.exp())
        return self.done(syn, learned)
