"""DataDAM: dataset distillation with attention matching (Sajedi et al., ICCV 2023).

Algorithm 1, in the paper's letters:
    repeat K times
        theta ~ P_theta                                            a fresh, untrained network phi of L layers
        z_l(x) = A_l / ||A_l||,  A_l = sum_channels |f_l(x)|^p     spatial attention of layer l < L, flattened
        L = sum_c sum_l || mean z_l(T_c) - mean z_l(S_c) ||^2 + lambda sum_c || mean f_L(T_c) - mean f_L(S_c) ||^2
        S <- S - eta_S grad_S L                                    under one siamese augmentation for each class

Differences from the authors' code: every draw has a name; examples go through the net in pieces, real ones without gradient;
S is kept within legal values; classes may differ in size. As in their code, and not as in the paper's table, p = 1, f_L are
the logits and the loss is multiplied by 100. Attention needs a grid of positions: tables, and nets that flatten, are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, final

import torch
from torch import Tensor

from .. import nets
from ..data.task import Task
from ..errors import UsageError
from ..match import distribution
from ..match.statistics import attention
from ..modalities import Modality
from ..nets.layers import hidden
from ..run import Run
from ..synthetic import SyntheticSet
from .base import Paper
from .matching import Batches, Matching, descend, own_items


@final
@dataclass(frozen=True, kw_only=True)
class DataDAM(Matching):
    """Match where the layers of fresh, untrained networks look, class by class."""

    name: ClassVar = "datadam"
    stores: ClassVar = "items"
    when: ClassVar = "images; as DM, attention of every layer compared"
    family: ClassVar = "distribution"
    paper: ClassVar = Paper(title="DataDAM: Efficient Dataset Distillation with Attention Matching", venue="ICCV 2023", arxiv="2310.00093")
    needs: ClassVar = frozenset({"continuous", "grid"})
    quick: ClassVar = {"iterations": 200, "width": 32, "real_batch": 64, "init": "representative"}

    iterations: int = 20_000  # K
    lr: float = 1.0  # eta_S; the authors take 10 from 100 items per class on
    real_batch: int = 64
    p: float = 1.0
    task_balance: float = 0.01  # lambda
    scale: float = 100.0

    def check(self, modality: Modality) -> None:
        super().check(modality)
        if 1 in (kind := nets.FAMILIES.get(self.net_for(modality), nets.ConvNet)).axes or kind is nets.FAMILIES["vit"]:
            good = [name for name in modality.nets if 1 not in nets.FAMILIES[name].axes and not nets.FAMILIES[name].batch_norm]
            raise UsageError(f"{self.name} through net {kind.family!r}, whose layers have no grid of positions", f"a net that has: {' or '.join(good)}", f"--set net={good[0]}")

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        syn = self.start(task, run)
        optimizer = self.optimizer_for(syn)
        pieces, batches = self.pieces(task, run), Batches(task, run, self.real_batch, self.sampling)
        items, y = own_items(task, run, syn)

        for it in run.steps(self.iterations, syn, optimizer, batches):
            phi = self.network(task, run, "theta", it).requires_grad_(False)
            z = self.through(partial(self.looks, phi), self.omega(task, run, "omega", it))
            real = torch.cat([indices for _, indices in batches.draw(it, phi, pieces)])

            def read(piece: slice, real=real) -> Tensor:
                return task.train.read(real[piece], run.device)

            x = syn.examples(items)
            target = distribution.means(z, read, task.train.labels[real], len(task.classes), pieces)
            loss, gradient = distribution.descent(z, x.detach(), y, target, pieces)
            descend(run, optimizer, syn, x, loss, gradient)
            run.log(it, loss=loss)
        return syn

    def looks(self, phi: nets.Net, x: Tensor) -> Tensor:
        """(n, positions of all layers + classes) where phi looks, and what it says."""
        layers, features = hidden(phi, x)
        looks = [attention(layer.to(x.dtype), self.p) for layer in layers[:-1]]
        return self.scale**0.5 * torch.cat([*looks, self.task_balance**0.5 * phi.head(features)], 1)
