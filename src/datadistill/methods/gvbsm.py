"""G-VBSM: generalised large-scale data condensation via various backbone and statistical matching (Shao et al., CVPR 2024).

    teachers of several families, shown one after the other, a step each
    in every batch norm: mean and variance of channels;  in every convolution: those, and those of squares of positions
    L = CE + r sum_l w_l sum of || target - S ||_2;   S's statistics are averaged over steps: alpha before + (1 - alpha) now
    + eta sum_c KL(softmax(l_c / tau) || softmax(l_c)),   l_c the eigenvalues of the Gram matrix of the batch's views of class c
    batches of items in class order;  labels: the mean of the teachers' logits

Defaults are the authors' for CIFAR-10 (lr 0.05, r 0.01, 4000 steps, alpha 0.8, eta 1, tau 4). Their teachers are ResNet-18, ConvNet,
MobileNetV2, WRN and ShuffleNetV2; here the families of `nets` with batch norm.
Differences from the authors' code: as sre2l.py; averages begin at the first batch of each unit, not at zero, and end with it; no layer is
left out at random; statistics of T are those of all its examples together, not means over batches; squares are of 4 x 4 positions for
sides up to 64, else 16 x 16; views are random crops, where their CIFAR script shifts by up to 4 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.task import Task
from ..nets.taps import convolutions_and_norms
from ..run import Run
from ..synthetic import SyntheticSet
from ..training.recover import Guide, Unit, constant, recover
from ..training.relabel import relabel
from ..training.statistics import by_patch, measured
from ..training.targets import Smoothed
from .base import Paper
from .decoupled import Started


@final
@dataclass(frozen=True, kw_only=True)
class GVBSM(Started):
    """Match statistics of convolutions, batch norms and patches through several teachers, items of a class kept apart."""

    name: ClassVar = "g-vbsm"
    stores: ClassVar = "items, labels of several teachers"
    when: ClassVar = "as SRe2L, through several teachers: carries over to other networks"
    paper: ClassVar = Paper(title="Generalized Large-Scale Data Condensation via Various Backbone and Statistical Matching", venue="CVPR 2024", arxiv="2311.17950")
    positive: ClassVar = Started.positive | {"tau"}
    shares: ClassVar = Started.shares | {"alpha"}

    net: str = "resnet+vgg"
    iterations: int = 4000
    lr: float = 0.05
    r: float = 0.01
    alpha: float = 0.8
    eta: float = 1.0
    tau: float = 4.0
    batch: int = 100

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        self.check(task.modality)
        phis = self.phis(task, run)
        syn = self.start(task, run)
        side = square(task)
        guides = []
        for phi in phis:
            layers = convolutions_and_norms(phi)
            overall, _ = measured(phi, layers, task.train, run, side)
            guides.append(Guide(phi, Smoothed(layers, by_patch(side), overall, momentum=self.alpha, first=self.first)))
        how = self.recovery(task, crop=constant(self.crop), extra=lambda x, y: self.eta * sameness(x, y, self.tau))
        recover(syn, in_class_order(syn.y, self.batch), guides, how, run)
        syn.labels = relabel(syn, phis, self.labelling(task), run)
        return syn


def square(task: Task) -> int:
    """The side of the squares of positions whose statistics are matched."""
    return 4 if max(task.spec.shape[1:]) <= 64 else 16


def in_class_order(y: Tensor, most: int) -> list[Unit]:
    """Items of a class side by side, at most so many at once."""
    return [Unit.of(("batch", k), items) for k, items in enumerate(torch.argsort(y, stable=True).split(most))]


def sameness(x: Tensor, y: Tensor, tau: float) -> Tensor:
    """sum over classes of KL(softmax(l / tau), a constant, || softmax(l)), l the eigenvalues of the class's Gram matrix of x, pooled to at most 32 x 32."""
    x = F.adaptive_avg_pool2d(x, 32) if max(x.shape[2:]) > 32 else x
    total = x.new_zeros(())
    for c in torch.unique(y).tolist():
        flat = x[y == c].flatten(1)
        if len(flat) > 1:
            own = torch.linalg.eigvalsh(flat @ flat.T)
            total = total + F.kl_div(own.log_softmax(0), (own / tau).softmax(0).detach(), reduction="sum")
    return total
