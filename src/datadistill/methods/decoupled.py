"""What decoupled methods share: hyper-parameters, a teacher squeezed from T, and how the engine recovers S from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch

from .. import nets
from ..data.task import Real, Task
from ..errors import UsageError
from ..labels import Hard, Objective
from ..modalities import Modality
from ..precision import Precision
from ..rng import rng
from ..run import Run
from ..synthetic import Start, SyntheticSet
from ..text import safe
from ..training.embedding import narrow
from ..training.patches import Patches
from ..training.recover import Recovery
from ..training.relabel import Kind, Relabel
from ..training.teachers import Squeeze, teacher
from ..training.unlabelled import Contrast, backbone, probed
from ..training.weights import family_of, sha256, unpack, width_of
from .base import Method
from .selection import per_class


@dataclass(frozen=True, kw_only=True)
class Decoupled(Method):
    """A method that looks at T through a trained teacher. Abstract: the hyper-parameters that all of them have."""

    family: ClassVar = "decoupled"
    needs: ClassVar = frozenset({"continuous", "grid"})
    factor: ClassVar[int | None] = None  # a hyper-parameter of those whose items are tiles: how many to a side
    scales_over: ClassVar = "items"
    statistics: ClassVar[bool] = True  # of batch norm are looked at
    positive: ClassVar = frozenset({"label_crop"})
    shares: ClassVar = frozenset({"label_crop"})
    quick: ClassVar = {"epochs": 30, "most_steps": 1200, "width": 8}

    net: str = "auto"  # phi, the teacher; auto: the modality's first with batch norm; several, shown in turn: resnet+vgg
    width: int | None = None  # of phi; none: the family's own
    epochs: int = 60  # of training phi
    most_steps: int | None = None  # of training phi: fewer epochs, one at least, where T is large
    teacher_lr: float | None = None  # none: 0.1, SGD with momentum
    teacher: str = "auto"  # auto: phi is trained; or a file that `datadistill teacher` wrote
    labels: Kind = "soft"  # hard; soft: the teacher's logits of each stored example; views: of each view that a student is shown; teacher: itself
    label_epochs: int = 20  # views of each example that are labelled; a student that trains longer sees them again
    label_crop: float = 0.08  # the least share of the area that such a view is cropped to; it is also flipped and mixed with another

    def check(self, modality: Modality) -> None:
        super().check(modality)
        if self.factor and self.factor > (side := min(modality.spec.shape[1:])):
            raise UsageError(f"{self.name}.factor = {self.factor} for pictures of {'x'.join(map(str, modality.spec.shape[1:]))}", f"at most {side}: a tile has a pixel at least", "--set factor=2")
        for family in self.families(modality) if self.teacher == "auto" else ():
            kind = nets.FAMILIES.get(family)
            good = [name for name, other in nets.FAMILIES.items() if other.batch_norm and len(modality.spec.shape) in other.axes]
            if kind is None or len(modality.spec.shape) not in kind.axes:
                raise UsageError(f"{self.name} with a teacher {safe(family)!r} on {modality.name} data", f"one of {', '.join(good)}, or several: {'+'.join(good[:2])}", f"--set net={good[0]}")
            if self.statistics and not kind.batch_norm:
                raise UsageError(
                    f"{self.name} through net {family!r}, which has no batch norm whose statistics could be matched, on {modality.name} data",
                    f"a net with batch norm: {' or '.join(good)}", f"--set net={good[0]}",
                )  # fmt: skip

    def families(self, modality: Modality) -> tuple[str, ...]:
        """Of the teachers."""
        if self.net != "auto":
            return tuple(self.net.split("+"))
        return (next((name for name in modality.nets if nets.FAMILIES[name].batch_norm), modality.nets[0]),)

    def label_bytes(self, real: Real) -> tuple[int, int]:
        classes, about = len(real.modality.spec.classes), 1024  # how views are drawn, as text
        if self.labels == "teacher":
            named = [(family_of(self.teacher), width_of(self.teacher))] if self.teacher != "auto" else [(name, self.width) for name in self.families(real.modality)]
            states = [narrow(name, real.modality.spec, width, rng(0)).state_dict().values() for name, width in named]
            return 0, about + sum(t.numel() * (2 if t.is_floating_point() else t.element_size()) for state in states for t in state)
        return {"hard": (0, 0), "soft": (2 * classes, 0), "views": (2 * classes * self.label_epochs, about)}[self.labels]

    def nets_used(self, modality: Modality) -> tuple[str, ...]:
        return (family_of(self.teacher),) if self.teacher != "auto" else self.families(modality)

    def phis(self, task: Task, run: Run) -> list[nets.Net]:
        """The teachers: read from a file, or trained on T once; a family that is named twice is two, which differ in every draw."""
        if self.teacher != "auto":
            run.notes.append(f"teacher of sha256 {sha256(self.teacher)}")
            return [unpack(self.teacher, task.modality, run.device)]
        how, names = self.squeeze(task), self.families(task.modality)
        return [teacher(task.train, run, how, net=name, width=self.width, member=names[:k].count(name)) for k, name in enumerate(names)]

    def squeeze(self, task: Task) -> Squeeze:
        """How phi is trained."""
        how = Squeeze(epochs=self.epochs, lr=self.teacher_lr)
        if self.most_steps is None:
            return how
        return replace(how, epochs=max(1, min(self.epochs, self.most_steps // max(1, len(task.train) // how.batch))))

    def backbones(self, task: Task, run: Run, pretraining: Literal["self-supervised", "labels"], probe_epochs: int) -> list[nets.Net]:
        """The teachers' backbones, frozen, or ones that were trained without labels; with linear probes of T for heads."""
        if pretraining == "labels" or self.teacher != "auto":
            found = self.phis(task, run)
        else:
            how = Contrast(epochs=self.squeeze(task).epochs, flip=may_flip(task))
            found = [backbone(task.train, run, how, net=name, width=self.width) for name in dict.fromkeys(self.families(task.modality))]
        return [probed(psi, task.train, run, probe_epochs) for psi in found]

    def labelling(self, task: Task, objective: Objective | None = None, together: int | None = None) -> Relabel:
        """Who writes the labels; objective: the loss of a student that is shown views, none: KL at temperature 20; together: see Relabel."""
        return Relabel(self.labels, self.label_epochs, self.label_crop, may_flip(task), objective=objective or Objective(), together=together)


