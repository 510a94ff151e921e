"""NCFM: dataset distillation with the neural characteristic function (Wang et al., CVPR 2025).

    a pool of networks, each untrained (theta_0) and trained on T (theta_1)
    repeat K times
        theta <- l theta_0 + (1 - l) theta_1 of one of the pool, l ~ U(0, 1);   t ~ N(0, I), `frequencies` of them
        L = scale * sum_c mean_t sqrt(alpha (|F_c| - |G_c|)^2 + beta 2 (|F_c| |G_c| - Re F_c conj G_c)),   beta = 1 - alpha
            F_c(t) = mean exp(i <t, f>) over the features f (of length one) of omega_c(T_c),   G_c(t) the same over omega_c(S_c)
        S <- a step of Adam down L
        S <- a step of Adam down gamma * sum_c mean cross-entropy of S_c under theta_1            calibration

Differences from the authors' code: every draw has a name; a step is taken for all classes at once, where theirs takes one per
class (which moves the other classes on by their momentum: its rate, 0.001 on pixels in [0, 1], is matched by 0.01 here, on
standardised pixels), and one t serves them all; no rate scheduler; Adam without weight decay; omega is one random operation of the
modality's siamese augmentation, theirs colour, then crop, then cutout; the pool is trained with a cosine and siamese augmentation,
without CutMix; F is computed once per step, theirs twice. As in every configuration that they ship, t is not learned (the
paper's sampling network, the "max" of its min-max, is off there).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import nets
from ..data.task import Task
from ..match import distribution
from ..match.statistics import characteristic, characteristic_distance
from ..memory import Pieces
from ..modalities import Augmentation
from ..run import Run
from ..synthetic import SyntheticSet
from ..training.teachers import Squeeze, teacher, untrained
from .base import TABLE, Paper
from .m3d import per_class
from .matching import Batches, Matching, descend, own_items


@final
@dataclass(frozen=True, kw_only=True)
class NCFM(Matching):
    """Match each class's characteristic function, at random frequencies, in the features of partly trained networks."""

    name: ClassVar = "ncfm"
    stores: ClassVar = "items, several examples in each"
    when: ClassVar = "as DM with whole distributions compared; networks are trained ahead"
    family: ClassVar = "distribution"
    papers_form: ClassVar = "multiform:2"
    paper: ClassVar = Paper(title="Dataset Distillation with Neural Characteristic Function: A Minmax Perspective", venue="CVPR 2025", arxiv="2502.20653")
    quick: ClassVar = {"iterations": 150, "width": 16, "real_batch": 64, "nets_trained": 2, "epochs": 2, "frequencies": 512, "init": "representative"}
    quick_table: ClassVar = {**TABLE, "lr": 0.05}
    shares: ClassVar = frozenset({"alpha"})

    iterations: int = 20_000  # K
    lr: float = 0.01
    optimizer: Literal["sgd", "adam"] = "adam"
    momentum: float = 0.9
    real_batch: int = 1024
    form: str = "auto"  # multiform:2 for pictures of 28 pixels a side and more
    nets_trained: int = 20  # the pool
    epochs: int = 60  # of training each of the pool on T
    frequencies: int = 4096
    alpha: float = 0.5  # weight of the amplitude; beta = 1 - alpha that of the phase
    scale: float = 300.0
    calibration: float = 1.0  # gamma

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        syn = self.start(task, run)
        optimizer = self.optimizer_for(syn)
        pieces, batches = self.pieces(task, run), Batches(task, run, self.real_batch, self.sampling)
        items, y = own_items(task, run, syn)
        pool = [self._member(task, run, k) for k in range(self.nets_trained)]
        theta, taught = (self.network(task, run, "theta").eval().requires_grad_(False) for _ in range(2))

        for it in run.steps(self.iterations, syn, optimizer, batches):
            draw = run.rng("draw", it)
            theta_0, theta_1 = pool[int(torch.randint(len(pool), (), generator=draw))]
            l = torch.rand((), generator=draw).to(theta_0)  # noqa: E741
            nn.utils.vector_to_parameters(l * theta_0 + (1 - l) * theta_1, theta.parameters())
            nn.utils.vector_to_parameters(theta_1, taught.parameters())
            t = torch.randn((self.frequencies, theta.head.in_features), generator=draw).to(theta_0)

            x, omega = syn.examples(items), self.omega(task, run, "omega", it)
            loss, gradient = self._match(batches.draw(it, theta, pieces), theta, t, omega, x.detach(), y, task, run, pieces)
            descend(run, optimizer, syn, x, loss, gradient)
            run.log(it, loss=loss / len(task.classes))
            if self.calibration:
                x, omega = syn.examples(items), self.omega(task, run, "omega", it, "calibrate")
                loss, gradient = calibrate(self.through(taught, omega), x.detach(), y, pieces)
                descend(run, optimizer, syn, x, self.calibration * loss, self.calibration * gradient)
        return syn

    def _member(self, task: Task, run: Run, k: int) -> tuple[Tensor, Tensor]:
        """(theta_0, theta_1) of the k-th of the pool, as vectors."""
        which = {"net": self.net_for(task.modality), "width": self.width, "member": k}
        after = teacher(task.train, run, Squeeze(self.epochs, lr=0.01, augment=self.augment), **which)
        before = untrained(task.train, run, **which)
        return tuple(nn.utils.parameters_to_vector(net.parameters()).detach() for net in (before, after))

    def _match(self, real: list[tuple[int, Tensor]], theta: nets.Net, t: Tensor, omega: Augmentation, x: Tensor, y: Tensor, task: Task, run: Run,
               pieces: Pieces) -> tuple[Tensor, Tensor]:
        f = self.through(lambda x: F.normalize(theta.embed(x), dim=1), omega)

        def apart(target: Tensor, source: Tensor, c: int) -> Tensor:
            return self.scale * characteristic_distance(characteristic(target, t), characteristic(source, t), self.alpha)

        return per_class(f, real, x, y, apart, task, run, pieces)


def calibrate(classify: distribution.Embed, x: Tensor, y: Tensor, pieces: Pieces) -> tuple[Tensor, Tensor]:
    """(sum over classes of the mean cross-entropy of its examples, its gradient by x (m, *shape))."""
    size = torch.bincount(y)[y]

    def loss(logits: Tensor) -> Tensor:
        return (F.cross_entropy(logits, y.to(logits.device), reduction="none") / size.to(logits)).sum()

    return distribution.through(classify, x, y, loss, pieces)
