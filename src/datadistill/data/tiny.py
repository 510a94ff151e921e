"""One tiny task per modality, made from named noise: what methods are checked on, ours and yours (see `datadistill.testing`)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..modalities import Image, Modality, Tabular
from ..rng import rng
from .task import Budget, Real, Task

CLASSES = ("plain", "naïve <b>", "\x1b[31mred")  # class names are hostile text
TRAIN, VAL = (12, 9, 5), (4, 3, 3)  # examples of each class
QUOTA = (4, 2, 1)


def tiny_tasks(seed: int = 0) -> dict[str, Task]:
    """Modality name -> a task of 26 training examples, in no order, of three classes that differ, and an uneven budget of 4, 2 and 1."""
    budget = Budget(ipc=dict(zip(CLASSES, QUOTA, strict=True)))
    return {make.__name__: Task.of(*make(seed), budget) for make in (image, tabular)}


def image(seed: int) -> tuple[Real, Real]:
    """Grey pictures of 8 x 8: a bright bar at a place that depends on the class, and noise."""

    def split(name: str, counts: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        y = _shuffled(seed, name, counts)
        pictures = 0.3 * torch.rand((len(y), 1, 8, 8), generator=rng(seed, name, "noise"))
        for k, c in enumerate(y.tolist()):
            pictures[k, :, 2 * c : 2 * c + 2] += 0.6
        return (pictures * 255).round().to(torch.uint8), y

    return _reals(split("train", TRAIN), split("val", VAL), lambda stored: Image(Image.spec_of(stored, CLASSES, mode="L")))


def tabular(seed: int) -> tuple[Real, Real]:
    """Rows of a number, a number with gaps, a whole number, a category, a category with gaps, and a constant."""
    columns = [{"name": "a", "integer": False}, {"name": "b <i>", "integer": False}, {"name": "n", "integer": True},
               {"name": "kind", "values": ["x", "y", "z"]}, {"name": "mark", "values": ["p", "=q()"]}, {"name": "same", "integer": False}]

    def split(name: str, counts: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        y = _shuffled(seed, name, counts)
        draw = rng(seed, name, "noise")
        numbers = torch.randn((len(y), 3), generator=draw) + y[:, None]
        codes = torch.randint(2, (len(y), 2), generator=draw)
        codes[:, 0] = (codes[:, 0] + y) % 3
        gap = torch.rand((len(y), 2), generator=draw) < 0.2
        b = torch.where(gap[:, 0], torch.nan, numbers[:, 1])
        mark = torch.where(gap[:, 1], -1, codes[:, 1])
        rows = [numbers[:, 0], b, (10 * numbers[:, 2]).round(), codes[:, 0], mark, torch.full((len(y),), 7.0)]
        return torch.stack([cells.float() for cells in rows], 1), y

    return _reals(split("train", TRAIN), split("val", VAL), lambda stored: Tabular(Tabular.spec_of(stored, columns, CLASSES, "label")))


def _shuffled(seed: int, name: str, counts: tuple[int, ...]) -> Tensor:
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return y[torch.randperm(len(y), generator=rng(seed, name, "order"))]


def _reals(train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], modality_of) -> tuple[Real, Real]:
    modality: Modality = modality_of(train[0])
    return Real(*train, modality), Real(*val, modality)
