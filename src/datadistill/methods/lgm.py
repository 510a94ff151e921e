"""LGM: linear gradient matching for pre-trained vision models (Cazenavette, Torralba & Sitzmann, NeurIPS 2025).

    psi: a frozen backbone;   each step:
        W ~ N(0, 0.01^2), b = 0                                      a fresh linear head
        g_T = d CE(W psi(omega(B_T)) + b, y) / d(W, b)               B_T: as many real examples as there are views of S
        g_S = the same on A views of every item of S
        L = 1 - cos(g_T, g_S), both flattened to one vector;   Adam on S
    S is a pyramid: sigmoid(2 M sum_l enlarge(P_l)), levels of 1, 2, 4, ... pixels; a new one, of noise, joins every 200 steps, when all are
    scaled so that their sum keeps its size, and Adam begins anew; M undoes the correlation of colours
A view is a crop, a flip, and Gaussian noise on one of two. A linear classifier trained on S (hard labels) does what one trained on T does.

Defaults are the authors'. The gradient of a linear head is written out, (softmax - y)^T psi(x) / n, so that nothing is differentiated twice.
Differences from the authors' code: M is from T's own colours, theirs a constant of ImageNet; noise has mean zero, where theirs brightens by
half the range; crops that stick out are not filled with black; no loss scale is needed. The backbone is a teacher of ours by default
(pretraining=labels), one trained without labels, or a file; theirs are CLIP, DINOv2, EVA-02 and MoCo-v3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.task import Task
from ..labels import Hard
from ..labels.views import box, look, visible
from ..memory import Pieces
from ..run import Run
from ..synthetic import SyntheticSet
from ..training.relabel import Kind, relabel
from .base import Paper
from .decoupled import Decoupled, may_flip


@final
@dataclass(frozen=True, kw_only=True)
class LGM(Decoupled):
    """Match what real examples would teach a fresh linear head on a frozen backbone."""

    name: ClassVar = "lgm"
    stores: ClassVar = "items"
    when: ClassVar = "linear probes on a pretrained backbone"
    paper: ClassVar = Paper(title="Dataset Distillation for Pre-Trained Self-Supervised Vision Models", venue="NeurIPS 2025", arxiv="2511.16674")
    statistics: ClassVar = False
    scales_over: ClassVar = None
    quick: ClassVar = {**Decoupled.quick, "iterations": 180, "extend": 15, "views": 2, "lr": 0.02}
    positive: ClassVar = Decoupled.positive | {"crop"}
    shares: ClassVar = Decoupled.shares | {"crop"}

    pretraining: Literal["self-supervised", "labels"] = "labels"
    probe_epochs: int = 30
    iterations: int = 5000
    lr: float = 0.002
    views: int = 10  # A
    extend: int = 200  # steps from one level to the next
    crop: float = 0.08  # the least share of the area
    noise: float = 0.2  # its deviation, as a share of the range of values
    labels: Kind = "hard"
    chunk: int = 256  # views through psi at once: memory, no result

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        self.check(task.modality)
        psi = self.backbones(task, run, self.pretraining, self.probe_epochs)[0]
        classes, y = len(task.classes), task.labels
        pyramid = Pyramid(len(y), task, run.rng("pyramid")).to(run.device)
        optimizer = torch.optim.Adam(pyramid.levels.parameters(), lr=self.lr)
        flip, pieces = may_flip(task), Pieces(self.chunk, "chunk of views", run.notes)
        of = torch.arange(self.views * len(y)) % len(y)  # the item of each view

        for it in run.steps(self.iterations, pyramid, optimizer):
            if it and it % self.extend == 0 and pyramid.extend():
                optimizer.state.clear()
            head = 0.01 * torch.randn((classes, psi.head.in_features), generator=run.rng("head", it)).to(run.device)
            rows = torch.randperm(len(task.train), generator=run.rng("real", it))[: len(of)]
            real, own = (Shown(self, n, flip, self.noise * pyramid.spread, run, (side, it)) for side, n in (("T", len(rows)), ("S", len(of))))

            def said(piece: slice, rows: Tensor = rows, real: Shown = real) -> Tensor:
                return psi.embed(real(task.train.read(rows[piece], run.device), piece)).float()

            with torch.no_grad():
                g_real = slope(torch.cat(pieces.map(len(rows), said)), task.train.labels[rows].to(run.device), head)

            def backward(own: Shown = own, head: Tensor = head, g_real: Tensor = g_real) -> Tensor:
                """Features of all views without gradient, dL/dfeatures, then piece by piece back to S."""
                x = pyramid()
                leaf = x.detach().requires_grad_()

                def embed(piece: slice) -> Tensor:
                    return psi.embed(own(leaf[of[piece]], piece)).float()

                with torch.no_grad():
                    z = torch.cat(pieces.map(len(of), embed))
                z.requires_grad_()
                loss = 1 - F.cosine_similarity(slope(z, y[of].to(run.device), head), g_real, dim=0)
                (pull,) = torch.autograd.grad(loss, z)
                total = torch.zeros_like(leaf)
                pieces.map(len(of), lambda piece: total.add_(torch.autograd.grad(embed(piece), leaf, pull[piece])[0]))
                x.backward(total)
                return loss.detach()

            run.log(it, loss=run.descend(optimizer, backward, alone=True))
        syn = SyntheticSet(pyramid().detach(), Hard(y, classes), task.modality)
        syn.labels = relabel(syn, [psi], self.labelling(task), run)
        return syn


class Shown:
    """The n views of a step, all drawn when it is made: crop, flip, and noise on one of two. Called with the examples behind some of them."""

    def __init__(self, how: LGM, n: int, flip: bool, deviation: Tensor, run: Run, key: tuple[str, int]):
        u, crop = torch.rand((n, 6), generator=run.rng("view", *key), dtype=torch.float64), visible(how.crop, deviation.shape[-2:])
        self.boxes = torch.tensor([box(own[:4], crop) for own in u.tolist()]).view(-1, 4)
        self.flip, self.noisy = (u[:, 4] < 0.5) & flip, u[:, 5] < 0.5
        self.deviation, self.run, self.key = deviation, run, key

    def __call__(self, x: Tensor, piece: slice) -> Tensor:
        seen = look(x, self.boxes[piece], self.flip[piece])
        noise = torch.zeros(seen.shape)
        for k, row in enumerate(range(len(self.boxes))[piece]):
            if self.noisy[row]:
                noise[k] = torch.randn(seen.shape[1:], generator=self.run.rng("noise", *self.key, row))
        return seen + noise.to(x.device) * self.deviation


class Pyramid(nn.Module):
    """n items as levels of 1, 2, 4, ... pixels a side, the first of which count: `active`; called, the items in network space, legal.

    spread   (1, *shape) how far apart the legal values lie; without bounds, three deviations to either side of the mean
    """

    def __init__(self, n: int, task: Task, rng: torch.Generator):
        super().__init__()
        channels, *sides = task.spec.shape
        count = math.ceil(math.log2(max(sides))) + 1
        self.levels = nn.ParameterList(torch.randn((n, channels, *(min(2**k, side) for side in sides)), generator=rng) for k in range(count))
        self.sides = sides
        low, high = torch.full((1, *task.spec.shape), -1e6), torch.full((1, *task.spec.shape), 1e6)
        for edge in (low, high):
            task.modality.clamp_(edge)
        self.register_buffer("low", low.clamp(min=-3) if float(low.min()) == -1e6 else low)
        self.register_buffer("spread", (high.clamp(max=3) if float(high.max()) == 1e6 else high) - self.low)
        self.register_buffer("colours", colours(task.train.read(torch.arange(len(task.train))[:: -(-len(task.train) // 1000)])))
        self.register_buffer("active", torch.tensor(1))

    def extend(self) -> bool:
        """One level more, at a share of the sum like that of the others; whether there was one left."""
        m = int(self.active)
        if m == len(self.levels):
            return False
        for k, level in enumerate(self.levels[: m + 1]):
            level.data.mul_(m / (m + 1) if k < m else 1 / (m + 1))
        self.active += 1
        return True

    def forward(self) -> Tensor:
        shown = [F.interpolate(level, self.sides, mode="bilinear", align_corners=False) for level in self.levels[: int(self.active)]]
        x = torch.einsum("dc,nchw->ndhw", self.colours, torch.stack(shown).sum(0))
        return self.low + self.spread * torch.sigmoid(2 * x)


def colours(x: Tensor) -> Tensor:
    """(channels, channels) a square root of the covariance of the channels of x (n, channels, *grid), its longest column of length one."""
    values, vectors = torch.linalg.eigh(torch.cov(x.transpose(0, 1).flatten(1).double()).reshape(x.shape[1], x.shape[1]))
    root = vectors * values.clamp(min=0).sqrt()
    root = root * torch.where(root.sum(0) < 0, -1.0, 1.0)
    return (root / torch.linalg.vector_norm(root, dim=0).max().clamp(min=1e-12)).float()


def slope(z: Tensor, y: Tensor, head: Tensor) -> Tensor:
    """(classes * (features + 1),) the gradient of mean cross-entropy by a linear head (classes, features) and its bias, which is zero, on z (n, features)."""
    error = (F.softmax(z @ head.T, 1) - F.one_hot(y, len(head))) / len(z)
    return torch.cat([(error.T @ z).flatten(), error.sum(0)])
