"""Train the students of every arm by one protocol and read the test split once per seed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import nets
from ..data.task import Real
from ..labels import Labels
from ..memory import peak_bytes
from ..progress import Progress
from ..rng import rng, seed_of
from ..training import Examples, Fitted, fit
from .protocol import Protocol
from .sealed import Sealed

Sample = tuple[Examples, Labels]


@dataclass(frozen=True)
class Arm:
    """One thing to compare: what students are trained on for a seed, and for how many steps.

    sample   seed -> (examples, labels); an arm that does not vary ignores the seed
    """

    name: str
    sample: Callable[[int], Sample]
    steps: int
    augment: bool = True
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Score:
    """What came of it. right (seeds, classes) per student: test examples of each class labelled right; total (classes,)."""

    right: dict[str, Tensor]
    total: Tensor
    lr: dict[str, float]
    seconds: dict[str, float]
    flops: dict[str, float]
    notes: list[str]

    def accuracy(self, student: str | None = None) -> list[float]:
        """One accuracy per seed: of a student family, or the mean over families."""
        if student is not None:
            return (self.right[student].sum(1) / self.total.sum()).tolist()
        return torch.tensor([self.accuracy(s) for s in self.right], dtype=torch.double).mean(0).tolist()

    def recall(self) -> list[float | None]:
        """Per class, mean over seeds and families; None where the test split has none."""
        mean = torch.stack(list(self.right.values())).mean((0, 1))
        return [float(r / n) if n else None for r, n in zip(mean, self.total, strict=True)]


def score(arms: list[Arm], students: list[str], val: Real, test: Sealed, protocol: Protocol, seed: int, *, device: str | torch.device, progress: Progress, trained: Callable | None = None) -> dict[str, Score]:
    """Scores by arm name. The learning rate of each arm and family is chosen on `val`, with a seed that is not scored."""
    spec = val.modality.spec
    work = len(arms) * len(students) * (protocol.seeds + (len(protocol.lrs) if len(protocol.lrs) > 1 else 0))
    totals = torch.zeros(len(spec.classes))
    scores = {a.name: Score({s: torch.zeros(protocol.seeds, len(spec.classes)) for s in students}, totals, {}, {s: 0.0 for s in students}, {}, []) for a in arms}
    with progress.bar("training students", work) as bar:
        for arm in arms:
            for student in students:
                scores[arm.name].lr[student] = choose_lr(arm, student, val, protocol, seed_of(seed, "choose"), device=device, done=bar.advance)
        for k in range(protocol.seeds):
            trainees: list[tuple[Arm, str, Fitted]] = []
            for arm in arms:
                for student in students:
                    lr = scores[arm.name].lr[student]
                    trainees.append((arm, student, train(arm, student, lr, protocol, seed_of(seed, "train", k), device=device)))
                    bar.advance(1)
            totals.zero_()
            for x, y in test.read(k):  # the one read of this seed: every trained student sees the batch
                totals += torch.bincount(y, minlength=len(totals))
                x = x.to(device)
                for arm, student, fitted in trainees:
                    scores[arm.name].right[student][k] += _right(fitted, x, y)
            for arm, student, fitted in trainees:
                scores[arm.name].seconds[student] += fitted.seconds / protocol.seeds
                scores[arm.name].flops[student] = fitted.flops
                scores[arm.name].notes += fitted.notes
    return scores


@torch.inference_mode()
def _right(fitted: Fitted, x: Tensor, y: Tensor) -> Tensor:
    """(classes,) how many of each class are labelled right."""
    hit = fitted.net(x).argmax(1).cpu() == y
    return torch.bincount(y[hit], minlength=fitted.net.head.out_features)


def train(arm: Arm, student: str, lr: float, protocol: Protocol, seed: int, *, device: str | torch.device) -> Fitted:
    """One student of one arm, from scratch, by the protocol. The net's first weights depend on the seed alone: arms are paired."""
    examples, labels = arm.sample(seed)
    net = nets.build(student, examples.modality.spec, rng(seed, "net", student), **protocol.sizes.get(student, {}))
    return fit(net, examples, labels, protocol.schedule(lr, steps=arm.steps, augment=arm.augment), seed, device=device)


def choose_lr(arm: Arm, student: str, val: Real, protocol: Protocol, seed: int, *, device: str | torch.device, done: Callable[[int], None] = lambda n: None) -> float:
    """The rate with the best validation accuracy; of equals, the one with the least validation loss."""
    if len(protocol.lrs) == 1:
        return protocol.lrs[0]
    ranked = []
    for lr in protocol.lrs:
        fitted = train(arm, student, lr, protocol, seed, device=device)
        ranked.append((*on_validation(fitted, val, device), lr))
        done(1)
    return max(ranked)[2]


@torch.inference_mode()
def on_validation(fitted: Fitted, val: Real, device: str | torch.device) -> tuple[float, float]:
    """(accuracy, minus the mean loss) on validation data."""
    right, loss = 0, 0.0
    for rows in torch.arange(len(val)).split(512):
        logits, y = fitted.net(val.read(rows).to(device)).float().cpu(), val.labels[rows]
        right += int((logits.argmax(1) == y).sum())
        loss += float(torch.nan_to_num(F.cross_entropy(logits, y, reduction="sum"), nan=1e30))
    return right / len(val), -loss / len(val)


def digest(*parts: object) -> str:
    """A short content key."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


__all__ = ["Arm", "Score", "choose_lr", "digest", "on_validation", "peak_bytes", "score", "train"]
