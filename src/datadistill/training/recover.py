"""The decoupled engine: S moves until teachers, which are frozen, take it for T (the recover step of SRe2L and all after it).

    for each unit (a batch that is recovered together), s = 1..steps
        x~ = per-example crop, flip and roll of x          the least share of a crop's area by a schedule
        L  = CE(phi(x~), y) + r R(statistics of phi's layers on x~)
        x <- Adam(0.5, 0.9) with a cosine to zero, made legal again;   the last iterate is kept

Methods choose what varies: how S begins, the units, the crop schedule, the statistics R, the teachers of a unit, resolution
stages, and who writes the labels (see `relabel`). What a unit is made of, and every draw in it, is named by the unit: it comes to
the same whatever stands beside it, on one worker or many.

Differences from the authors' code, for all methods: one crop per example, not per batch; all draws have a name; statistics are those of
float32; pixels are rounded, not truncated, when they are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import nets
from ..labels.views import box, visible
from ..modalities import Modality
from ..precision import Precision, computing
from ..rates import half_cosine
from ..run import Run
from .targets import Target

Crop = Callable[[float], float]
"""t in [0, 1), how far recovery is -> the least share of the area that a crop may have, where that is 7 x 7 pixels or more."""


def constant(least: float = 0.08) -> Crop:
    """The same at all times."""
    return lambda t: least


def easing(least: float = 0.08, share: float = 1.0) -> Crop:
    """CDA's curriculum: whole examples at first, down a half cosine to `least` at `share` of the way."""
    return lambda t: least + (1 - least) * half_cosine(min(1.0, t / share))


# -- units --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unit:
    """Items of S (b,) that are recovered together, under a name; joins (b,): the first step that moves each."""

    name: tuple[str | int, ...]
    items: Tensor
    joins: Tensor

    @classmethod
    def of(cls, name: tuple[str | int, ...], items: Tensor) -> Unit:
        """All of them from the first step on."""
        return cls(name, items, torch.zeros_like(items))


def across(y: Tensor, most: int = 100) -> list[Unit]:
    """SRe2L's: one item of each class, at most so many classes at once. y (n,) class numbers."""
    order = place(y)
    units = []
    for j in range(int(order.max()) + 1 if len(y) else 0):
        items = (order == j).nonzero().squeeze(1)
        items = items[torch.argsort(y[items], stable=True)]
        units += [Unit.of(("item", j, k), part) for k, part in enumerate(items.split(most))]
    return units


def within(y: Tensor, most: int = 100) -> list[Unit]:
    """LPLD's: items of one class, at most so many at once."""
    classes = [((y == c).nonzero().squeeze(1), c) for c in torch.unique(y).tolist()]
    return [Unit.of(("class", c, k), part) for items, c in classes for k, part in enumerate(items.split(most))]


def whole_classes(y: Tensor, most: int = 100) -> list[Unit]:
    """WMDD's: all items of as many classes as make at most so many; a class that has more is cut (see `within`)."""
    units: list[Unit] = []
    held: list[Tensor] = []
    for c in torch.unique(y).tolist():
        own = (y == c).nonzero().squeeze(1)
        if held and sum(map(len, held)) + len(own) > most:
            units.append(Unit.of(("classes", len(units)), torch.cat(held)))
            held = []
        parts = own.split(most)
        units += [Unit.of(("classes", len(units) + k), part) for k, part in enumerate(parts[:-1])]
        held.append(parts[-1])
    return [*units, Unit.of(("classes", len(units)), torch.cat(held))] if held else units


def place(y: Tensor) -> Tensor:
    """(n,) how many items of the same class stand before each."""
    out = torch.zeros_like(y)
    for c in torch.unique(y).tolist():
        own = y == c
        out[own] = torch.arange(int(own.sum()))
    return out


# -- the engine -----------------------------------------------------------------------------------------------------------


class Items(Protocol):
    """S while it is being recovered: a SyntheticSet in pixels, of which x (n, *shape) is moved and y (n,) says the classes."""

    x: nn.Parameter
    y: Tensor
    modality: Modality

    def __len__(self) -> int: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


