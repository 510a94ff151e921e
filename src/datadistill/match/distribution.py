"""Matching of features, piece by piece: the maths of DM and its relatives, with no idea of where data or nets come from.

A loss L of the features of all examples of S, such as DM's sum_c || mean_c(T) - mean_c(S) ||^2, has a derivative by the features
of each of them; once that is known, examples can go through psi in pieces of any size, and what the pieces give is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .pieces import Checkpointed, Pieces, add_

Embed = Callable[[Tensor, Tensor], Tensor]
"""psi(omega(x)): x (n, *shape) and the class of each (n,) -> (n, features). Every example by itself: no batch norm."""


def means(embed: Embed, read: Callable[[slice], Tensor], classes: Tensor, n_classes: int, pieces: Pieces) -> Tensor:
    """(n_classes, features) mean embedding of each class, without gradient; zero for a class with no example.

    read(slice) gives those examples; classes (n,) the class of each.
    """

    total: list[Tensor] = []

    @torch.no_grad()
    def part(piece: slice) -> None:
        add_(total, class_sums(embed(read(piece), classes[piece]), classes[piece], n_classes))

    pieces.map(len(classes), part)
    sums, counts = total
    return sums / counts.clamp(min=1)


def class_sums(features: Tensor, classes: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """(sums (n_classes, features) over the examples of each class, how many these are (n_classes, 1)): as a matrix product, which adds in
    the same order on every run."""
    member = (classes.to(features.device) == torch.arange(n_classes, device=features.device)[:, None]).to(features)
    return member @ features, member.sum(1, keepdim=True)


def discrepancy(target: Tensor, source: Tensor) -> Tensor:
    """sum_c || target_c - source_c ||^2, both (classes, features)."""
    return (target - source).square().sum()


def descent(embed: Embed, x: Tensor, classes: Tensor, target: Tensor, pieces: Pieces) -> tuple[Tensor, Tensor]:
    """(L, dL/dx) for the synthetic x (n, *shape) of these classes (n,), against the real class means `target` (classes, features).

    Classes of which x has no example are left out of L.
    """
    return through(embed, x, classes, lambda features: discrepancy(target, class_means(features, classes, target)), pieces)


def class_means(features: Tensor, classes: Tensor, absent: Tensor) -> Tensor:
    """(classes, features) the mean of the features (n, features) of each class; where there is none, the row of `absent`."""
    sums, counts = class_sums(features, classes, len(absent))
    return torch.where(counts > 0, sums / counts.clamp(min=1), absent)


def through(embed: Embed, x: Tensor, classes: Tensor, loss: Callable[[Tensor], Tensor], pieces: Pieces, also: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
    """(L, dL/dx, and dL by each of `also`) for L = loss(features (n, features) of all of x): a loss that mixes examples, through an
    embedding that does not. `also`: what else the loss depends on, such as learned labels.
    """

    def part(piece: slice, graph: bool) -> tuple[Tensor, list[Tensor]]:
        leaf = x[piece].detach().requires_grad_()
        with torch.set_grad_enabled(graph):
            return leaf, [embed(leaf, classes[piece])]

    psi = Checkpointed(part, len(x), pieces)
    features = torch.cat(psi.forward(lambda outputs: outputs[0])).requires_grad_()
    value = loss(features)
    pull, *others = torch.autograd.grad(value, [features, *also])
    return value.detach(), torch.cat(psi.backward(lambda piece: [pull[piece]])), *others


@torch.no_grad()
def all_features(embed: Embed, read: Callable[[slice], Tensor], classes: Tensor, pieces: Pieces) -> Tensor:
    """(n, features) the features of examples of these classes (n,), without gradient."""
    return torch.cat(pieces.map(len(classes), lambda piece: embed(read(piece), classes[piece])))
