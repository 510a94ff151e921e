"""What methods share that learn S by regression: what ridge regression on S, in the space of a kernel, says of T should be right."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from .. import dist, nets
from ..data.task import Real, Task
from ..errors import UsageError
from ..labels import Values
from ..match import kernel
from ..memory import Pieces
from ..modalities import Modality
from ..run import Run
from ..synthetic import Start, SyntheticSet, forms
from ..training.embedding import narrow
from .base import Method
from .matching import pieces_for, without_batch_norm


@dataclass(frozen=True, kw_only=True)
class Regression(Method):
    """A method that learns S, and its labels, through ridge regression. Abstract: the hyper-parameters that all of them have."""

    needs: ClassVar = frozenset({"continuous"})
    family: ClassVar = "kernel"
    scales_over: ClassVar = "real examples"

    iterations: int
    lr: float  # of the synthetic items, in network space
    real_batch: int  # |T| of an iteration, all classes together
    ridge: float  # lambda
    learn_labels: bool = True
    init: Start = "real"  # representative: real examples in the middle of their class's clusters
    form: str = "pixels"  # what is stored: pixels, multiform:2, ... (see synthetic/forms.py)

    def label_bytes(self, real: Real) -> tuple[int, int]:
        return 2 * len(real.modality.spec.classes) if self.learn_labels else 0, 0

    def check(self, modality: Modality) -> None:
        super().check(modality)
        forms.check(self.form, modality)

    def start(self, task: Task, run: Run, scale: float = 1.0) -> tuple[SyntheticSet, Learned]:
        """S at the beginning, and the outputs that stand for its labels, `scale` times the centred classes; on the run's device."""
        self.check(task.modality)
        if run.device.type == "mps":  # it has no float64, without which K_ss is not solved
            raise UsageError(f"{self.name} on device mps, which has no double precision", "cpu or cuda", "--device cpu")
        if dist.ranks() > min(self.real_batch, len(task.train)):
            raise UsageError(f"{dist.ranks()} processes to share {min(self.real_batch, len(task.train))} real examples", "as many examples at least", "--set real_batch=1024")
        syn = SyntheticSet.init(task, self.init, run.rng("init"), self.form).to(run.device)
        return syn, Learned(scale * kernel.centred(syn.y, len(task.classes)), self.learn_labels).to(run.device)

    def rows(self, task: Task, run: Run, it: int) -> tuple[Tensor, int]:
        """(this rank's part of the batch T, how many there are on all ranks)"""
        batch = torch.randperm(len(task.train), generator=run.rng("real", it))[: self.real_batch]
        return torch.tensor(run.share(batch.tolist()), dtype=torch.long), len(batch)

    def done(self, syn: SyntheticSet, learned: Learned) -> SyntheticSet:
        """S with its learned outputs as labels."""
        if self.learn_labels:
            syn.labels = Values(learned.y.cpu(), syn.y)
        return syn


@dataclass(frozen=True, kw_only=True)
class Features(Regression):
    """Regression on the features of finite networks. Abstract."""

    net: str = "auto"  # auto: the modality's first
    width: int | None = None  # none: the family's own, which is the papers' 128 for a convnet
    chunk: int | None = None  # examples through the net at once, a knob for memory that changes no result; none: what fits the caches

    def check(self, modality: Modality) -> None:
        super().check(modality)
        without_batch_norm(self, modality)

    def network(self, task: Task, run: Run, *key: str | int) -> nets.Net:
        """A freshly initialised net, named by the key, on the run's device, without gradient."""
        return narrow(self.net_for(task.modality), task.spec, self.width, run.rng(*key)).to(run.device).requires_grad_(False)

    @staticmethod
    @torch.no_grad()
    def of_real(f: Callable[[Tensor], Tensor], task: Task, run: Run, rows: Tensor, pieces: Pieces) -> Tensor:
        """f of these real examples, in pieces, without gradient."""
        return torch.cat(pieces.map(len(rows), lambda piece: f(task.train.read(rows[piece], run.device))))

    def pieces(self, task: Task, run: Run) -> Pieces:
        """Pieces of `chunk` examples, or of so many that the net's largest activation fits the caches."""
        return pieces_for(self.network(task, run, "shape"), task, run, self.chunk)


class Learned(nn.Module):
    """y (n, classes), the outputs that regression is asked for on the items of S; and log tau, the scale of its predictions.

    Both are in double precision, as the regression is.
    """

    def __init__(self, y: Tensor, learned: bool = True):
        super().__init__()
        self.y = nn.Parameter(y, requires_grad=learned)
        self.log_tau = nn.Parameter(torch.zeros((), dtype=y.dtype))

    def outputs(self) -> list[Tensor]:
        """y where it is learned; nothing where it is not."""
        return [self.y] if self.y.requires_grad else []

    def of_examples(self, each: int) -> Tensor:
        """(n * each, classes) of all examples that the items give."""
        return self.y if each == 1 else self.y.repeat_interleave(each, 0)

    def keep(self, most: float) -> Tensor:
        """The margin of learned labels, as this rank's part of the loss."""
        return kernel.margin(self.y, most).mean() / dist.ranks() if self.y.requires_grad else torch.zeros((), dtype=self.y.dtype, device=self.y.device)


def label_scale(classes: int) -> float:
    """Of the labels that FRePo begins with: they are smaller where there are many classes."""
    return 1 / math.sqrt(classes / 10)