@dataclass(frozen=True)
class Guide:
    """A frozen teacher in eval mode, and what its layers should say."""

    net: nets.Net
    target: Target

    def loss(self, x: Tensor, y: Tensor, weight: float) -> Tensor:
        """CE + weight R of views x (b, *shape) of classes y (b,)."""
        with self.target.taps:
            logits = self.net(x)
        return F.cross_entropy(logits.float(), y) + weight * self.target.loss(y)


@dataclass(frozen=True)
class Committee:
    """Several guides that are shown the same views at once, each with its share of the loss."""

    members: Sequence[Guide]
    shares: Sequence[float]

    def loss(self, x: Tensor, y: Tensor, weight: float) -> Tensor:
        """Of each, by its share."""
        return torch.stack([share * guide.loss(x, y, weight) for guide, share in zip(self.members, self.shares, strict=True)]).sum()


@dataclass(frozen=True)
class Recovery:
    """How units are recovered.

    weight   r, of the statistics             crop, jitter   the schedule, and the most pixels that a view is rolled by
    extra    a further loss of (views, classes)
    precision   of convolutions and linear maps; auto: bfloat16 where the device has instructions for it. Statistics and losses are of float32
    stages   sides of x relative to the full ones, stage by stage, all as long; residual: the share of the start that is mixed in
             where a later one begins (FADRM)
    """

    steps: int
    lr: float
    weight: float
    crop: Crop = constant()
    jitter: int = 4
    flip: bool = True
    extra: Callable[[Tensor, Tensor], Tensor] | None = None
    stages: tuple[float, ...] = (1.0,)
    residual: float = 0.0
    precision: Precision = "auto"


Choice = Callable[[Unit, Tensor, Tensor], Sequence[Guide | Committee]]
"""(unit, its items as they begin (b, *shape), their classes (b,)) -> the teachers that it is shown to, in turn, a step each."""


