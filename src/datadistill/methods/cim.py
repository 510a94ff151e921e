"""CIM: condensing large-scale datasets directly with minimal information loss (Shang, Sun, Shi et al., ECCV 2026).

For each class with n items, in the code's letters:
    the 4 n real examples x_i of least CE(phi(x_i), y), of 300;   s_j <- the 2 x 2 mosaic of examples j, j + n, j + 2n, j + 3n
    delta <- 0;   repeat T times
        x~ <- the tiles of s + delta, each enlarged to the full size
        L = sum_i mean | xi(omega(x_i)) - xi(omega(x~_i)) |          xi: what flows into one layer of phi; omega: an augmentation
        delta <- AdamW(delta, dL/d delta)
    students see the tiles, each enlarged to the full size; the label of an item is what phi says of its tiles, on average
No cross-entropy and no batch norm: each tile is to say what its own source says, at a quarter of the pixels.

Defaults are the authors' (T = 200, rate 0.01 on pixels in [0, 1]); layer=-1 is the head, as in all their scripts but ImageNet's, where
it is an earlier one. Differences from the authors' code: one omega for each pair, not for the whole class; omega is DSA's with colour; items are
kept legal; mosaics by area averages, where theirs take every second pixel; the selection is of random real examples of the class; one
label for each item, where theirs labels every view of every tile with the teacher at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from .. import nets
from ..data.task import Task
from ..errors import UsageError
from ..match.pieces import gradients
from ..memory import Pieces
from ..modalities import Modality
from ..modalities.base import Augmentation
from ..nets.taps import Taps
from ..run import Run
from ..synthetic import SyntheticSet, forms
from ..training.patches import Patches, mosaic, shrunk, tiles
from ..training.recover import Canvas
from ..training.relabel import relabel
from .base import Paper
from .decoupled import Decoupled


@final
@dataclass(frozen=True, kw_only=True)
class CIM(Decoupled):
    """Mosaics of sure real examples, moved until each tile says what its source says."""

    name: ClassVar = "cim"
    stores: ClassVar = "items, several examples in each; teacher labels"
    when: ClassVar = "as RDED, its mosaics moved until features agree"
    paper: ClassVar = Paper(title="Condensing Large-Scale Datasets Directly with Minimal Information Loss", venue="ECCV 2026", arxiv="2607.00916")
    statistics: ClassVar = False
    quick: ClassVar = {**Decoupled.quick, "iterations": 50}
    any_sign: ClassVar = frozenset({"layer"})

    iterations: int = 200  # T
    lr: float = 0.01  # in natural units
    factor: int | None = None  # tiles to an item: its square; none: 2, and 1 for pictures smaller than the papers' smallest
    candidates: int = 300
    layer: int = -1  # xi, counted among the convolutions and linear maps of phi
    chunk: int = 64  # pairs through phi at once: memory, no result

    def check(self, modality: Modality) -> None:
        super().check(modality)
        if self.labels in ("views", "teacher"):
            raise UsageError(f"cim with labels={self.labels}", "one label for each item, of which students see every tile", "--set labels=soft, or hard")

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        self.check(task.modality)
        phi = self.phis(task, run)[0]
        syn = SyntheticSet.init(task, "noise", run.rng("init"), f"multiform:{self.side(task)}").to(run.device)
        classes = list(task.classes)
        for c, made in zip(classes, run.each("recovering", classes, lambda run, c: {"x": self.items(phi, c, task, run)}, steps=self.iterations), strict=True):
            syn.x.data[syn.where(c)] = made["x"].to(run.device)
        syn.labels = relabel(syn, [phi], self.labelling(task), run)
        return syn

    def side(self, task: Task) -> int:
        """The factor for this task."""
        return self.factor or (2 if forms.holds_grids(task.modality) else 1)

    def items(self, phi: nets.Net, c: int, task: Task, run: Run) -> Tensor:
        """(n, *shape) the items of class c."""
        n, f, modality = int(task.quota[c]), self.side(task), task.modality
        surest = Patches(self.candidates, crops=1, least=1.0, factor=1, keep="surest")  # whole examples
        sources = surest.sources(task.train, phi, c, n * f * f, run).flatten()  # of the first tile of all items, then of the second
        start = mosaic(torch.cat([shrunk(task.train.read(some), f) for some in sources.split(256)]), n, f, task.spec.shape).to(run.device)
        scale = modality.statistics()[1].to(run.device)
        canvas = Canvas(start, self.lr, lambda delta, lr: torch.optim.AdamW([delta], lr=lr))
        canvas.begin(torch.zeros_like(start))
        taps, pieces = Taps([mapped(phi, self.layer)], lambda module, h: h), Pieces(self.chunk, "chunk of pairs", run.notes)
        for s in run.steps(self.iterations, canvas):
            omega = modality.augment(run.rng("omega", c, s), len(sources))

            def distance(piece: slice, omega: Augmentation = omega) -> Tensor:
                rows = torch.arange(len(sources))[piece]
                with torch.no_grad(), taps:
                    phi(omega(task.train.read(sources[rows], run.device), rows))
                said = taps.seen[0]
                with taps:
                    phi(omega(tiles(start + canvas.x / scale, f)[rows], rows))
                return (taps.seen[0] - said).abs().flatten(1).mean(1).sum()

            def backward(distance: Callable[[slice], Tensor] = distance) -> Tensor:
                loss, (canvas.x.grad,) = gradients(pieces, len(sources), distance, [canvas.x])
                return loss

            loss = run.descend(canvas, backward)
            x = start + canvas.x.data / scale
            modality.clamp_(x)
            canvas.x.data = (x - start) * scale
            run.log(c * self.iterations + s, loss=loss)
        return start + canvas.x.data / scale


def mapped(phi: nets.Net, layer: int) -> nn.Module:
    """That convolution or linear map of phi, counted from the first, or from the last by negative numbers."""
    found = [module for module in phi.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    if not -len(found) <= layer < len(found):
        raise UsageError(f"layer {layer} of a teacher with {len(found)} convolutions and linear maps", f"from {-len(found)} to {len(found) - 1}", "--set layer=-1")
    return found[layer]
