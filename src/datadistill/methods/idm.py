"""IDM: improved distribution matching for dataset condensation (Zhao et al., CVPR 2023).

    a queue of networks in training on T, `queue` long at most; every `push_every` iterations a fresh one joins, the oldest leaves
    repeat K times
        theta <- one of the queue
        L = sum_c || mean psi(omega_c(T_c)) - mean psi(omega_c(S_c)) ||^2 + lambda a(theta) CE(omega_c(S_c); theta)
        S <- S - eta dL/dS                    S in grids of 2 x 2 ("partitioning and expansion"); a: accuracy in percent
        train two of the queue on T for `net_steps` batches

Differences from the authors' code: every draw has a name; the classes' losses are summed for one step, where theirs steps after
each class (by plain descent the same but for momentum); a(theta) is taken over a network's latest training batches, theirs since the
last evaluation; examples go through the net in pieces; S is kept within legal values. At ipc 1 without grids theirs takes
the easier half of B_T and asks CE only of items that the network gets wrong; this one does as at any ipc. |B_T| is 5000 at ipc 1,
as in their commands. lambda is 0.1 in their commands for CIFAR at ipc 50.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import nets
from ..data.task import Task
from ..match import distribution
from ..match.pieces import gradients
from ..memory import Pieces
from ..run import Run
from ..synthetic import SyntheticSet
from .base import Paper
from .matching import Batches, Matching, descend, own_items


@final
@dataclass(frozen=True, kw_only=True)
class IDM(Matching):
    """Match class means in networks at all stages of training on T, which must also recognise S."""

    name: ClassVar = "idm"
    stores: ClassVar = "items, several examples in each"
    when: ClassVar = "as DM, with trained networks in the loop: slower, closer to the classes"
    family: ClassVar = "distribution"
    papers_form: ClassVar = "multiform:2"
    paper: ClassVar = Paper(title="Improved Distribution Matching for Dataset Condensation", venue="CVPR 2023", arxiv="2307.09742")
    quick: ClassVar = {"iterations": 150, "width": 32, "real_batch": 64, "queue": 10, "net_steps": 2, "ce_weight": 0.03, "init": "representative"}  # there are fewer features to match, and cross-entropy is as it was
    may_be_zero: ClassVar = frozenset({"net_steps"})

    iterations: int = 20_000  # K
    lr: float = 0.2  # eta
    real_batch: int | None = None  # none: 256, and 5000 at one item per class
    form: str = "auto"  # multiform:2 for pictures of 28 pixels a side and more
    ce_weight: float = 0.5  # lambda
    queue: int = 100
    push_every: int | None = None  # none: 30, and 5 at one item per class
    net_steps: int = 10  # batches of 256 of T, for each of two networks, after each iteration
    lr_net: float = 0.01

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        syn = self.start(task, run)
        optimizer = self.optimizer_for(syn)
        single = int(task.quota.max()) == 1
        pieces, batches = self.pieces(task, run), Batches(task, run, self.real_batch or (5000 if single else 256), self.sampling)
        items, y = own_items(task, run, syn)
        net = self.network(task, run, "theta", "start", 0)
        queue = Queue(net, self.queue)
        for k in range(3):
            queue.push(self.network(task, run, "theta", "start", k))

        for it in run.steps(self.iterations, syn, optimizer, queue, batches):
            draw = run.rng("draw", it)
            if it % (self.push_every or (5 if single else 30)) == 0:
                queue.push(self.network(task, run, "theta", it))
            accuracy = queue.load(net, queue.choose(1, draw)[0])
            psi = self.through(net.embed, self.omega(task, run, "omega", it))
            real = torch.cat([indices for _, indices in batches.draw(it, net, pieces)])

            def read(piece: slice, real=real) -> Tensor:
                return task.train.read(real[piece], run.device)

            x = syn.examples(items)
            target = distribution.means(psi, read, task.train.labels[real], len(task.classes), pieces)
            loss, gradient = match(net, psi, x.detach(), y, target, self.ce_weight * 100 * accuracy, pieces)
            descend(run, optimizer, syn, x, loss, gradient)
            run.log(it, loss=loss / len(task.classes))
            for k in queue.choose(2, draw):
                queue.train(net, k, self._real_batches(task, run, draw), self.lr_net, pieces)
        return syn

    def _real_batches(self, task: Task, run: Run, draw: torch.Generator):
        for _ in range(self.net_steps):
            rows = torch.randperm(len(task.train), generator=draw)[:256]
            yield task.train.read(rows, run.device), task.train.labels[rows].to(run.device)


def match(net: nets.Net, psi: distribution.Embed, x: Tensor, y: Tensor, target: Tensor, weight: float, pieces: Pieces) -> tuple[Tensor, Tensor]:
    """(sum over classes of || target_c - mean psi(S_c) ||^2 + weight * mean cross-entropy of S_c, its gradient by x (m, *shape))."""
    size = torch.bincount(y)[y]

    def loss(features: Tensor) -> Tensor:
        apart = distribution.discrepancy(target, distribution.class_means(features, y, target))
        return apart + weight * (F.cross_entropy(net.head(features), y.to(x.device), reduction="none") / size.to(features)).sum()

    return distribution.through(psi, x, y, loss, pieces)


class Queue(nn.Module):
    """Networks in training: theta, velocity (n, P) and training accuracy (n,) of each; the newest replaces the oldest."""

    def __init__(self, net: nets.Net, n: int):
        super().__init__()
        theta = nn.utils.parameters_to_vector(net.parameters())
        self.register_buffer("theta", theta.new_zeros(n, len(theta)))
        self.register_buffer("velocity", torch.zeros_like(self.theta))
        self.register_buffer("accuracy", torch.zeros(n, dtype=torch.float64))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, net: nets.Net) -> None:
        k = int(self.pushed) % len(self.theta)
        self.theta[k] = nn.utils.parameters_to_vector(net.parameters())
        self.velocity[k], self.accuracy[k] = 0.0, 0.0
        self.pushed += 1

    def choose(self, n: int, draw: torch.Generator) -> list[int]:
        """n of those that are there, none twice."""
        return torch.randperm(min(int(self.pushed), len(self.theta)), generator=draw)[:n].tolist()

    @torch.no_grad()
    def load(self, net: nets.Net, k: int) -> float:
        """Make `net` the k-th; its accuracy."""
        start = 0
        for p in net.parameters():
            p.copy_(self.theta[k, start : start + p.numel()].view_as(p))
            start += p.numel()
        return float(self.accuracy[k])

    def train(self, net: nets.Net, k: int, batches, lr: float, pieces: Pieces, momentum: float = 0.9, decay: float = 5e-4) -> None:
        """Train the k-th on each of the batches (x, y) once, in `net`."""
        self.load(net, k)
        right = seen = 0
        weights = list(net.parameters())
        for x, y in batches:

            hits: dict[int, int] = {}

            def loss_sum(piece: slice, x: Tensor = x, y: Tensor = y, hits: dict[int, int] = hits) -> Tensor:
                logits = net(x[piece])
                hits[piece.start] = int((logits.argmax(1) == y[piece]).sum())
                return F.cross_entropy(logits, y[piece], reduction="sum") / len(y)

            descent = gradients(pieces, len(y), loss_sum, weights)[1]
            right, seen = right + sum(hits.values()), seen + len(y)
            with torch.no_grad():
                flat = torch.cat([g.reshape(-1) for g in descent]) + decay * nn.utils.parameters_to_vector(weights)
                self.velocity[k].mul_(momentum).add_(flat)
                self.theta[k].sub_(lr * self.velocity[k])
            self.load(net, k)
        self.accuracy[k] = right / max(1, seen)
