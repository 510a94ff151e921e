"""Labels that travel with a synthetic set. Hard: one class number each. Soft: one fixed distribution each (a static soft label)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import BadInput


class Labels(ABC):
    """The labels of n examples, of which every one also has a class: `hard` (n,) int64."""

    hard: Tensor

    @abstractmethod
    def targets(self, indices: Tensor, epoch: int = 0, view: int = 0) -> Tensor:
        """What cross-entropy is asked for: (k,) int64 class numbers, or (k, classes) float32 rows that sum to one."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """As stored, in as few bytes as hold it; `of` reads it back."""


@final
class Hard(Labels):
    """One class number per example, stored in the fewest bytes that hold it."""

    def __init__(self, hard: Tensor, classes: int):
        self.hard, self.classes = hard.long(), classes

    def targets(self, indices: Tensor, epoch: int = 0, view: int = 0) -> Tensor:
        return self.hard[indices]

    def tensors(self) -> dict[str, Tensor]:
        smallest = torch.uint8 if self.classes <= 256 else torch.int16 if self.classes <= 32_768 else torch.int32
        return {"labels": self.hard.to(smallest)}


@final
class Soft(Labels):
    """One distribution per example: softmax(logits) (n, classes), stored as float16 logits."""

    def __init__(self, logits: Tensor):
        self.logits = logits.detach().to(torch.float16)
        self.hard = self.logits.float().argmax(1)
        self.classes = logits.shape[1]

    def targets(self, indices: Tensor, epoch: int = 0, view: int = 0) -> Tensor:
        return F.softmax(self.logits[indices].float(), 1)

    def tensors(self) -> dict[str, Tensor]:
        return {"logits": self.logits}


@final
class Repeated(Labels):
    """The labels of items of which each gives `times` examples, one after the other; stored once per item."""

    def __init__(self, items: Labels, times: int):
        self.items, self.times = items, times
        self.hard = items.hard.repeat_interleave(times)

    def targets(self, indices: Tensor, epoch: int = 0, view: int = 0) -> Tensor:
        return self.items.targets(indices // self.times, epoch, view)

    def tensors(self) -> dict[str, Tensor]:
        return self.items.tensors()


def of(tensors: Mapping[str, Tensor], classes: int) -> Labels:
    """The labels that `tensors()` wrote."""
    if set(tensors) == {"labels"} and tensors["labels"].ndim == 1:
        hard = tensors["labels"].long()
        if len(hard) and not 0 <= int(hard.min()) <= int(hard.max()) < classes:
            raise BadInput(f"labels from {int(hard.min())} to {int(hard.max())}", f"class numbers below {classes}")
        return Hard(hard, classes)
    if set(tensors) == {"logits"} and tensors["logits"].ndim == 2 and tensors["logits"].shape[1] == classes:
        return Soft(tensors["logits"])
    raise BadInput(f"labels stored as {sorted(tensors)}", "'labels' (n,) or 'logits' (n, classes)")
