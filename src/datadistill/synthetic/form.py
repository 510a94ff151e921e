"""What a form is: parameters of the items of a set, from which their examples come. The forms themselves are listed in `forms`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from ..data.task import Task
from ..match.clusters import representative
from ..modalities import Modality

Choice = Literal["real", "representative"]
"""Which examples of T: random ones, or those in the middle of their class's clusters (see `real_indices`)."""

Start = Literal[Choice, "noise"]
"""With what S begins: examples of T, or noise."""


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
        """The parameters to begin with, from `beginnings`; items in class order, task.quota of each."""

    @abstractmethod
    def forward(self, items: Tensor | None = None) -> Tensor:
        """(k * each, *spec.shape) the examples of these items (k,), or of all, in network space; differentiable."""

    def of(self, items: Tensor | None, x: Tensor) -> Tensor:
        """(k * each, ...) the rows of x (n * each, ...) that belong to these items (k,), or all."""
        return x if items is None else x.unflatten(0, (-1, self.each))[items.to(x.device)].flatten(0, 1)

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


def as_stored(x: Tensor, modality: Modality) -> Tensor:
    """x, if it has the shape and type that the modality stores."""
    spec = modality.spec
    if tuple(x.shape[1:]) != spec.stored or str(x.dtype).removeprefix("torch.") != spec.dtype:
        raise ValueError(f"samples of shape {tuple(x.shape)} {x.dtype}, expected (n, {spec.stored}) {spec.dtype}")
    return x


def beginnings(task: Task, how: Start, rng: torch.Generator, each: int = 1) -> Tensor:
    """(task.quota.sum() * each, *spec.shape) the examples that S begins with, in class order."""
    if how == "noise":
        return task.modality.noise(int(task.quota.sum()) * each, rng)
    return task.train.read(real_indices(task, rng, each, how))


def real_indices(task: Task, rng: torch.Generator, each: int = 1, how: Choice = "real") -> Tensor:
    """task.quota[c] * each real examples of each class, in class order; a class that has fewer repeats them.

    They are a random choice, or, where they are to be representative, those in the middle of as many clusters in network space, of 1000 of the
    class's examples, or of as many as 64 MiB hold, and of four for each cluster at least.
    """
    many = min(1000, 2**24 // math.prod(task.spec.shape))

    def chosen(c: int, n: int) -> Tensor:
        if how == "real":
            return task.train.pick(c, n, rng)
        some = task.train.pick(c, max(4 * n, many), rng)
        return some[representative(task.train.read(some).flatten(1), n, int(torch.randint(2**31, (), generator=rng)))]

    indices = []
    for c in task.classes:
        n = int(task.quota[c]) * each
        own = chosen(c, n) if n else torch.empty(0, dtype=torch.long)
        indices.append(own.repeat(-(-n // max(1, len(own))))[:n])
    return torch.cat(indices)


def sixteen_bits(x: Tensor) -> Tensor:
    """x in float16, what lies beyond its range at the end of it: parameters are not clamped, and infinity would not be read back."""
    return x.clamp(-65504, 65504).half()


def eight_bits(x: Tensor) -> tuple[Tensor, Tensor]:
    """(codes int8, scale (n,) float16) of the rows of x (n, k): x is about codes * scale, to half a scale."""
    scale = sixteen_bits(x.abs().amax(1).clamp(min=1e-4) / 127)
    return (x / scale[:, None].float()).round().clamp(-127, 127).to(torch.int8), scale


def from_eight_bits(codes: Tensor, scale: Tensor) -> Tensor:
    """(n, k) float32. Raises ValueError for what `eight_bits` cannot have written."""
    if codes.dtype != torch.int8 or codes.ndim != 2 or scale.dtype != torch.float16 or scale.shape != codes.shape[:1] or not torch.isfinite(scale).all():
        raise ValueError(f"codes {tuple(codes.shape)} {codes.dtype} with scales {tuple(scale.shape)} {scale.dtype}")
    return codes.float() * scale[:, None].float()


def steepness(examples: Callable[[Tensor], Tensor], p: Tensor, rng: torch.Generator, rounds: int = 8) -> Tensor:
    """() a third of the largest singular value of the derivative of examples(p) by p, by power iteration.

    Parameters multiplied by it can be descended at the rates that are meant for pixels: no step moves examples more than nine times as
    far as the same slope on pixels would, which DM's rate leaves room for, and most move them less.
    """
    v = torch.randn(p.shape, generator=rng).to(p)
    for _ in range(rounds):
        _, moved = torch.func.jvp(examples, (p,), (v / v.norm(),))
        (v,) = torch.func.vjp(examples, p)[1](moved)
    return (v.norm().sqrt() / 3).clamp(min=1e-6)
