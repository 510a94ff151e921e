"""What decoupled methods share: hyper-parameters, a teacher squeezed from T, and how the engine recovers S from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from .. import nets
from ..data.task import Task
from ..errors import UsageError
from ..labels import Objective
from ..modalities import Modality
from ..run import Run
from ..training.recover import Recovery
from ..training.relabel import Kind, Relabel
from ..training.teachers import Squeeze, teacher
from ..training.weights import family_of, sha256, unpack
from .base import Method


@dataclass(frozen=True, kw_only=True)
class Decoupled(Method):
    """A method that looks at T through a trained teacher. Abstract: the hyper-parameters that all of them have."""

    family: ClassVar = "decoupled"
    needs: ClassVar = frozenset({"continuous", "grid"})
    scales_over: ClassVar = "items"
    statistics: ClassVar[bool] = True  # of batch norm are looked at
    quick: ClassVar = {"epochs": 10, "width": 16}

    net: str = "auto"  # phi, the teacher; auto: the modality's first with batch norm
    width: int | None = None  # of phi; none: the family's own
    epochs: int = 60  # of training phi
    teacher_lr: float | None = None  # none: 0.1, SGD with momentum
    teacher: str = "auto"  # auto: phi is trained; or a file that `datadistill teacher` wrote
    labels: Kind = "soft"  # hard; soft: the teacher's logits of each stored example; views: of each view that a student is shown
    label_epochs: int = 20  # views of each example that are labelled; a student that trains longer sees them again
    label_crop: float = 0.08  # the least share of the area that such a view is cropped to; it is also flipped and mixed with another

    def check(self, modality: Modality) -> None:
        super().check(modality)
        if self.teacher != "auto":
            return
        kind = nets.FAMILIES.get(self.net_for(modality))
        if self.statistics and kind is not None and not kind.batch_norm:
            good = [name for name, other in nets.FAMILIES.items() if other.batch_norm and other.axes == kind.axes] or ["resnet"]
            raise UsageError(
                f"{self.name} through net {kind.family!r}, which has no batch norm whose statistics could be matched, on {modality.name} data",
                f"a net with batch norm: {' or '.join(good)}", f"--set net={good[0]}",
            )  # fmt: skip

    def net_for(self, modality: Modality) -> str:
        """The `net` field, where "auto" is the modality's first with batch norm."""
        normed = [name for name in modality.nets if nets.FAMILIES[name].batch_norm]
        return normed[0] if self.net == "auto" and normed else super().net_for(modality)

    def nets_used(self, modality: Modality) -> tuple[str, ...]:
        return (family_of(self.teacher),) if self.teacher != "auto" else super().nets_used(modality)

    def phi(self, task: Task, run: Run, member: int = 0) -> nets.Net:
        """The teacher: read from its file, or trained on T once; further members differ in every draw."""
        if self.teacher != "auto":
            run.notes.append(f"teacher of sha256 {sha256(self.teacher)}")
            return unpack(self.teacher, task.modality, run.device)
        how = Squeeze(epochs=self.epochs, lr=self.teacher_lr)
        return teacher(task.train, run, how, net=self.net_for(task.modality), width=self.width, member=member)

    def labelling(self, task: Task, objective: Objective | None = None) -> Relabel:
        """Who writes the labels; objective: the loss of a student that is shown views, none: KL at temperature 20."""
        return Relabel(self.labels, self.label_epochs, self.label_crop, may_flip(task), objective=objective or Objective())


@dataclass(frozen=True, kw_only=True)
class Recovered(Decoupled):
    """One whose items are moved by gradients. Abstract: the hyper-parameters that all of these have."""

    quick: ClassVar = {"iterations": 200, "epochs": 10, "width": 16}
    iterations: int
    lr: float
    r: float  # the weight of the statistics
    first: float = 10.0  # w_1, of the first layer's among them
    crop: float = 0.08  # the least share of the area that a view may be cropped to
    jitter: int | None = None  # the most pixels that a view is rolled by; none: 4 for sides up to 64, else 32

    def recovery(self, task: Task, **more: Any) -> Recovery:
        """How S is recovered, and more of it."""
        jitter = self.jitter if self.jitter is not None else 4 if max(task.spec.shape[1:]) <= 64 else 32
        return Recovery(self.iterations, self.lr, self.r, jitter=jitter, flip=may_flip(task), **more)


def may_flip(task: Task) -> bool:
    """Whether left and right may be changed, by the facts of the data."""
    return bool(task.spec.facts.get("flip", True))
