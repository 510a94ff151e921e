"""Each example as a small network from coordinates to values (DDiF: Shin et al., "Distilling Dataset into Neural Field", ICLR 2025)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Self, final

import torch
from torch import Tensor, nn

from ..data.task import Task
from ..errors import UsageError
from ..modalities import Modality
from ..rates import half_cosine
from .form import Form, Start, beginnings, sixteen_bits, steepness

OMEGA = 20.0  # the first layer's frequencies; SIREN's 30 (Sitzmann et al. 2020) fits fields as small as these less well
LAYERS = 2  # of `width` sines each
FIT, LR = 300, 0.02  # steps of Adam from a random field to the example that it begins as


@final
class Field(Form):
    """`each` examples per item, each a field (row, column) -> channels:   W_3 sin(W_2 sin(omega (W_1 . + b_1)) + b_2) + b_3

    The width is the largest whose fields weigh, in 16 bits, what an item of pixels does. Fields begin at real examples (or noise),
    to which they are fitted by least squares; that takes a quarter of a second for ten fields of 32 x 32 pixels.
    Differences from the authors' code: 16 bits; the width follows from the budget, where theirs is set by hand; the frequency does not
    multiply the second layer; parameters are not clamped, only what comes out of them when it is stored.
    """

    name: ClassVar = "field"
    needs: ClassVar = frozenset({"grid"})
    default: ClassVar = 4

    def __init__(self, x: Tensor, modality: Modality, each: int, gain: Tensor | None = None):
        """x (n * each, P) the fields, each as one vector: weights and biases, layer by layer"""
        super().__init__()
        self.modality, self.settings = modality, each
        self.register_buffer("gain", torch.ones(x.shape[1]) if gain is None else gain)
        self.x = nn.Parameter(x * self.gain)  # see `steepness`: each layer by itself

    @classmethod
    def gives(cls, settings: int) -> int:
        return settings

    @classmethod
    def start(cls, task: Task, how: Start, rng: torch.Generator, settings: int) -> Self:
        goal = beginnings(task, how, rng, settings)
        fields = fitted(goal, fresh(len(goal), widest(task.spec.shape, settings), goal.shape[1], rng))
        layers = list(fields[:8].split(sizes(fields.shape[1], len(goal[0])), 1))
        gains = [steepness(lambda p, k=k: render(torch.cat([*layers[:k], p, *layers[k + 1 :]], 1), task.spec.shape), layer, rng) for k, layer in enumerate(layers)]
        return cls(fields, task.modality, settings, torch.cat([gain.expand(layer.shape[1]) for gain, layer in zip(gains, layers, strict=True)]))

    def forward(self, items: Tensor | None = None) -> Tensor:
        x = self.of(items, self.x)
        return render(x / self.gain, self.modality.spec.shape)

    def clamp_(self) -> None:
        """Any numbers are legal."""

    def pack(self) -> dict[str, Tensor]:
        return {"fields": sixteen_bits((self.x.detach() / self.gain).cpu())}

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor], modality: Modality, settings: int) -> Self:
        fields = tensors["fields"]
        size = count(widest(modality.spec.shape, settings), modality.spec.shape[0])
        if fields.dtype != torch.float16 or fields.ndim != 2 or fields.shape[1] != size or len(fields) % settings or not torch.isfinite(fields).all():
            raise ValueError(f"fields {tuple(fields.shape)} {fields.dtype}, expected finite ones of {size} numbers")
        return cls(fields.float(), modality, settings)


def shapes(width: int, channels: int) -> list[tuple[int, int]]:
    """(outputs, inputs and one for the bias) of each layer."""
    return [(width, 3), *[(width, width + 1)] * (LAYERS - 1), (channels, width + 1)]


def count(width: int, channels: int) -> int:
    """P"""
    return sum(math.prod(shape) for shape in shapes(width, channels))


def widest(shape: tuple[int, ...], each: int) -> int:
    """The largest width of which `each` fields, in 16 bits, weigh what an item of this shape does in 8."""
    channels, numbers = shape[0], math.prod(shape) // (2 * each)
    if count(1, channels) > numbers:
        most = math.prod(shape) // (2 * count(1, channels))
        raise UsageError(f"form field:{each} of examples {tuple(shape)}", f"at most {most} fields per item", f"--set form={'field:1' if most else 'pixels'}")
    return next(width - 1 for width in range(2, numbers + 2) if count(width, channels) > numbers)


def sizes(P: int, channels: int) -> list[int]:
    """How many numbers of a field of P are of each layer."""
    width = next(w for w in range(1, P + 1) if count(w, channels) == P)
    return [math.prod(shape) for shape in shapes(width, channels)]


def fresh(n: int, width: int, channels: int, rng: torch.Generator) -> Tensor:
    """(n, P) as SIREN begins: the first layer uniform in 1 / inputs, the others in sqrt(6 / inputs)."""
    parts = []
    for k, (out, inputs) in enumerate(shapes(width, channels)):
        bound = 1 / (inputs - 1) if k == 0 else math.sqrt(6 / (inputs - 1)) / (1 if k < LAYERS else OMEGA**0.5)
        parts.append((torch.rand((n, out * inputs), generator=rng) * 2 - 1) * bound)
    return torch.cat(parts, 1)


def fitted(goal: Tensor, fields: Tensor) -> Tensor:
    """The fields (n, P) after some steps of Adam towards the examples `goal` (n, *shape)."""
    fields = fields.clone().requires_grad_()
    optimizer = torch.optim.Adam([fields], lr=LR)
    for step in range(FIT):
        optimizer.param_groups[0]["lr"] = LR * half_cosine(step, FIT)
        for some in torch.arange(len(goal)).split(64):  # so much at once as the caches hold
            (render(fields[some], goal.shape[1:]) - goal[some]).square().flatten(1).mean(1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return fields.detach()


def render(fields: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(n, *shape) the values of the fields (n, P) on the grid: coordinates from -1 to 1 along both sides."""
    channels, height, width = shape
    across = [torch.linspace(-1, 1, side, dtype=fields.dtype, device=fields.device) for side in (height, width)]
    h = torch.stack(torch.meshgrid(*across, indexing="ij")).flatten(1)  # (2, positions)
    for k, part in enumerate(fields.split(sizes(fields.shape[1], channels), 1)):
        layer = part.unflatten(1, (-1, h.shape[-2] + 1))
        h = layer[..., :-1] @ h + layer[..., -1:]
        h = torch.sin(OMEGA * h if k == 0 else h) if k < LAYERS else h
    return h.unflatten(2, (height, width))