@dataclass(frozen=True, kw_only=True)
class Recovered(Decoupled):
    """One whose items are moved by gradients. Abstract: the hyper-parameters that all of these have."""

    quick: ClassVar = {**Decoupled.quick, "iterations": 200, "lr": 0.05}  # few steps come further from pieces of real examples, not far from them
    positive: ClassVar = Decoupled.positive | {"crop"}
    shares: ClassVar = Decoupled.shares | {"crop"}
    may_be_zero: ClassVar = frozenset({"jitter"})

    iterations: int
    lr: float
    r: float  # the weight of the statistics
    first: float = 10.0  # w_1, of the first layer's among them
    crop: float = 0.08  # the least share of the area that a view may be cropped to
    jitter: int | None = None  # the most pixels that a view is rolled by; none: an eighth of sides up to 32, 4 up to 64, else 32
    precision: Precision = "auto"  # of convolutions; auto: bfloat16 where the device has instructions for it

    def recovery(self, task: Task, *, r: float | None = None, **more: Any) -> Recovery:
        """How S is recovered, and more of it; r: of a target that weighs its statistics itself."""
        side = max(task.spec.shape[1:])
        jitter = self.jitter if self.jitter is not None else min(4, round(side / 8)) if side <= 64 else 32
        return Recovery(self.iterations, self.lr, self.r if r is None else r, jitter=jitter, flip=may_flip(task), precision=self.precision, **more)


@dataclass(frozen=True, kw_only=True)
class Started(Recovered):
    """One whose items begin as noise or as whole examples. Abstract."""

    quick: ClassVar = {**Recovered.quick, "lr": 0.01, "init": "representative"}  # such examples are good: not far from them
    init: Start = "noise"  # representative: real examples in the middle of their class's clusters

    def start(self, task: Task, run: Run) -> SyntheticSet:
        """S at the beginning, on the run's device."""
        return SyntheticSet.init(task, self.init, run.rng("init")).to(run.device)


def from_patches(task: Task, patches: Patches, phi: nets.Net, run: Run, *, originals: bool = True) -> SyntheticSet:
    """S made of patches, class by class, on the run's device; originals: whether they will be kept as they are."""
    x = per_class(task, run, torch.zeros((len(task.labels), *task.spec.shape)), lambda c: patches.items(task.train, phi, c, int(task.quota[c]), run))
    return SyntheticSet(x, Hard(task.labels, len(task.classes)), task.modality, originals=originals).to(run.device)


def may_flip(task: Task) -> bool:
    """Whether left and right may be changed, by the facts of the data."""
    return bool(task.spec.facts.get("flip", True))
