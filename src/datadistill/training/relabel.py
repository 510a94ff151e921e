"""Who writes the labels of S: teachers, for the examples as they are stored (the relabel step)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from .. import dist, nets
from ..labels import Labels, Soft
from ..run import Run
from .recover import Items

Kind = Literal["hard", "soft"]
CHUNK = 64  # examples labelled together: part of what a label is made of, since it decides the last bits


class Whole(Items, Protocol):
    """S when it no longer changes."""

    labels: Labels

    def stored(self) -> Tensor: ...


class Slate(nn.Module):
    """Logits in the making, a state that a run can save."""

    def __init__(self, *shape: int):
        super().__init__()
        self.register_buffer("logits", torch.zeros(shape, dtype=torch.float16))


@torch.no_grad()
def logits(teachers: Sequence[nets.Net], x: Tensor) -> Tensor:
    """(n, classes) float32: the mean of the teachers' logits of x (n, *shape) on their device."""
    return torch.stack([net(x).float() for net in teachers]).mean(0)


def relabel(syn: Whole, teachers: Sequence[nets.Net], kind: Kind, run: Run) -> Labels:
    """The labels of S as it is stored, each rank its share of the chunks. `syn` is saved with them: what came before is not needed again."""
    if kind == "hard":
        return syn.labels
    slate = Slate(len(syn), len(syn.modality.spec.classes))
    chunks, stored = run.share(torch.arange(len(syn)).split(CHUNK)), None
    for k in run.steps(len(chunks), syn, slate, label="labelling"):
        stored = syn.stored() if stored is None else stored  # not before the loop, which may bring another S from a snapshot
        slate.logits[chunks[k]] = logits(teachers, syn.modality.read(stored[chunks[k]]).to(run.device)).cpu().half()
    dist.sum_([slate.logits])
    return Soft(slate.logits, syn.y)
