"""Labels that travel with a synthetic set. Hard: one class number each. Soft: one fixed distribution each (a static soft label).
Values: one vector each that a student's outputs are fitted to, by least squares.

What a student is asked goes through three methods, so that labels of views (`augmented`) can say more than a distribution: `show`
gives the views that the labels were made for, `ask` all that the loss needs of them, `loss` compares.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import BadInput


class Labels(ABC):
    """The labels of n examples, of which every one also has a class: `hard` (n,) int64."""

    hard: Tensor
    steady: bool = True  # whether examples are augmented as the student likes, and the loss is the same throughout its training

    @abstractmethod
    def targets(self, indices: Tensor, epoch: int = 0, view: int = 0) -> Tensor:
        """What cross-entropy is asked for: (k,) int64 class numbers, or (k, classes) float32 rows that sum to one."""

    def show(self, read: Callable[[Tensor], Tensor], indices: Tensor, epoch: int = 0) -> Tensor | None:
        """(k, *shape) the views of these examples that the labels were made for; None: the student augments as it likes.

        read(indices) gives examples as they are, in network space
        """
        return None

    def ask(self, indices: Tensor, epoch: int = 0) -> tuple[Tensor, ...]:
        """What `loss` needs of these examples, each tensor with k rows."""
        return (self.targets(indices, epoch),)

    def ask_about(self, shown: Tensor, indices: Tensor, epoch: int = 0) -> tuple[Tensor, ...]:
        """The same of these examples as they were shown (k, *shape), where labels are made on the spot."""
        return self.ask(indices, epoch)

    def loss(self, logits: Tensor, *asked: Tensor, at: float = 0.0) -> Tensor:
        """(k,) of a student's logits (k, classes); at in [0, 1): how far its training is."""
        return F.cross_entropy(logits, asked[0], reduction="none")

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """As stored, in as few bytes as hold it; `of` reads it back."""


def smallest(classes: int) -> torch.dtype:
    """The type with the fewest bytes that holds class numbers below `classes`."""
    return torch.uint8 if classes <= 256 else torch.int16 if classes <= 32_768 else torch.int32


@final
class Hard(Labels):
    """One class number per example, stored in the fewest bytes that hold it."""

    def __init__(self, hard: Tensor, classes: int):
        self.hard, self.classes = hard.long(), classes

    def targets(self, indices: Tensor, epoch: int = 0, view: int = 0) -> Tensor:
        return self.hard[indices]

    def tensors(self) -> dict[str, Tensor]:
        return {"labels": self.hard.to(smallest(self.classes))}


@final
class Soft(Labels):
    """One distribution per example: softmax(logits) (n, classes), stored as float16 logits.

    hard (n,)   the class of each, stored beside them; none: the likeliest, and nothing is stored
    """

    def __init__(self, logits: Tensor, hard: Tensor | None = None):
        self.logits = logits.detach().to(torch.float16)
        self.own = hard is not None
        self.hard = self.logits.float().argmax(1) if hard is None else hard.long()
        self.classes = logits.shape[1]

    def targets(self, indices: Tensor, epoch: int = 0, view: int = 0) -> Tensor:
        return F.softmax(self.logits[indices].float(), 1)

    def tensors(self) -> dict[str, Tensor]:
        return {"logits": self.logits, **({"labels": self.hard.to(smallest(self.classes))} if self.own else {})}


@final
class Values(Labels):
    """Outputs to be fitted by least squares, (n, classes), stored as float16: a distribution less 1/classes, or about that (what
    regression learns need not be one). As a target of cross-entropy: the distribution nearest to values + 1/classes.

    The loss is a tenth of the squared distance, for ten classes torch's mean squared error: so it bears the step sizes that cross-entropy does.
    A mean over two classes would be five times as steep in each output, and students came apart on it.

    hard (n,)   the class of each, stored beside them
    """

    def __init__(self, values: Tensor, hard: Tensor):
        self.values, self.hard, self.classes = values.detach().to(torch.float16), hard.long(), values.shape[1]

    def targets(self, indices: Tensor, epoch: int = 0, view: int = 0) -> Tensor:
        return nearest_distribution(self.values[indices].float() + 1 / self.classes)

    def ask(self, indices: Tensor, epoch: int = 0) -> tuple[Tensor, ...]:
        return (self.values[indices].float(),)

    def loss(self, logits: Tensor, *asked: Tensor, at: float = 0.0) -> Tensor:
        return (logits - asked[0]).square().sum(1) / 10

    def tensors(self) -> dict[str, Tensor]:
        return {"values": self.values, "labels": self.hard.to(smallest(self.classes))}


def nearest_distribution(v: Tensor) -> Tensor:
    """(n, classes) the point of the simplex nearest to each row of v: max(v - t, 0), with t such that the row sums to one."""
    ordered = v.sort(1, descending=True).values
    t = (ordered.cumsum(1) - 1) / torch.arange(1, v.shape[1] + 1, device=v.device)
    last = (ordered > t).sum(1, keepdim=True) - 1  # of those that stay positive
    return (v - t.gather(1, last)).clamp(min=0)


@final
class Repeated(Labels):
    """The labels of items of which each gives `times` examples, one after the other; stored once per item."""

    def __init__(self, items: Labels, times: int):
        self.items, self.times = items, times
        self.hard, self.steady = items.hard.repeat_interleave(times), items.steady

    def targets(self, indices: Tensor, epoch: int = 0, view: int = 0) -> Tensor:
        return self.items.targets(indices // self.times, epoch, view)

    def ask(self, indices: Tensor, epoch: int = 0) -> tuple[Tensor, ...]:
        return self.items.ask(indices // self.times, epoch)

    def loss(self, logits: Tensor, *asked: Tensor, at: float = 0.0) -> Tensor:
        return self.items.loss(logits, *asked, at=at)

    def tensors(self) -> dict[str, Tensor]:
        return self.items.tensors()


def of(tensors: Mapping[str, Tensor], classes: int) -> Labels:
    """The labels that `tensors()` wrote; BadInput for what it cannot have written."""
    hard, logits = tensors.get("labels"), tensors.get("logits")
    if hard is not None:
        hard = numbers(hard, classes)
    if set(tensors) == {"labels"}:
        return Hard(hard, classes)
    if set(tensors) in ({"logits"}, {"logits", "labels"}) and logits.ndim == 2 and logits.shape[1] == classes and (hard is None or len(hard) == len(logits)):
        return Soft(logits, hard)
    values = tensors.get("values")
    if set(tensors) == {"values", "labels"} and values.is_floating_point() and values.shape == (len(hard), classes) and torch.isfinite(values).all():
        return Values(values, hard)
    raise BadInput(f"labels stored as {sorted(tensors)[:10]}", "'labels' (n,), 'logits' (n, classes), or both; or 'labels' and 'values' (n, classes)")


def numbers(hard: Tensor, classes: int) -> Tensor:
    """(n,) int64 class numbers as they were stored; BadInput for anything else."""
    if hard.ndim != 1 or hard.is_floating_point() or hard.dtype == torch.bool:
        raise BadInput(f"labels of shape {tuple(hard.shape)} and type {hard.dtype}", "one class number for each example")
    hard = hard.long()
    if len(hard) and not 0 <= int(hard.min()) <= int(hard.max()) < classes:
        raise BadInput(f"labels from {int(hard.min())} to {int(hard.max())}", f"class numbers below {classes}")
    return hard
