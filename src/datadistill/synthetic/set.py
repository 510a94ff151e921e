"""The synthetic set while a method works on it: parameters in network space, labels as a vector, hints for training."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..data.task import Real, Task
from ..labels import Hard, Labels


@dataclass(frozen=True)
class Recipe:
    """How the method wants students trained on S, where it has an opinion (None: the protocol decides)."""

    lr: float | None = None
    steps: int | None = None
    augment: bool = True

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class SyntheticSet(nn.Module):
    """n synthetic examples: `x` (n, *spec.shape) in network space, `labels`, and how to train on them.

    A set of real examples (`select`) also keeps their stored rows, so that they come out bit for bit, and `origin`, where
    each stands in task.train.
    """

    def __init__(self, x: Tensor, labels: Labels, modality, *, rows: Tensor | None = None, origin: Tensor | None = None, recipe: Recipe | None = None):
        super().__init__()
        self.x = nn.Parameter(x, requires_grad=rows is None)
        self.labels, self.modality, self.recipe = labels, modality, recipe or Recipe()
        self.rows, self.origin = rows, origin

    @classmethod
    def init(cls, task: Task, how: Literal["real", "noise"], rng: torch.Generator) -> SyntheticSet:
        """The start of a distillation: real examples of each class, or noise; labels in class order."""
        if how == "real":
            x = task.train.read(real_indices(task, rng))
        else:
            x = task.modality.noise(int(task.quota.sum()), rng)
        return cls(x, Hard(task.labels, len(task.classes)), task.modality)

    @classmethod
    def select(cls, task: Task, indices: Tensor) -> SyntheticSet:
        """Real examples, kept bit for bit. indices (n,) into task.train, any order; labels follow them."""
        return cls.of_rows(task.train, indices, len(task.classes))

    @classmethod
    def of_rows(cls, real: Real, indices: Tensor, classes: int) -> SyntheticSet:
        rows = real.stored[indices]
        return cls(real.modality.read(rows), Hard(real.labels[indices], classes), real.modality, rows=rows, origin=indices)

    @property
    def y(self) -> Tensor:
        """(n,) the class of each example."""
        return self.labels.hard

    def __len__(self) -> int:
        return len(self.y)

    def where(self, c: int) -> Tensor:
        """The rows of class c."""
        return (self.y == c).nonzero().squeeze(1)

    def clamp_(self) -> None:
        """Make x legal again, in place."""
        self.modality.clamp_(self.x.data)

    def stored(self) -> Tensor:
        """(n, *spec.stored): what the artifact keeps and every score is taken from."""
        return self.rows if self.rows is not None else self.modality.write(self.x.data)


def real_indices(task: Task, rng: torch.Generator) -> Tensor:
    """A random choice of task.quota[c] real examples of each class, in class order."""
    return torch.cat([task.train.pick(c, int(task.quota[c]), rng) for c in task.classes])
