"""Train one student, and nothing else: a number of steps, SGD, a cosine, the weights of the last step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from ..data.task import Real
from ..labels import Hard, Labels
from ..memory import Pieces
from ..modalities import Modality
from ..nets import Net
from ..precision import Precision, computing
from ..rates import warmed
from ..replay import sent
from ..rng import rng
from ..run import Flops
from .slopes import Slopes


@dataclass(frozen=True)
class Schedule:
    """How to train. lr: peak of the cosine, reached after `warmup` of the steps; augment: one draw per example and step."""

    steps: int
    batch: int = 128
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.05
    augment: bool = True
    precision: Precision = "float32"

    def lr_at(self, step: int) -> float:
        """Linear from zero over the warm-up, then a half cosine to zero."""
        return warmed(self.lr, step, self.steps, self.warmup)


class Examples(Protocol):
    """What a student is trained on: a Real, or an artifact's stored bytes; read in network space."""

    modality: Modality

    def __len__(self) -> int: ...
    def read(self, indices: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Fitted:
    """A trained student and what it cost. flops: one step counted, times the steps."""

    net: Net
    seconds: float
    flops: float
    notes: tuple[str, ...] = ()


def fit(net: Net, examples: Examples, labels: Labels, schedule: Schedule, seed: int, *, device: torch.device | str = "cpu", pieces: Pieces | None = None,
        steps: Callable[[int], Iterable[int]] = range) -> Fitted:
    """Train `net` in place on batches drawn without replacement, epoch after epoch; every draw is named by seed and step.

    Labels that were made for views of the examples bring these along; otherwise an example is augmented by the schedule.
    Runs out of memory: the batch is done in halves with accumulated gradients (exact but for batch norm's statistics).
    `steps` yields 0..n-1, and may show progress meanwhile.
    """
    n, size = len(examples), min(schedule.batch, len(examples))
    net.to(device).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=schedule.lr, momentum=schedule.momentum, weight_decay=schedule.weight_decay, nesterov=schedule.momentum > 0, fused=True)
    whole = examples.read(torch.arange(n)).to(device) if n <= 4 * size else None  # a tiny set is decoded once

    def read(rows: Tensor) -> Tensor:
        return whole[sent(rows, device)] if whole is not None else examples.read(rows, device) if isinstance(examples, Real) else sent(examples.read(rows), device)

    pieces = pieces or Pieces(size)
    slopes = Slopes(net, pieces, device, labels.loss, partial(computing, schedule.precision, torch.device(device)))
    counter, start = Flops(), time.perf_counter()
    per_epoch = n // size
    shuffled = -1
    for step in steps(schedule.steps):
        epoch, at = divmod(step, per_epoch)
        if epoch != shuffled:
            order, shuffled = torch.randperm(n, generator=rng(seed, "order", epoch)), epoch
        rows = order[at * size : (at + 1) * size]
        if isinstance(examples, Real):
            examples.expect(order[(at + 1) * size : (at + 2) * size])
        x, omega = labels.show(read, rows, epoch), None
        if x is None:
            x, omega = read(rows), examples.modality.augment(rng(seed, "omega", step), size) if schedule.augment else None
            if omega is not None and not labels.steady:
                x, omega = omega(x, torch.arange(size)), None
        asked = [sent(part, device) for part in labels.ask_about(x, rows, epoch)]
        optimizer.param_groups[0]["lr"] = schedule.lr_at(step)
        with counter if step == 0 else nullcontext():
            slopes.step(optimizer, x, omega, *asked, at=0.0 if labels.steady else step / schedule.steps)
    optimizer.zero_grad(set_to_none=True)
    return Fitted(net.eval(), time.perf_counter() - start, float(counter.total) * schedule.steps, tuple(pieces.notes))


@torch.inference_mode()
def predict(net: Net, x: Tensor) -> Tensor:
    """(n,) class numbers; x (n, *shape) in network space on the net's device."""
    return net(x).argmax(1)


@torch.inference_mode()
def accuracy(net: Net, examples: Examples, labels: Tensor, *, batch: int = 128, device: torch.device | str = "cpu") -> float:
    """The fraction of examples a net labels right. Never for a test split: see `evaluate`."""
    net.eval()
    right = sum(int((predict(net, sent(examples.read(rows), device)).cpu() == labels[rows]).sum()) for rows in torch.arange(len(labels)).split(batch))
    return right / len(labels)


def hard_labels(real) -> Hard:
    """The labels of a Real, as labels."""
    return Hard(real.labels, len(real.modality.spec.classes))
