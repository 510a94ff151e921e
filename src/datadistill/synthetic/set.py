"""The synthetic set while a method works on it: parameters in network space, labels as a vector, hints for training."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data.task import Real, Task
from ..labels import Hard, Labels, Repeated
from . import forms
from .forms import Form, Pixels, Start, real_indices


@dataclass(frozen=True)
class Recipe:
    """How the method wants students trained on S, where it has an opinion (None: the protocol decides)."""

    lr: float | None = None
    steps: int | None = None
    augment: bool = True

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class SyntheticSet(nn.Module):
    """n items as a form keeps them, their `labels`, and how to train on the examples that they give.

    In the usual form, pixels, an item is an example: `x` (n, *spec.shape) in network space. A set of real examples
    (`select`) also keeps their stored rows, so that they come out bit for bit, and `origin`, where each stands in task.train.
    `originals` says whether any item is a real example.
    """

    def __init__(self, x: Tensor | Form, labels: Labels, modality, *, rows: Tensor | None = None, origin: Tensor | None = None, recipe: Recipe | None = None,
                 originals: bool | None = None):  # fmt: skip
        super().__init__()
        self.form = x if isinstance(x, Form) else Pixels(x, modality)
        self.form.requires_grad_(rows is None)
        self.labels, self.modality, self.recipe = labels, modality, recipe or Recipe()
        self.rows, self.origin = rows, origin
        self.originals = origin is not None if originals is None else originals

    @classmethod
    def init(cls, task: Task, how: Start, rng: torch.Generator, form: str = "pixels") -> SyntheticSet:
        """The start of a distillation in a form of `forms`: `how` says from which examples; labels in class order."""
        return cls(forms.start(form, task, how, rng), Hard(task.labels, len(task.classes)), task.modality)

    @classmethod
    def select(cls, task: Task, indices: Tensor) -> SyntheticSet:
        """Real examples, kept bit for bit. indices (n,) into task.train, any order; labels follow them."""
        return cls.of_rows(task.train, indices, len(task.classes))

    @classmethod
    def of_rows(cls, real: Real, indices: Tensor, classes: int) -> SyntheticSet:
        rows = real.stored[indices]
        return cls(real.modality.read(rows), Hard(real.labels[indices], classes), real.modality, rows=rows, origin=indices)

    @property
    def x(self) -> nn.Parameter:
        """(n, *spec.shape) the items in network space, of a form whose items look like examples."""
        return self.form.x

    @property
    def y(self) -> Tensor:
        """(n,) the class of each item."""
        return self.labels.hard

    @property
    def each(self) -> int:
        """How many examples an item gives."""
        return self.form.each

    def __len__(self) -> int:
        return len(self.y)

    def where(self, c: int) -> Tensor:
        """The items of class c."""
        return (self.y == c).nonzero().squeeze(1)

    def examples(self, items: Tensor | None = None) -> Tensor:
        """(k * each, *spec.shape) what students see of these items (k,), or of all, in network space; differentiable."""
        return self.form(items)

    def example_labels(self) -> Labels:
        """The labels of all examples."""
        return self.labels if self.each == 1 else Repeated(self.labels, self.each)

    def clamp_(self) -> None:
        """Make the items legal again, in place."""
        self.form.clamp_()

    def pack(self) -> dict[str, Tensor]:
        """What the artifact keeps of the items."""
        return {"samples": self.rows.cpu().contiguous()} if self.rows is not None else self.form.pack()

    def stored(self) -> Tensor:
        """(n * each, *spec.stored) the examples that come out of what is kept: every score is taken from them."""
        return forms.rows(self.form.about(), self.pack(), self.modality)[0]


__all__ = ["Recipe", "SyntheticSet", "real_indices"]
