"""Teachers as labels: they travel with the set, and say of each view what it is when a student is shown it.

Where a set has few examples and many classes, or is to be trained on for long, teachers are smaller than what they would say: their
bytes, as float16, are the labels' bytes. Views are derived from names (`views.Views`), as those of labels that are stored, and no view
comes twice. Logits are computed where the student is trained: equal to rounding, not to the bit, on other machines.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, final

import torch
from torch import Tensor, nn

from ..errors import BadInput, UsageError
from ..text import safe
from .augmented import FORMAT, Objective, Read, beside, read_objective, read_views
from .base import Labels, numbers, smallest
from .views import Drawn, Views

Restore = Callable[[str, dict[str, Any], dict[str, Tensor]], nn.Module]
"""(family, size, weights) -> that net, frozen and in eval mode; an error for what does not fit."""
MOST = 16  # teachers in one file


@final
class Taught(Labels):
    """Of n examples, each of a class, `hard` (n,): the mean of the teachers' logits of the views that are shown.

    teachers   nets with `family` and `size`, by which they are built again; kept are copies, rounded to what is stored
    """

    steady = False

    def __init__(self, hard: Tensor, teachers: Sequence[Any], views: Views, sides: tuple[int, int], classes: int, objective: Objective | None = None):
        if any(not hasattr(net, "size") for net in teachers):
            raise UsageError("a teacher of data that are scaled otherwise, as labels", "a teacher of the same data", "datadistill teacher with the source and --side that the set was made of")
        self.hard, self.views, self.sides, self.classes = hard.long(), views, tuple(sides), classes
        self.objective = objective or Objective()
        self.states = [rounded(net.state_dict()) for net in teachers]
        self.teachers = [copy.deepcopy(net).cpu().float() for net in teachers]
        for net, state in zip(self.teachers, self.states, strict=True):
            net.load_state_dict(state)
            net.eval().requires_grad_(False)

    def __len__(self) -> int:
        return len(self.hard)

    def targets(self, indices: Tensor, epoch: int = 0, view: int = 0) -> Tensor:
        """The class alone: what a teacher says needs an example (see `ask_about`)."""
        return self.hard[indices]

    def drawn(self, indices: Tensor, epoch: int = 0) -> Drawn:
        """The views that a student is shown."""
        return self.views.draw(indices, torch.full_like(indices, epoch), len(self), self.sides)

    def show(self, read: Read, indices: Tensor, epoch: int = 0) -> Tensor:
        return self.views.of(read, indices, torch.full_like(indices, epoch), len(self))

    @torch.no_grad()
    def ask_about(self, shown: Tensor, indices: Tensor, epoch: int = 0) -> tuple[Tensor, ...]:
        z = torch.stack([net.to(shown.device)(shown).float() for net in self.teachers]).mean(0)
        drawn = self.drawn(indices, epoch) if self.objective.name not in ("kl", "lpqld") else None
        return beside(self.objective, z, self.hard, indices, drawn, self.classes)

    def loss(self, logits: Tensor, *asked: Tensor, at: float = 0.0) -> Tensor:
        return self.objective(logits, asked[0], asked[1] if len(asked) > 1 else None, at)

    def tensors(self) -> dict[str, Tensor]:
        about = {
            "format": FORMAT, "views": self.views.to_json(), "sides": list(self.sides), "classes": self.classes, "objective": asdict(self.objective),
            "teachers": [[net.family, net.size] for net in self.teachers],
        }  # fmt: skip
        text = json.dumps(about, sort_keys=True).encode()
        kept = {f"teacher{k}/{name}": t for k, state in enumerate(self.states) for name, t in state.items()}
        return {"about": torch.frombuffer(bytearray(text), dtype=torch.uint8), "labels": self.hard.to(smallest(self.classes)), **kept}


def rounded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights and statistics as float16, but for those that it cannot hold."""
    halves = {name: t.detach().cpu().half() if t.is_floating_point() else t.detach().cpu() for name, t in state.items()}
    return {name: (t if torch.isfinite(t).all() else state[name].detach().cpu()).contiguous() for name, t in halves.items()}


def of(tensors: Mapping[str, Tensor], classes: int, restore: Restore | None) -> Taught:
    """What `Taught.tensors` wrote; BadInput for anything else."""
    try:
        about: dict[str, Any] = json.loads(tensors["about"].contiguous().numpy().tobytes().decode())
        views, objective = read_views(about, classes), read_objective(about)
        sides, named = tuple(about["sides"]), about["teachers"]
        if not (len(sides) == 2 and all(type(side) is int for side in sides) and 1 <= len(named) <= MOST):
            raise ValueError("numbers out of range")
        states = [{name.removeprefix(f"teacher{k}/"): t for name, t in tensors.items() if name.startswith(f"teacher{k}/")} for k in range(len(named))]
        if sum(map(len, states)) + 2 != len(tensors) or restore is None:
            raise ValueError("tensors of no teacher")
        teachers = [restore(family, dict(size), {name: t.float() if t.is_floating_point() else t for name, t in state.items()}) for (family, size), state in zip(named, states, strict=True)]
        return Taught(numbers(tensors["labels"], classes), teachers, views, sides, classes, objective)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, RecursionError, UsageError) as error:
        raise BadInput(f"teachers as labels that cannot be read ({type(error).__name__}: {safe(error, 200)})", "what datadistill wrote") from error