def recover(syn: Items, units: Sequence[Unit], guides: Sequence[Guide], how: Recovery, run: Run, choose: Choice | None = None) -> None:
    """Move syn.x in place, unit by unit; each is shown to all guides in turn, or to those that are chosen for it."""
    targets, modality = [guide.target for guide in guides], syn.modality
    per_stage = -(-how.steps // len(how.stages))

    def one(run: Run, given: tuple[int, Unit, Tensor, Tensor]) -> dict[str, Tensor]:
        k, unit, x0, y0 = given
        x0, y0 = x0.to(run.device), y0.to(run.device)
        shown = choose(unit, x0, y0) if choose else guides
        canvas = Canvas(x0, how.lr)
        for target in targets:
            target.carried = {}
        for s in run.steps(how.steps, canvas, *targets, label="recovering"):
            if s % per_stage == 0:
                stage = s // per_stage
                fresh = _resized(x0, how.stages[stage])
                canvas.begin(fresh if stage == 0 else (1 - how.residual) * _resized(canvas.x.data, how.stages[stage], x0.shape) + how.residual * fresh)
            canvas.cool(s / how.steps)
            guide = shown[s % len(shown)]
            joined = (unit.joins <= s).nonzero().squeeze(1).to(run.device)
            if len(joined):
                x, y = (canvas.x, y0) if len(joined) == len(y0) else (canvas.x[joined], y0[joined])
                loss = run.descend(canvas, _loss(guide, x, y, how, s, run.rng("recover", *unit.name, s)))
                modality.clamp_(canvas.x.data)
                run.log(k * how.steps + s, loss=loss)
        return {"x": canvas.x.data if canvas.x.shape == x0.shape else _resized(canvas.x.data, 1.0, x0.shape)}  # smaller where a plan has cut the loop short

    run.saved = (syn,)  # what there is, should the loss of a unit stay not finite
    given = [(k, unit, syn.x.data[unit.items].cpu(), syn.y[unit.items].cpu()) for k, unit in enumerate(units)]
    for unit, made in zip(units, run.each("recovering", given, one, steps=how.steps), strict=True):
        syn.x.data[unit.items] = made["x"].to(run.device)


class Canvas:
    """The items of a unit as they began, and x, of whatever size, with the Adam that moves it (or what `make` of x and a rate gives): for
    `run.descend` an optimiser, for `run.steps` a state.
    """

    def __init__(self, start: Tensor, lr: float, make: Callable[[nn.Parameter, float], torch.optim.Optimizer] | None = None):
        self.start, self.peak, self.make = start.clone(), lr, make or (lambda x, lr: torch.optim.Adam([x], lr=lr, betas=(0.5, 0.9)))
        self._fresh(start[:0])

    def begin(self, x: Tensor) -> None:
        """Go on with this x, and an Adam that knows nothing yet."""
        self._follow()
        self._fresh(x)

    def cool(self, t: float) -> None:
        """The cosine at t in [0, 1)."""
        self._follow()
        self.param_groups[0]["lr"] = self.set = self.peak * half_cosine(t)

    def _follow(self) -> None:
        """A run that falls back halves the rate it finds: so is the peak."""
        self.peak *= self.param_groups[0]["lr"] / self.set if self.set else 1

    def _fresh(self, x: Tensor) -> None:
        self.x = nn.Parameter(x.detach().clone())
        self.adam = self.make(self.x, self.peak)
        self.set = self.peak

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.adam.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.adam.zero_grad(set_to_none)

    def step(self) -> None:
        self.adam.step()

    def state_dict(self) -> dict[str, Any]:
        return {"x": self.x.data, "start": self.start, "adam": self.adam.state_dict(), "peak": self.peak, "set": self.set}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.start, self.peak = state["start"].to(self.start.device), state["peak"]
        self._fresh(state["x"].to(self.start.device))
        self.adam.load_state_dict(state["adam"])
        self.set = state["set"]


def _loss(guide: Guide | Committee, x: Tensor, y: Tensor, how: Recovery, s: int, rng: torch.Generator) -> Tensor:
    seen = jittered(x, visible(how.crop(s / how.steps), x.shape[2:]), how.jitter, how.flip, rng)
    with computing(how.precision, x.device):
        loss = guide.loss(seen, y, how.weight)
    return loss if how.extra is None else loss + how.extra(seen, y)


def jittered(x: Tensor, least: float, jitter: int, flip: bool, rng: torch.Generator) -> Tensor:
    """Each example (b, channels, height, width) cropped, flipped and rolled by itself."""
    u = torch.rand((len(x), 7), generator=rng, dtype=torch.float64)
    boxes = torch.tensor([box(own[:4], least) for own in u.tolist()], dtype=torch.float64).view(-1, 4).to(x)
    mirrored, roll = (u[:, 4] < 0.5) & flip, (u[:, 5:] * (jitter + 1)).long()
    rows = lines(boxes[:, 0], boxes[:, 2], x.shape[2], roll[:, 0].to(x.device), torch.zeros_like(mirrored).to(x.device))
    cols = lines(boxes[:, 1], boxes[:, 3], x.shape[3], roll[:, 1].to(x.device), mirrored.to(x.device))
    return rows[:, None] @ x @ cols[:, None].mT


def lines(start: Tensor, length: Tensor, side: int, roll: Tensor, flip: Tensor) -> Tensor:
    """(b, side, side) the linear map of a line of pixels to its part from `start` on (b,), `length` long (shares of the side), enlarged to
    the side by linear interpolation, flipped where that is said (b,), then rolled by so many pixels (b,). A crop is two of these, which is what
    `labels.views.look` does, with a way back that takes a tenth of the time on a CPU.
    """
    to = (torch.arange(side, device=start.device) - roll[:, None]) % side
    to = torch.where(flip[:, None], side - 1 - to, to)
    at = ((start[:, None] + length[:, None] * ((to + 0.5) / side)) * side - 0.5).clamp(0, side - 1)
    return (1 - (at[:, :, None] - torch.arange(side, device=start.device)).abs()).clamp(min=0)


def _resized(x: Tensor, share: float, full: torch.Size | None = None) -> Tensor:
    """x (b, channels, height, width) with sides of that share of the full ones, which are its own if not given; always a copy."""
    sides = [max(1, round(side * share)) for side in (full or x.shape)[2:]]
    return x.clone() if sides == list(x.shape[2:]) else F.interpolate(x, sides, mode="bilinear", align_corners=False)
