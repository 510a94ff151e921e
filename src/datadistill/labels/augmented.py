"""Labels of views: for each example and epoch, a teacher's logits of the very crop, flip and mix that the student will be shown.

Views are derived (`views.Views`), not stored, and labels are kept by example and epoch, so that a replay is the same bits in
any batch, of any size, in any process. A student that trains longer than was recorded begins again; one whose labels were pruned
goes round what each example has left. What a codec keeps of the logits is in `compress`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, final, get_args, get_type_hints

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import BadInput, UsageError
from ..match import labels as losses
from ..rng import rng
from ..text import safe
from . import compress
from .base import Labels, numbers, smallest
from .compress import Codec, Half
from .views import Drawn, Views

FORMAT = 1
Read = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Objective:
    """The loss that a student is trained with; see `match.labels`."""

    name: Literal["kl", "mse_ce", "gift", "hald", "lpqld"] = "kl"
    temperature: float = 20.0  # of kl and hald; lpqld's first
    gamma: float = 0.1  # of mse_ce and gift

    def __call__(self, logits: Tensor, z: Tensor, h: Tensor | None, at: float) -> Tensor:
        if self.name == "lpqld":
            return losses.lpqld(logits, z, at, self.temperature)
        if h is None:
            return losses.kl(logits, z, self.temperature)
        if self.name == "hald":
            return losses.hald(logits, z, h, at, temperature=self.temperature)
        return (losses.mse_ce if self.name == "mse_ce" else losses.gift)(logits, z, h, self.gamma)


@final
class Augmented(Labels):
    """Logits of `kept` of `recorded` epochs' views of each example, which has also a class: hard (n,).

    codec   holds the view of example i that is `slot`-th of those kept at slot * n + i      sides   (height, width) of examples
    """

    steady = False

    def __init__(self, hard: Tensor, codec: Codec, views: Views, recorded: int, kept: int, sides: tuple[int, int], objective: Objective | None = None):
        self.hard, self.codec, self.views, self.recorded, self.kept = hard.long(), codec, views, recorded, kept
        self.sides, self.objective, self.classes = tuple(sides), objective or Objective(), codec.classes
        if isinstance(codec, compress.Largest) and self.objective.name in ("mse_ce", "gift"):
            raise UsageError(f"labels by {codec}, which give up most classes, for a student of loss {self.objective.name}", "kl, hald or lpqld, or labels by top10, which keep the mean of the rest")
        if len(codec) != kept * len(hard):
            raise BadInput(f"{len(codec)} labels of views", f"{kept} for each of {len(hard)} examples")

    def __len__(self) -> int:
        return len(self.hard)

    @cached_property
    def epochs(self) -> Tensor:
        """(kept, n) which epochs' views each example has, in order: a random choice by name, of which a smaller one is a part."""
        if self.kept == self.recorded:
            return torch.arange(self.recorded)[:, None].expand(-1, len(self))
        u = torch.rand((self.recorded, len(self)), generator=rng(self.views.seed, "prune"))
        return u.argsort(dim=0, stable=True)[: self.kept].sort(0).values

    def logits(self, indices: Tensor, epoch: int = 0) -> Tensor:
        """(k, classes) float32, as they were kept."""
        return self.codec.decode(epoch % self.kept * len(self) + indices)

    def targets(self, indices: Tensor, epoch: int = 0, view: int = 0) -> Tensor:
        return F.softmax(self.logits(indices, epoch + view), 1)

    def drawn(self, indices: Tensor, epoch: int = 0) -> Drawn:
        """The views that these labels were made for."""
        return self.views.draw(indices, self.epochs[epoch % self.kept, indices], len(self), self.sides)

    def show(self, read: Read, indices: Tensor, epoch: int = 0) -> Tensor:
        x = self.views.of(read, indices, self.epochs[epoch % self.kept, indices], len(self))
        if tuple(x.shape[2:]) != self.sides:
            raise BadInput(f"examples of shape {tuple(x.shape[1:])}", f"sides {self.sides}, for which the labels were made")
        return x

    def ask(self, indices: Tensor, epoch: int = 0) -> tuple[Tensor, ...]:
        drawn = self.drawn(indices, epoch) if self.objective.name not in ("kl", "lpqld") else None
        return beside(self.objective, self.logits(indices, epoch), self.hard, indices, drawn, self.classes)

    def loss(self, logits: Tensor, *asked: Tensor, at: float = 0.0) -> Tensor:
        return self.objective(logits, asked[0], asked[1] if len(asked) > 1 else None, at)

    def tensors(self) -> dict[str, Tensor]:
        about = {
            "format": FORMAT, "views": self.views.to_json(), "recorded": self.recorded, "kept": self.kept, "sides": list(self.sides), "classes": self.classes,
            "codec": [self.codec.name, self.codec.setting], "objective": asdict(self.objective),
        }  # fmt: skip
        text = json.dumps(about, sort_keys=True).encode()
        kept = {f"views/{name}": t for name, t in self.codec.tensors.items()}
        return {"about": torch.frombuffer(bytearray(text), dtype=torch.uint8), "labels": self.hard.to(smallest(self.classes)), **kept}

    @property
    def bytes(self) -> int:
        """As stored."""
        return sum(t.numel() * t.element_size() for t in self.tensors().values())

    def pruned(self, kept: int) -> Augmented:
        """So many views of each example, a random choice; all that there are: the same labels."""
        if not 1 <= kept <= self.kept:
            raise UsageError(f"{kept} views of each example, of labels that have {self.kept}", f"from 1 to {self.kept}")
        fewer = Augmented(self.hard, self.codec.keep(torch.arange(kept * len(self))), self.views, self.recorded, kept, self.sides, self.objective)
        slots = torch.searchsorted(self.epochs.T.contiguous(), fewer.epochs.T.contiguous()).T
        rows = slots * len(self) + torch.arange(len(self))
        return Augmented(self.hard, self.codec.keep(rows.flatten()), self.views, self.recorded, kept, self.sides, self.objective)

    def encoded(self, codec: type[Codec], setting: int = 0, *, seed: int = 0) -> Augmented:
        """The same views, their logits kept by another codec."""
        whole = self.codec.decode(torch.arange(len(self.codec)))
        if not torch.isfinite(whole).all() and codec not in (Half, compress.Largest):
            raise UsageError(f"labels by {self.codec}, which give up most classes, as {codec.name}", "fp16, or fewer of the largest")
        return Augmented(self.hard, codec.encode(whole, setting, seed), self.views, self.recorded, self.kept, self.sides, self.objective)

    def compressed(self, to: str, *, seed: int = 0) -> Augmented:
        """By steps joined by commas: a share of what was recorded ("2.5%"), and one of `compress.CODECS` ("top10", "codes256")."""
        labels = self
        for step in to.split(","):
            if step.endswith("%"):
                labels = labels.pruned(max(1, round(_share(step) * self.recorded)))
            else:
                labels = labels.encoded(*compress.named(step.strip()), seed=seed)
        return labels


