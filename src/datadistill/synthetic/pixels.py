"""Forms whose items look like examples: as they are, or as grids of smaller ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self, final

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.task import Task
from ..errors import UsageError
from ..modalities import Modality
from .form import Start, Stored, as_stored, beginnings


@final
class Pixels(Stored):
    """Every example is stored as it is."""

    name: ClassVar = "pixels"

    @classmethod
    def start(cls, task: Task, how: Start, rng: torch.Generator, settings: int) -> Self:
        return cls(beginnings(task, how, rng), task.modality)

    def forward(self, items: Tensor | None = None) -> Tensor:
        return self.x if items is None else self.x[items.to(self.x.device)]

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor], modality: Modality, settings: int) -> Self:
        return cls(modality.read(cls.rows(tensors, modality, settings)), modality)

    @classmethod
    def rows(cls, tensors: Mapping[str, Tensor], modality: Modality, settings: int) -> Tensor:
        return as_stored(tensors["samples"], modality)


@final
class Multiform(Stored):
    """Item -> factor^2 examples: the squares of a grid, row by row, each enlarged to the full size by bilinear interpolation.

    Differences from the authors' code: a side that `factor` does not divide is cut unevenly, where theirs is padded; the
    squares of one item stay together in the order of examples.
    """

    name: ClassVar = "multiform"
    needs: ClassVar = frozenset({"grid"})
    default: ClassVar = 2

    def __init__(self, x: Tensor, modality: Modality, factor: int):
        super().__init__(x, modality)
        if not 1 <= factor <= min(x.shape[-2:]):
            raise ValueError(f"a grid of {factor} x {factor} in items of {tuple(x.shape[-2:])}")
        self.factor = self.settings = factor

    @classmethod
    def gives(cls, settings: int) -> int:
        return settings**2

    @classmethod
    def start(cls, task: Task, how: Start, rng: torch.Generator, settings: int) -> Self:
        """From real examples: `factor`^2 of the class in each item, made smaller by averaging ("mix" in the authors' code)."""
        if settings > (most := min(task.spec.shape[1:])):
            raise UsageError(f"form multiform:{settings} of examples {task.spec.shape}", f"at most {most} squares a side", "--set form=pixels" if most == 1 else "--set form=multiform:2")
        form = cls(task.modality.noise(int(task.quota.sum()), rng), task.modality, settings)
        if how != "noise":
            real = beginnings(task, how, rng, form.each)
            for square, own in zip(form._squares(form.x.data), real.unflatten(0, (-1, form.each)).unbind(1), strict=True):
                square.copy_(F.interpolate(own, square.shape[-2:], mode="area"))
        return form

    def _squares(self, x: Tensor) -> list[Tensor]:
        """factor^2 views of x, row by row."""
        bands = torch.tensor_split(x, self.factor, -2)
        return [square for band in bands for square in torch.tensor_split(band, self.factor, -1)]

    def forward(self, items: Tensor | None = None) -> Tensor:
        x = self.x if items is None else self.x[items.to(self.x.device)]
        enlarged = [F.interpolate(square, x.shape[-2:], mode="bilinear", align_corners=False) for square in self._squares(x)]
        return torch.stack(enlarged, 1).flatten(0, 1)

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor], modality: Modality, settings: int) -> Self:
        return cls(modality.read(as_stored(tensors["samples"], modality)), modality, settings)
