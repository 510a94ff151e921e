"""RaT-BPTT: embarrassingly simple dataset distillation (Feng, Vedantam & Kempe, ICLR 2024).

Backpropagation through training, over a window at a random place of a long inner loop. In the paper's letters:
    repeat
        theta_0 ~ random;   the window of M steps ends after N ~ uniform(M..T) steps
        theta_n = theta_{n-1} - alpha grad l(theta_{n-1}; U)      Adam on the synthetic set U; graphs for the last M steps
        L = l(theta_N; D)                                         on a batch of real data
        U <- U - eta clip(dL/dU)                                  Adam; the norm is clipped at twice its moving average

Differences from the authors' code: the window's gradient comes from a step-wise adjoint that has Adam's state in it (theirs:
one graph); a new window at every iteration (theirs: every tenth); both sides are augmented by all of the modality's
operations (theirs: flip and rotate); the noise that U begins with has length one, as theirs, around the mean image; U is kept
within legal values; a smaller real set is the batch as a whole. No ZCA; their recipe for classes in turn (CIFAR-100) is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from .. import dist
from ..data.task import Task
from ..errors import UsageError
from ..modalities import Modality
from ..run import Run
from ..synthetic import Start, SyntheticSet
from ..training.embedding import narrow
from ..training.unroll import Adam, Flat, Loss, State, unroll
from .base import TABLE, Paper
from .inner import Inner, average, real_loss
from .matching import pieces_for


@dataclass(frozen=True, kw_only=True)
class Truncated(Inner):
    """The hyper-parameters of RaT-BPTT and AT-BPTT. Abstract."""

    family: ClassVar = "kernel"
    scales_over: ClassVar = "nets"
    quick: ClassVar = {"iterations": 100, "total": 20, "window": 10, "lr": 0.02, "lr_inner": 0.005, "init": "representative", "real_batch": 256, "width": 16}
    quick_table: ClassVar = {**TABLE, "iterations": 200, "lr": 0.05, "lr_inner": 0.01}
    positive: ClassVar = frozenset({"clip"})
    decays: ClassVar = frozenset({"clip_decay"})

    iterations: int = 60_000
    lr: float = 1e-3  # eta, of U
    lr_inner: float = 1e-3  # alpha, of Adam on U
    total: int = 200  # T, inner steps at most
    window: int = 60  # M, of these with a gradient
    real_batch: int = 5000  # |D|
    nets: int = 1  # inner loops per iteration, averaged, shared over ranks
    clip: float = 2.0  # the norm of dL/dU, as a multiple of its moving average
    clip_decay: float = 0.9
    init: Start = "noise"

    def check(self, modality: Modality) -> None:
        super().check(modality)
        if self.window > self.total:
            raise UsageError(f"{self.name}: window={self.window} of total={self.total} steps on {modality.name} data", "a window that is not longer than the loop", f"--set window={self.total}")

    def begin(self, task: Task, run: Run) -> SyntheticSet:
        """U at the beginning; noise has length one, as in the authors' code."""
        syn = self.start(task, run)
        if self.init == "noise":
            for p in syn.parameters():
                p.data /= p.data.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, *[1] * (p.ndim - 1))
        return syn


@final
@dataclass(frozen=True, kw_only=True)
class RaTBPTT(Truncated):
    """Backpropagate the real loss through a random window of a long training on S."""

    name: ClassVar = "rat-bptt"
    stores: ClassVar = "items"
    when: ClassVar = "few items, when hours are there: the strongest family at small budgets"
    paper: ClassVar = Paper(title="Embarrassingly Simple Dataset Distillation", venue="ICLR 2024", arxiv="2311.07025")

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        syn, room = self.begin(task, run), self.room(run)
        loop = Loop(self, task, run, syn.example_labels().hard)
        optimizer = clipped(torch.optim.Adam(syn.parameters(), lr=self.lr), self.clip, self.clip_decay)

        for it in run.steps(self.iterations, syn, optimizer, room["keep"]):

            def one(k: int, it: int = it) -> Tensor:
                first = int(torch.randint(self.total - self.window + 1, (), generator=run.rng("window", it, k)))
                return loop.through(syn.examples(), first, self.window, room, it, k)

            loss = run.descend(optimizer, average(run, self.nets, optimizer, one))
            syn.clamp_()
            run.log(it, loss=loss)
        return syn


class Loop:
    """The inner loop on a task: a new net, Adam on the examples of classes y (n,), and the loss on real ones where it ends."""

    def __init__(self, method: Truncated, task: Task, run: Run, y: Tensor):
        self.method, self.task, self.run, self.y = method, task, run, y
        net = self._net("shape").to(run.device)
        self.net, self.pieces, self._right = Flat(net), pieces_for(net, task, run), 0.0

    def _net(self, *key: str | int) -> nn.Module:
        return narrow(self.method.net_for(self.task.modality), self.task.spec, self.method.width, self.run.rng(*key))

    def start(self, *key: int) -> State:
        """The optimiser's state at theta_0."""
        return Adam().start(Flat.of(self._net("theta", *key)).to(self.run.device))

    def inner(self, *key: int) -> Loss:
        return self.method.loss(self.net, self.task, self.run, self.y, *key)

    def through(self, x: Tensor, first: int, window: int, room: dict[str, Any], *key: int) -> Tensor:
        """The real loss after `first` steps without and `window` steps with gradient."""
        loss = self.inner(*key)
        with torch.no_grad():
            before = unroll(loss, self.start(*key), self.method.lr_inner, (x,), first, inner=Adam(), pieces=room["pieces"])
        theta, *_ = unroll(loss.after(first), before, self.method.lr_inner, (x,), window, inner=Adam(), **room)
        rows = torch.randperm(len(self.task.train), generator=self.run.rng("real", *key))[: self.method.real_batch]
        loss, right = real_loss(self.net, theta, self.task, self.run, rows, self.pieces, ("real", *key) if self.method.augment else None)
        self._right += right / self.method.nets
        return loss

    def accuracy(self) -> float:
        """On real examples, of the loops since it was last asked for; over all ranks."""
        total, self._right = torch.tensor([self._right], dtype=torch.float64), 0.0
        dist.sum_([total])
        return float(total)


def clipped(optimizer: torch.optim.Optimizer, clip: float, decay: float) -> torch.optim.Optimizer:
    """The optimizer, on gradients whose norm is cut to `clip` times its moving average; the average is part of its state."""
    optimizer.param_groups[0]["mean norm"] = None

    def cut(optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        first = optimizer.param_groups[0]
        slopes = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norm = float(torch.stack([g.norm() for g in slopes]).norm())
        first["mean norm"] = norm if first["mean norm"] is None else decay * first["mean norm"] + (1 - decay) * norm
        for g in slopes:
            g.mul_(min(1.0, clip * first["mean norm"] / max(norm, 1e-30)))

    optimizer.register_step_pre_hook(cut)
    return optimizer