def beside(objective: Objective, z: Tensor, hard: Tensor, indices: Tensor, drawn: Drawn | None, classes: int) -> tuple[Tensor, ...]:
    """What a loss needs of views `drawn` of examples `indices`: a teacher's logits z, and with some losses the class, of one or two examples."""
    if drawn is None:
        return (z,)
    return z, losses.mixed(hard[indices], hard[drawn.partner], drawn.share, classes).to(z.device)


def _share(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = -1
    if not 0 < share <= 1:
        raise UsageError(f"a share of {safe(text)!r}", "more than 0% and at most 100%", "--to 2.5%")
    return share


def record(hard: Tensor, logits: Tensor, views: Views, sides: tuple[int, int], objective: Objective | None = None) -> Augmented:
    """Labels of views from a teacher's logits (epochs, n, classes) of all of them, kept as float16."""
    return Augmented(hard, Half.encode(logits.flatten(0, 1), 0, 0), views, len(logits), len(logits), sides, objective)


def of(tensors: Mapping[str, Tensor], classes: int) -> Augmented:
    """What `Augmented.tensors` wrote; BadInput for anything else."""
    try:
        about: dict[str, Any] = json.loads(tensors["about"].contiguous().numpy().tobytes().decode())
        views, objective = read_views(about, classes), read_objective(about)
        name, setting = about["codec"]
        recorded, kept, sides = about["recorded"], about["kept"], tuple(about["sides"])
        whole = [setting, recorded, kept, *sides]
        if not (all(type(number) is int for number in whole) and 1 <= kept <= recorded <= 10**6 and len(sides) == 2 and setting >= 0):
            raise ValueError("numbers out of range")
        codec = compress.CODECS[name]({k.removeprefix("views/"): t for k, t in tensors.items() if k.startswith("views/")}, classes, setting)
        return Augmented(numbers(tensors["labels"], classes), codec, views, recorded, kept, sides, objective)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, UsageError) as error:
        raise BadInput(f"labels of views that cannot be read ({type(error).__name__}: {safe(error, 200)})", "what datadistill wrote") from error


def read_views(about: Mapping[str, Any], classes: int) -> Views:
    """How views were drawn, from what is not trusted; it must be of a known format and of so many classes."""
    if type(about["format"]) is not int or about["format"] < 1:
        raise ValueError("no format")
    if about["format"] > FORMAT:
        raise BadInput(f"labels of format {safe(about['format'])}", f"format {FORMAT} or older", "pip install -U datadistill")
    if about["classes"] != classes:
        raise ValueError(f"labels of {about['classes']} classes, of data with {classes}")
    views = Views(**about["views"])
    if type(views.seed) is not int or not 0 < views.crop <= 1 or views.mix not in ("cutmix", "none") or type(views.flip) is not bool:
        raise ValueError("unknown views")
    return views


def read_objective(about: Mapping[str, Any]) -> Objective:
    """The loss, from what is not trusted."""
    objective = Objective(**about["objective"])
    if objective.name not in get_args(get_type_hints(Objective)["name"]) or not objective.temperature > 0:
        raise ValueError("unknown loss")
    return objective


class _Examples(Protocol):
    def read(self, indices: Tensor) -> Tensor: ...


class Replay(torch.utils.data.Dataset):
    """(view in network space, its target) of each example in an epoch, for a torch DataLoader with any number of workers and any
    batch size. Call `set_epoch` before each pass over the loader.
    """

    def __init__(self, examples: _Examples, labels: Augmented, epoch: int = 0):
        self.examples, self.labels, self.epoch = examples, labels, epoch

    def set_epoch(self, epoch: int) -> None:
        """Show the views of that epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        rows = torch.tensor(indices, dtype=torch.long)
        return list(zip(self.labels.show(self.examples.read, rows, self.epoch), self.labels.targets(rows, self.epoch), strict=True))
