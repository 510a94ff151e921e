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
from ..run import COST, Run
from ..spec import Spec
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

    def accuracy(self, student: str | None = None) -> list[float]:
        """One accuracy per seed: of a student family, or the mean over families."""
        if student is not None:
            return (self.right[student].sum(1) / self.total.sum()).tolist()
        return torch.tensor([self.accuracy(s) for s in self.right], dtype=torch.double).mean(0).tolist()

    def recall(self) -> list[float | None]:
        """Per class, mean over seeds and families; None where the test split has none."""
        mean = torch.stack(list(self.right.values())).mean((0, 1))
        return [float(r / n) if n else None for r, n in zip(mean, self.total, strict=True)]


def score(arms: list[Arm], students: list[str], val: Real, test: Sealed, protocol: Protocol, seed: int, *, device: str | torch.device = "cpu", progress: Progress | None = None,
          run: Run | None = None) -> dict[str, Score]:  # fmt: skip
    """Scores by arm name. The learning rate of each arm and family is chosen on `val`, with a seed that is not scored.

    Every training is a unit of `run` (without it one of this device and progress), whose workers see no test example: the nets come back.
    """
    run = run or Run(seed, device=device, progress=progress)
    spec, named = val.modality.spec, {arm.name: arm for arm in arms}
    totals = torch.zeros(len(spec.classes))
    scores = {a.name: Score({s: torch.zeros(protocol.seeds, len(spec.classes)) for s in students}, totals, {}, {s: 0.0 for s in students}, {}) for a in arms}

    def tried(run: Run, item: tuple[str, str, float]) -> dict[str, Tensor]:
        name, student, lr = item
        return {"reached": torch.tensor(on_validation(train(named[name], student, lr, protocol, seed_of(seed, "choose"), device=run.device), val, run.device), dtype=torch.float64)}

    pairs = [(arm.name, student) for arm in arms for student in students]
    rates = [(*pair, lr) for pair in pairs for lr in protocol.lrs] if len(protocol.lrs) > 1 else []
    reached = {item: made["reached"].tolist() for item, made in zip(rates, run.each("choosing learning rates", rates, tried), strict=True)}
    chosen = {pair: max(protocol.lrs, key=lambda lr, pair=pair: (reached.get((*pair, lr)), lr)) for pair in pairs}  # of equals, the one with the least loss

    def trained(run: Run, item: tuple[str, str, int]) -> dict[str, Tensor]:
        name, student, k = item
        fitted = train(named[name], student, chosen[name, student], protocol, seed_of(seed, "train", k), device=run.device)
        run.notes.extend(fitted.notes)
        return {**fitted.net.state_dict(), COST: torch.tensor([fitted.seconds, fitted.flops], dtype=torch.float64)}

    todo = [(*pair, k) for k in range(protocol.seeds) for pair in pairs]
    made = run.each("training students", todo, trained)
    for k in range(protocol.seeds):
        nets_of_seed: list[tuple[str, str, nets.Net]] = []
        for name, student in pairs:
            weights = next(made)
            seconds, flops = weights.pop(COST).tolist()
            scores[name].seconds[student] += seconds / protocol.seeds
            scores[name].flops[student], scores[name].lr[student] = flops, chosen[name, student]
            net = build(student, spec, protocol, seed)
            net.load_state_dict(weights)
            nets_of_seed.append((name, student, net.to(run.device).eval()))
        totals.zero_()
        for x, y in test.read(k):  # the one read of this seed: every trained student sees the batch
            totals += torch.bincount(y, minlength=len(totals))
            x = x.to(run.device)
            for name, student, net in nets_of_seed:
                scores[name].right[student][k] += _right(net, x, y)
    next(made, None)  # to the end
    return scores


@torch.inference_mode()
def _right(net: nets.Net, x: Tensor, y: Tensor) -> Tensor:
    """(classes,) how many of each class are labelled right."""
    hit = net(x).argmax(1).cpu() == y
    return torch.bincount(y[hit], minlength=net.head.out_features)


def train(arm: Arm, student: str, lr: float, protocol: Protocol, seed: int, *, device: str | torch.device) -> Fitted:
    """One student of one arm, from scratch, by the protocol. The net's first weights depend on the seed alone: arms are paired."""
    examples, labels = arm.sample(seed)
    return fit(build(student, examples.modality.spec, protocol, seed), examples, labels, protocol.schedule(lr, steps=arm.steps, augment=arm.augment), seed, device=device)


def build(student: str, spec: Spec, protocol: Protocol, seed: int) -> nets.Net:
    """A student as it begins."""
    return nets.build(student, spec, rng(seed, "net", student), **protocol.sizes.get(student, {}))


@torch.inference_mode()
def on_validation(fitted: Fitted, val: Real, device: str | torch.device) -> tuple[float, float]:
    """(accuracy, minus the mean loss) on validation data."""
    right, loss = 0, 0.0
    for rows in torch.arange(len(val)).split(512):
        logits, y = fitted.net(val.read(rows, device)).float().cpu(), val.labels[rows]
        right += int((logits.argmax(1) == y).sum())
        loss += float(torch.nan_to_num(F.cross_entropy(logits, y, reduction="sum"), nan=1e30))
    return right / len(val), -loss / len(val)


def digest(*parts: object) -> str:
    """A short content key."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


__all__ = ["Arm", "Score", "digest", "on_validation", "peak_bytes", "score", "train"]
