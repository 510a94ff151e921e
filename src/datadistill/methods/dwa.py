"""DWA: diversity-driven synthesis by directed weight adjustment (Du et al., NeurIPS 2024).

    x <- a random real example for each item
    for each batch, before it is moved:   K times   theta <- theta + rho / K grad CE(phi_theta(x), y) / || grad ||
    SRe2L's loss with a weight of its own on variances:  || mu_l - RM_l ||_2 + lambda_var || sigma^2_l - RV_l ||_2
so that each batch looks through a teacher that was pushed away from what the batch already is.

Defaults are the authors' for CIFAR. ImageNet-1K: var_weight=2.
Differences from the authors' code: as sre2l.py; every batch begins from the teacher as it was trained, where their adjustments add up
over the batches of a class chunk; the ascent is on x without a view.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import nets
from ..data.task import Task
from ..run import Run
from ..synthetic import Start, SyntheticSet
from ..training.recover import Guide, Unit, across, constant, recover
from ..training.relabel import relabel
from ..training.targets import Running
from .base import Paper
from .decoupled import Started


@final
@dataclass(frozen=True, kw_only=True)
class DWA(Started):
    """SRe2L through a teacher whose weights each batch first climbs away with."""

    name: ClassVar = "dwa"
    stores: ClassVar = "items, teacher labels"
    when: ClassVar = "as SRe2L, for more varied items at more than one per class"
    paper: ClassVar = Paper(title="Diversity-Driven Synthesis: Enhancing Dataset Distillation through Directed Weight Adjustment", venue="NeurIPS 2024", arxiv="2409.17612")

    init: Start = "real"
    iterations: int = 1000
    lr: float = 0.25
    r: float = 0.01
    steps: int = 12  # K
    rho: float = 0.015
    var_weight: float = 11.0  # lambda_var

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        self.check(task.modality)
        phis = self.phis(task, run)
        syn = self.start(task, run)
        pushed = [copy.deepcopy(phi) for phi in phis]
        guides = [Guide(net, Running(net, self.first, self.var_weight)) for net in pushed]

        def choose(unit: Unit, x: Tensor, y: Tensor) -> list[Guide]:
            for phi, net in zip(phis, pushed, strict=True):
                push(net, phi, x, y, self.steps, self.rho)
            return guides

        recover(syn, across(syn.y), guides, self.recovery(task, crop=constant(self.crop)), run, choose)
        syn.labels = relabel(syn, phis, self.labelling(task), run)
        return syn


def push(net: nets.Net, phi: nets.Net, x: Tensor, y: Tensor, steps: int, rho: float) -> None:
    """Set net's weights to those of phi, `steps` normalised ascents of length rho / steps up the cross-entropy of x; its statistics stay."""
    net.load_state_dict(phi.state_dict())
    weights = list(net.requires_grad_(True).parameters())
    for _ in range(steps):
        slopes = torch.autograd.grad(F.cross_entropy(net(x), y), weights)
        length = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in slopes]))
        with torch.no_grad():
            for w, g in zip(weights, slopes, strict=True):
                w.add_(g, alpha=rho / steps / (float(length) + 1e-12))
    net.requires_grad_(False)
