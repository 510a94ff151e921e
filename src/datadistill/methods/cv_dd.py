"""CV-DD: dataset distillation via committee voting (Cui et al., CVPR 2025 workshops).

    x <- a mosaic of real patches that the teacher is undecided about (see fadrm.py)
    for each item index j of the classes:   two of the committee's teachers are drawn;   w <- softmax(their prior accuracy in percent / 5)
        T steps on   L = sum_k w_k (CE(phi_k(x~), y) + r R_BN(phi_k))         both teachers at once; otherwise SRe2L's step (see sre2l.py)
    labels: the mean of the committee's logits, batch norm in train mode on batches of 16 (batch-specific soft labels, BSSL)

Defaults are the authors' for CIFAR-10 at ten items per class and above (two voters, lr 0.25, r 0.01, 4000 steps).
Differences from the authors' code: as sre2l.py; the prior is each teacher's accuracy on validation data, where theirs is that of students
on what it alone distilled, from a table; the two are drawn at random for every index, where theirs follow a written sequence; the
committee is of families of `nets` with batch norm, theirs ResNet-18, ResNet-50, ShuffleNetV2, MobileNetV2 and DenseNet-121; batches that
are labelled together are drawn by name, and a student's batches need not be these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..data.task import Task
from ..run import Run
from ..synthetic import SyntheticSet
from ..training.fit import accuracy
from ..training.patches import Patches
from ..training.recover import Committee, Guide, Unit, across, constant, recover
from ..training.relabel import relabel
from ..training.targets import Running
from .base import Paper
from .decoupled import Recovered, from_patches


@final
@dataclass(frozen=True, kw_only=True)
class CVDD(Recovered):
    """Recover each item through two teachers of a committee, weighted by how good they are."""

    name: ClassVar = "cv-dd"
    stores: ClassVar = "items, labels of several teachers"
    when: ClassVar = "as SRe2L, with a committee that is weighted by its accuracy"
    paper: ClassVar = Paper(title="Dataset Distillation via Committee Voting", venue="CVPR workshops 2025", arxiv="2501.07575")
    quick: ClassVar = {**Recovered.quick, "iterations": 100, "net": "resnet+vgg"}  # a third teacher takes two minutes more
    positive: ClassVar = Recovered.positive | {"temperature"}

    net: str = "resnet+vgg+resnet"
    iterations: int = 4000
    lr: float = 0.25
    r: float = 0.01
    voters: int = 2  # teachers of each item
    temperature: float = 5.0  # of the softmax over percent
    candidates: int = 300
    factor: int | None = None  # patches to an item: its square; none: 1 for sides up to 64, else 2
    bssl: int | None = 16  # examples that are labelled together; none: by the statistics of T

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        self.check(task.modality)
        phis = self.phis(task, run)
        guides = [Guide(phi, Running(phi, self.first)) for phi in phis]
        prior = torch.tensor([100 * accuracy(phi, task.val, task.val.labels, device=run.device) if len(task.val) else 0.0 for phi in phis])

        def choose(unit: Unit, x: Tensor, y: Tensor) -> list[Committee]:
            chosen = torch.randperm(len(phis), generator=run.rng("committee", *unit.name))[: self.voters]
            return [Committee([guides[k] for k in chosen.tolist()], shares(prior[chosen], self.temperature))]

        syn = from_patches(task, Patches(self.candidates, factor=self.factor, keep="median"), phis[0], run, originals=False)
        recover(syn, across(syn.y), guides, self.recovery(task, crop=constant(self.crop)), run, choose)
        syn.labels = relabel(syn, phis, self.labelling(task, together=self.bssl), run)
        return syn


def shares(prior: Tensor, temperature: float) -> list[float]:
    """Of voters whose prior accuracies in percent are (k,)."""
    return torch.softmax(prior / temperature, 0).tolist()
