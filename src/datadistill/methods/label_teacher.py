"""Teacher labels on real examples (Qin et al., "A Label is Worth a Thousand Images in Dataset Distillation", NeurIPS 2024).

    S <- real examples of each class (at random, or those in the middle of clusters)
    an expert theta* is trained on T, its parameters after every epoch kept
    for each of some epochs t:   y_t <- softmax(theta*_t(S));   a student is trained on (S, y_t) and scored on validation data
    S is labelled with the y_t that scored best: one distribution for each example, no augmentation

The smaller S is, the earlier the best expert stops: its labels are softer. Differences from the authors' code: the epoch is
chosen here, on validation data and by one student, where theirs is swept over by hand; the expert has momentum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.task import Task
from ..labels import Soft
from ..memory import Pieces
from ..modalities import Modality
from ..rng import seed_of
from ..run import Run
from ..synthetic import Choice, SyntheticSet
from ..synthetic.set import real_indices
from ..training.embedding import narrow
from ..training.experts import Experts, Teaching
from ..training.fit import Schedule, accuracy, fit
from .base import Method, Paper
from .matching import without_batch_norm


@final
@dataclass(frozen=True, kw_only=True)
class TeacherLabels(Method):
    """Real examples, each with one soft label from an expert that was stopped early."""

    name: ClassVar = "teacher-labels"
    stores: ClassVar = "real examples, teacher labels"
    soft_labels: ClassVar = True
    when: ClassVar = "a strong baseline for anything with soft labels"
    family: ClassVar = "decoupled"
    paper: ClassVar = Paper(title="A Label is Worth a Thousand Images in Dataset Distillation", venue="NeurIPS 2024", arxiv="2406.10485")

    quick: ClassVar = {"most_steps": 1200, "width": 16, "steps": 150, "init": "representative"}

    init: Choice = "real"  # S; representative: those in the middle of their class's clusters
    net: str = "auto"  # of the expert and of the student that chooses
    width: int | None = None
    epochs: int = 60  # the expert's last
    most_steps: int | None = None  # of training the expert: fewer epochs, one at least, where T is large
    epoch: int | None = None  # t; none: the best of 1, 2, 3, 5, 8, 13, ... up to the last, on validation data
    steps: int = 500  # of training the student that chooses
    lr: float = 0.01  # of that student
    lr_expert: float = 0.01
    batch: int = 256

    def check(self, modality: Modality) -> None:
        super().check(modality)
        without_batch_norm(self, modality)

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        self.check(task.modality)
        family, teaching = self.net_for(task.modality), Teaching(lr=self.lr_expert, batch=self.batch, momentum=0.9)
        experts = Experts(task.train, run, net=family, width=self.width, count=1, teaching=teaching)
        last = self.epochs if self.most_steps is None else max(1, min(self.epochs, self.most_steps // experts.per_epoch))
        ages = [self.epoch] if self.epoch is not None else candidates(last)
        experts.prepare(max(ages))
        chosen = Chosen(real_indices(task, run.rng("select"), how=self.init), len(ages))

        for k in run.steps(len(ages), chosen, label="choosing the expert's age"):
            if len(ages) > 1:
                real, labels = task.train.subset(chosen.indices), self._labels(experts, ages[k], chosen.indices, task, run)
                student = narrow(family, task.spec, self.width, run.rng("student"))
                fit(student, real, labels, Schedule(self.steps, lr=self.lr), seed_of(run.seed, "student"), device=run.device, pieces=Pieces(128, notes=run.notes))
                chosen.accuracy[k] = accuracy(student, task.val, task.val.labels, device=run.device)
            run.log(k, epoch=ages[k], accuracy=chosen.accuracy[k])
        best = ages[int(chosen.accuracy.argmax())]
        run.notes.append(f"labels by the expert after epoch {best}")
        syn = SyntheticSet.select(task, chosen.indices)
        syn.labels = self._labels(experts, best, chosen.indices, task, run)
        return syn

    @torch.no_grad()
    def _labels(self, experts: Experts, epoch: int, indices: Tensor, task: Task, run: Run) -> Soft:
        """What the expert of that age says of these examples of T."""
        net = narrow(self.net_for(task.modality), task.spec, self.width, run.rng("expert")).to(run.device)
        nn.utils.vector_to_parameters(experts.at(0, epoch), net.parameters())

        def said(piece: slice) -> Tensor:
            return F.log_softmax(net(task.train.read(indices[piece], run.device)), 1).cpu()

        return Soft(torch.cat(Pieces(256, "piece", run.notes).map(len(indices), said)), task.train.labels[indices])


def candidates(last: int) -> list[int]:
    """1, 2, 3, 5, 8, ... and `last`."""
    ages, following = [1], 2
    while following < last:
        ages.append(following)
        following = sum(ages[-2:])
    return ages if last == 1 else [*ages, last]


class Chosen(nn.Module):
    """The examples, and the accuracy that each age came to: saved with the run."""

    def __init__(self, indices: Tensor, ages: int):
        super().__init__()
        self.register_buffer("indices", indices)
        self.register_buffer("accuracy", torch.zeros(ages, dtype=torch.float64))
