"""Who writes the labels of S: teachers, for the examples as they are stored (the relabel step)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from .. import nets
from ..labels import Labels, Objective, Soft, Taught, Views, record
from ..labels.views import visible
from ..nets.taps import batch_norms
from ..run import Run
from .recover import Items

Kind = Literal["hard", "soft", "views", "teacher"]
CHUNK = 64  # examples labelled together: part of what a label is made of, since it decides the last bits
UNIT = 16  # such batches


@dataclass(frozen=True)
class Relabel:
    """hard: the class alone; soft: the teachers' logits of each example; views: their logits of each view of it that a student is shown;
    teacher: they come along and label views on the spot.

    epochs, crop, flip, mix, objective   of views: how many of each example, how they are drawn (`labels.Views`), and the student's loss
    together   BSSL (CV-DD): about so many examples, drawn at random, are labelled at once, batch norm having their statistics; none: those of T
    """

    kind: Kind = "soft"
    epochs: int = 20
    crop: float = 0.08
    flip: bool = True
    mix: Literal["cutmix", "none"] = "cutmix"
    objective: Objective = field(default_factory=Objective)
    together: int | None = None


class Whole(Items, Protocol):
    """S when it no longer changes; each: how many examples an item gives."""

    labels: Labels
    each: int

    def stored(self) -> Tensor: ...


@contextmanager
def own_statistics(teachers: Sequence[nets.Net]) -> Iterator[None]:
    """Batch norms look at the batch, as in training, and keep nothing of it."""
    norms = [bn for net in teachers for bn in batch_norms(net)]
    for bn in norms:
        bn.training, bn.track_running_stats = True, False
    try:
        yield
    finally:
        for bn in norms:
            bn.training, bn.track_running_stats = False, True


@torch.no_grad()
def logits(teachers: Sequence[nets.Net], x: Tensor) -> Tensor:
    """(n, classes) float32: the mean of the teachers' logits of x (n, *shape) on their device."""
    return torch.stack([net(x).float() for net in teachers]).mean(0)


def relabel(syn: Whole, teachers: Sequence[nets.Net], how: Relabel, run: Run) -> Labels:
    """The labels of S as it is stored, one for each item: of several examples, the mean of their logits. So many batches are a unit."""
    if how.kind == "hard":
        return syn.labels
    n, classes, sides = len(syn) * syn.each, len(syn.modality.spec.classes), syn.modality.spec.shape[1:]
    views = Views(run.seed, visible(how.crop, sides), how.flip, how.mix) if how.kind in ("views", "teacher") else None
    if how.kind == "teacher":
        return Taught(syn.y, teachers, views, tuple(sides), classes, how.objective)
    epochs = how.epochs if views else 1
    stored, modality = syn.stored(), syn.modality

    def one(run: Run, unit: Sequence[tuple[int, Tensor]]) -> dict[str, Tensor]:
        def read(rows: Tensor) -> Tensor:
            return modality.read(stored[rows]).to(run.device)

        said = []
        for epoch, rows in unit:
            x = views.of(read, rows, torch.full_like(rows, epoch), n) if views else read(rows)
            with own_statistics(teachers) if how.together and len(rows) > 1 else nullcontext():
                said.append(logits(teachers, x).cpu().half())
        return {"logits": torch.cat(said)}

    work = [(epoch, rows) for epoch in range(epochs) for rows in batches(n, how.together, run.rng("together", epoch))]
    units = [work[k : k + UNIT] for k in range(0, len(work), UNIT)]
    slate = torch.zeros((epochs, n, classes), dtype=torch.float16)
    for unit, made in zip(units, run.each("labelling", units, one), strict=True):
        for (epoch, rows), own in zip(unit, made["logits"].split([len(rows) for _, rows in unit]), strict=True):
            slate[epoch, rows] = own
    return record(syn.y, slate, views, tuple(sides), how.objective) if views else Soft(slate[0].float().unflatten(0, (-1, syn.each)).mean(1), syn.y)


def batches(n: int, together: int | None, rng: torch.Generator) -> Sequence[Tensor]:
    """The examples that are labelled at once: in order, or so many at random, in parts as even as can be."""
    if together is None:
        return torch.arange(n).split(CHUNK)
    return torch.randperm(n, generator=rng).tensor_split(-(-n // together))
