"""KIP: kernel inducing points (Nguyen, Chen & Lee, "Dataset Meta-Learning from Kernel Ridge-Regression", ICLR 2021; and Nguyen,
Novak, Xiao & Lee, "Dataset Distillation with Infinitely Wide Convolutional Networks", NeurIPS 2021).

Algorithm 1, in the paper's letters:
    repeat
        X_t, y_t ~ T
        L = 1/2 mean || y_t - K_ts (K_ss + lambda I)^-1 y_s ||^2        K: the exact NTK of an infinitely wide network,
                                                                        lambda = 1e-6 tr(K_ss) / n;  y: centred classes
        X_s <- X_s - eta dL/dX_s                                        and y_s, with learn_labels

Differences from the authors' code: images are standardised by channel, no ZCA and no augmentation; S is kept within legal values;
convolutions are followed by 2x2 means, and the head sees every position, as in their ConvNet, which has one more convolution, without
means, in front; the kernel is computed in rows that fit in `memory`. The convolutional kernel holds the covariance of every two pixels
of a pair: their sets took hundreds of GPUs, and here it is for small pictures (8 x 8: a millisecond a pair on a CPU; 28 x 28: 150 times
that). What does not fit is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from ..data.task import Task
from ..errors import Resources, UsageError
from ..match import kernel
from ..memory import Pieces
from ..modalities import Modality
from ..run import Run
from ..synthetic import SyntheticSet
from ..text import size
from .base import Paper
from .matching import descend
from .regression import Regression


@final
@dataclass(frozen=True, kw_only=True)
class KIP(Regression):
    """Learn examples so that regression on them, in the kernel of an infinitely wide network, is right on T."""

    name: ClassVar = "kip"
    paper: ClassVar = Paper(title="Dataset Meta-Learning from Kernel Ridge-Regression", venue="ICLR 2021", arxiv="2011.00050")
    when: ClassVar = "tables and small pictures, few items: no network is trained or drawn"
    quick: ClassVar = {"iterations": 150, "real_batch": 1000, "lr": 0.02, "init": "representative"}
    quick_table: ClassVar = {"lr": 0.04, "bias": 1.0}  # with next to none, what a network says of a row grows with the row

    iterations: int = 10_000
    lr: float = 0.04  # eta, of Adam
    real_batch: int = 5000
    ridge: float = 1e-6  # lambda, as a multiple of the mean of K_ss's diagonal
    learn_labels: bool = False
    kernel: Literal["fc", "conv"] = "fc"  # of a fully connected network, or of a convolutional one with pooling
    limit: Literal["ntk", "nngp"] = "ntk"  # a wide network after training, or before
    depth: int = 3  # hidden layers
    weight: float = 2.0  # variance of weights
    bias: float = 0.01  # variance of biases
    memory: float = 0.25  # GiB for the graph of a part of the kernel

    def check(self, modality: Modality) -> None:
        super().check(modality)
        if self.kernel == "conv" and "grid" not in modality.traits:
            raise UsageError(f"{self.name} with kernel=conv on {modality.name} data, which are no grid", "kernel=fc", "--set kernel=fc")

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        syn, learned = self.start(task, run)
        optimizer = torch.optim.Adam([*syn.parameters(), *learned.outputs()], lr=self.lr)
        pieces = self.rows_that_fit(task, run, len(syn) * syn.each)

        for it in run.steps(self.iterations, syn, learned, optimizer):
            rows, size = self.rows(task, run, it)
            t = task.train.read(rows, run.device)
            y_t = kernel.centred(task.train.labels[rows], len(task.classes)).to(run.device)

            def loss(k_ss: Tensor, k_ts: Tensor, y_t=y_t, size=size) -> Tensor:
                return kernel.squared(kernel.predict(k_ss, k_ts, learned.of_examples(syn.each), self.ridge), y_t).sum() / size

            x = syn.examples()
            value, g, *g_y = kernel.descent(self.gram, x.detach(), t, loss, pieces, learned.outputs())
            run.log(it, loss=descend(run, optimizer, syn, x, value, g, learned.outputs(), g_y))
        return self.done(syn, learned)

    def gram(self, x: Tensor, other: Tensor) -> Tensor:
        """(n, m) the kernel of examples x (n, *shape) and other (m, *shape)."""
        of = kernel.convolutional if self.kernel == "conv" else kernel.fully_connected
        return of(x, other, self.depth, self.weight, self.bias)[self.limit == "ntk"]

    def rows_that_fit(self, task: Task, run: Run, n: int) -> Pieces:
        """Rows of the kernel with n examples, as many as fit in `memory`; Resources where one row does not."""
        shape = task.spec.shape
        if self.kernel == "conv" and min(shape[-2:]) >> self.depth == 0:
            raise UsageError(f"{self.name}: depth={self.depth} halves pictures of {shape[-2]} x {shape[-1]} to nothing", "a side of one at the end", f"--set depth={min(shape[-2:]).bit_length() - 1}")
        pair = kernel.pair_bytes(shape) if self.kernel == "conv" else 8 * 16 * (self.depth + 1)
        rows = int((self.memory * 2**30 / pair - n) // (n + 1))  # a row has n pairs, and every example is one with itself
        if rows < 1:
            need = pair * (2 * n + 1)
            enough = f"--set memory={1.1 * need / 2**30:.2g}"
            raise Resources(
                f"{self.name}: one row of the exact {self.kernel} kernel of {n} examples of shape {tuple(shape)} takes {size(need)}",
                f"at most memory={self.memory:g} GiB",
                f"--set kernel=fc, --method rfad or frepo, smaller pictures, or {enough}" if self.kernel == "conv" else enough,
            )
        return Pieces(rows, "row of the kernel", run.notes)
