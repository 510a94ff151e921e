"""The seam between methods and kinds of data: everything a method or a student may ask of a modality."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..replay import sent
from ..spec import Spec

Augmentation = Callable[[Tensor, Tensor], Tensor]
"""omega(x, group): x (n, *shape) in network space, group (n,) the row of omega's parameters each example uses."""


@dataclass(frozen=True)
class Preview:
    """One example for a person: a PNG (bytes), or labelled cells of text where a picture says nothing."""

    png: bytes | None = None
    cells: tuple[tuple[str, str], ...] = ()


class Modality(ABC):
    """One kind of data. Three spaces: *stored* (what the artifact keeps), *natural* (what a person's own loader gives:
    pixels in [0, 1], table columns encoded but not scaled) and *network* (natural, normalised), where methods work.
    """

    name: ClassVar[str]
    traits: ClassVar[frozenset[str]]  # what a method may rely on: "continuous", "grid", "averages"
    nets: ClassVar[tuple[str, ...]]  # student families, the default of methods first; see `nets.build`

    def __init__(self, spec: Spec):
        self.spec = spec
        self._elsewhere: dict[tuple[torch.device, str], tuple[Tensor, ...]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_elsewhere": {}}

    @abstractmethod
    def decode(self, stored: Tensor) -> Tensor:
        """(n, *stored) stored -> (n, *shape) float32 in natural units."""

    @abstractmethod
    def encode(self, natural: Tensor) -> Tensor:
        """(n, *shape) natural -> the nearest storable (n, *stored); encode(decode(s)) == s exactly."""

    @abstractmethod
    def statistics(self) -> tuple[Tensor, Tensor]:
        """(mean, deviation), each broadcastable to `spec.shape`: network = (natural - mean) / deviation."""

    def read(self, stored: Tensor) -> Tensor:
        """(n, *stored) -> (n, *shape) float32 in network space."""
        mean, deviation = self._statistics_on(stored.device)
        return (self.decode(stored) - mean) / deviation

    def write(self, x: Tensor) -> Tensor:
        """(n, *shape) in network space -> the nearest storable (n, *stored)."""
        mean, deviation = self._statistics_on(x.device)
        return self.encode(x.detach() * deviation + mean)

    def _statistics_on(self, device: torch.device) -> tuple[Tensor, ...]:
        return self._on(device, "statistics", self.statistics)

    def _on(self, device: torch.device, name: str, make: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """What `make` gives, on the device; what has gone there once stays there."""
        if device.type == "cpu":
            return make()
        if (device, name) not in self._elsewhere:
            with torch.inference_mode(False):
                self._elsewhere[device, name] = tuple(sent(t, device) for t in make())
        return self._elsewhere[device, name]

    @abstractmethod
    def adopt(self, stored: Tensor, spec: Spec) -> Tensor:
        """Examples that were stored by another spec of this kind, as this one stores them; BadInput where that cannot be."""

    @abstractmethod
    def noise(self, n: int, rng: torch.Generator) -> Tensor:
        """(n, *shape) of legal noise in network space."""

    @abstractmethod
    def augment(self, rng: torch.Generator, groups: int) -> Augmentation:
        """Draw one set of augmentation parameters per group; the result is differentiable in x, replayable, and the same
        for every example of a group (siamese when a real and a synthetic batch share their groups)."""

    @abstractmethod
    def clamp_(self, x: Tensor) -> None:
        """Make x (n, *shape, network space) legal again, in place, without gradient."""

    @abstractmethod
    def preview(self, stored: Tensor) -> Preview:
        """One stored example (no batch axis) for a person."""

    @abstractmethod
    def columns(self, stored: Tensor, *, plain: bool) -> dict[str, Any]:
        """(n, *stored) as named columns of n values, for tables (parquet, CSV); `plain`: text and numbers only, one per cell."""

    @property
    def label_column(self) -> str:
        """What the label's column is called in a table."""
        return str(self.spec.facts.get("label", "label"))

    def normaliser(self) -> nn.Module:
        """A module that maps natural to network space: put it in front of a net, so that the model takes natural input."""
        return Normalise(*self.statistics())


class Normalise(nn.Module):
    """x -> (x - mean) / deviation, the first layer of every student."""

    def __init__(self, mean: Tensor, deviation: Tensor):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation
