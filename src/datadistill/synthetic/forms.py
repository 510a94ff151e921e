"""Parametrisations: what is stored of a synthetic set, and how the examples that students see come out of it.

A method moves the parameters of a `Form` and looks only at the examples, so any of them goes with any form:

    pixels          each stored item is one example
    multiform:2     each item is a 2 x 2 grid of examples, enlarged to full size (IDC, Kim et al., ICML 2022, arXiv 2205.14959)

The budget counts items, and bytes as stored; `each` is how many examples an item gives, one after the other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.task import Task
from ..errors import BadInput, UsageError
from ..modalities import ALL, Modality
from ..text import safe

Start = Literal["real", "noise"]


class Form(nn.Module, ABC):
    """Parameters of n items of one modality. `form(items)` gives their examples; `settings` is its number, after the colon."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    default: ClassVar[int] = 1  # of the settings
    settings: int = 1

    @classmethod
    def gives(cls, settings: int) -> int:
        """How many examples an item gives."""
        return 1

    @property
    def each(self) -> int:
        return self.gives(self.settings)

    @classmethod
    @abstractmethod
    def start(cls, task: Task, how: Start, rng: torch.Generator, settings: int) -> Self:
        """The parameters to begin with: real examples of each class, or noise; items in class order, task.quota of each."""

    @abstractmethod
    def forward(self, items: Tensor | None = None) -> Tensor:
        """(k * each, *spec.shape) the examples of these items (k,), or of all, in network space; differentiable."""

    @abstractmethod
    def clamp_(self) -> None:
        """Make the parameters legal again, in place."""

    @abstractmethod
    def pack(self) -> dict[str, Tensor]:
        """What is kept of it."""

    @classmethod
    @abstractmethod
    def unpack(cls, tensors: Mapping[str, Tensor], modality: Modality, settings: int) -> Self:
        """From what was kept. Raises KeyError, TypeError or ValueError where that does not fit."""

    @classmethod
    def rows(cls, tensors: Mapping[str, Tensor], modality: Modality, settings: int) -> Tensor:
        """(m, *spec.stored) the examples as the modality stores them: what every score is taken from."""
        with torch.no_grad():
            return modality.write(cls.unpack(tensors, modality, settings)())

    def about(self) -> dict[str, Any]:
        """For the manifest: from this and `pack()` the examples can be made again."""
        return {"name": self.name} if self.settings == self.default == 1 else {"name": self.name, "settings": self.settings}


class Stored(Form):
    """A form whose items look like examples: x (n, *spec.shape) in network space, kept as the modality keeps its examples."""

    def __init__(self, x: Tensor, modality: Modality):
        super().__init__()
        self.x = nn.Parameter(x)
        self.modality = modality

    @torch.no_grad()
    def clamp_(self) -> None:
        self.modality.clamp_(self.x.data)

    def pack(self) -> dict[str, Tensor]:
        return {"samples": self.modality.write(self.x.data).cpu().contiguous()}


@final
class Pixels(Stored):
    """Every example is stored as it is."""

    name: ClassVar = "pixels"

    @classmethod
    def start(cls, task: Task, how: Start, rng: torch.Generator, settings: int) -> Self:
        x = task.train.read(real_indices(task, rng)) if how == "real" else task.modality.noise(int(task.quota.sum()), rng)
        return cls(x, task.modality)

    def forward(self, items: Tensor | None = None) -> Tensor:
        return self.x if items is None else self.x[items.to(self.x.device)]

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor], modality: Modality, settings: int) -> Self:
        return cls(modality.read(cls.rows(tensors, modality, settings)), modality)

    @classmethod
    def rows(cls, tensors: Mapping[str, Tensor], modality: Modality, settings: int) -> Tensor:
        return _as_stored(tensors["samples"], modality)


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
        form = cls(task.modality.noise(int(task.quota.sum()), rng), task.modality, settings)
        if how == "real":
            real = task.train.read(real_indices(task, rng, form.each))
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
        return cls(modality.read(_as_stored(tensors["samples"], modality)), modality, settings)


FORMS: dict[str, type[Form]] = {form.name: form for form in (Pixels, Multiform)}


def named(text: str) -> tuple[type[Form], int]:
    """(form, its settings) of a text like "pixels" or "multiform:2"."""
    name, _, number = text.partition(":")
    if name not in FORMS or not (number == "" or (number.isascii() and number.isdigit() and 1 <= int(number) <= 64)):
        raise UsageError(f"no form {safe(text)!r}", f"one of {', '.join(FORMS)}, with a number after a colon where it takes one", "multiform:2")
    return FORMS[name], int(number or FORMS[name].default)


def check(text: str, modality: Modality) -> None:
    """Refuse, clearly, a form that is not there or that this modality cannot take."""
    form, _ = named(text)
    if not form.needs <= modality.traits:
        able = [name for name, kind in ALL.items() if form.needs <= kind.traits]
        raise UsageError(f"form {safe(text)!r} for {modality.name} data", f"{' or '.join(able)} data, or form 'pixels'", "--set form=pixels")


def start(text: str, task: Task, how: Start, rng: torch.Generator) -> Form:
    """The form of that name for a task."""
    check(text, task.modality)
    form, settings = named(text)
    return form.start(task, how, rng, settings)


def rows(about: Mapping[str, Any], tensors: Mapping[str, Tensor], modality: Modality) -> tuple[Tensor, int]:
    """((m, *spec.stored) the examples, how many each item gives) of what was kept; `about` is the manifest's entry, and not trusted."""
    name, settings = about.get("name"), about.get("settings", 1)
    if not isinstance(name, str) or name not in FORMS:
        raise BadInput(f"examples stored in the form {safe(name)!r}", f"one of {', '.join(FORMS)}", "a newer datadistill may know it")
    if type(settings) is not int or not 1 <= settings <= 64 or not FORMS[name].needs <= modality.traits:
        raise BadInput(f"the form {name} with settings {safe(settings)!r} of {modality.name} data", "settings from 1 to 64 that fit the data")
    return FORMS[name].rows(tensors, modality, settings), FORMS[name].gives(settings)


def _as_stored(x: Tensor, modality: Modality) -> Tensor:
    spec = modality.spec
    if tuple(x.shape[1:]) != spec.stored or str(x.dtype).removeprefix("torch.") != spec.dtype:
        raise ValueError(f"samples of shape {tuple(x.shape)} {x.dtype}, expected (n, {spec.stored}) {spec.dtype}")
    return x


def real_indices(task: Task, rng: torch.Generator, each: int = 1) -> Tensor:
    """A random choice of task.quota[c] * each real examples of each class, in class order; a class that has fewer repeats them."""
    chosen = []
    for c in task.classes:
        n = int(task.quota[c]) * each
        own = task.train.pick(c, n, rng)
        chosen.append(own.repeat(-(-n // max(1, len(own))))[:n])
    return torch.cat(chosen)
