"""Matching of class means, piece by piece: the maths of DM and its relatives, with no idea of where data or nets come from.

L = sum_c || mean_c(T) - mean_c(S) ||^2, where mean_c is the mean of psi over the examples of class c. Its derivative by the features
of an example of class c in S is 2 (mean_c(S) - mean_c(T)) / n_c: once both means are known, examples can go through psi in
pieces of any size, and what the pieces give is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Embed = Callable[[Tensor, Tensor], Tensor]
"""psi(omega(x)): x (n, *shape) and the class of each (n,) -> (n, features). Every example by itself: no batch norm."""


class Pieces(Protocol):
    """How work is cut up: `map(n, work)` calls work on slices that cover range(n), again on half as much when memory runs out."""

    def map(self, n: int, work: Callable[[slice], object]) -> list: ...


def means(embed: Embed, read: Callable[[slice], Tensor], classes: Tensor, n_classes: int, pieces: Pieces) -> Tensor:
    """(n_classes, features) mean embedding of each class, without gradient; zero for a class with no example.

    read(slice) gives those examples; classes (n,) the class of each, on the CPU, best in order.
    """

    @torch.no_grad()
    def part(piece: slice) -> tuple[Tensor, Tensor]:
        return class_sums(embed(read(piece), classes[piece]), classes[piece])

    parts = pieces.map(len(classes), part)
    total = parts[0][1].new_zeros(n_classes, parts[0][1].shape[1])
    for present, sums in parts:
        total[present] += sums
    return total / _counts(classes, total)


def class_sums(features: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """(present (k,), sums (k, features)) over the classes that occur: as a matrix product, which adds in the same order on every run."""
    present, which = torch.unique(classes, return_inverse=True)
    member = (which == torch.arange(len(present))[:, None]).to(features)
    return present.to(features.device), member @ features


def discrepancy(target: Tensor, source: Tensor) -> Tensor:
    """sum_c || target_c - source_c ||^2, both (classes, features)."""
    return (target - source).square().sum()


def descent(embed: Embed, x: Tensor, classes: Tensor, target: Tensor, pieces: Pieces) -> tuple[Tensor, Tensor]:
    """(L, dL/dx) for the synthetic x (n, *shape) of these classes (n,), against the real class means `target` (classes, features).

    Classes of which x has no example are left out of L. If x fits in one piece psi runs once; else once more, for the means.
    """
    size = _counts(classes, target)
    own = torch.zeros_like(size).index_fill_(0, classes.unique().to(size.device), 1)

    def gradient(features: Tensor, leaf: Tensor, mean: Tensor, piece: slice) -> Tensor:
        pull = 2 * own * (mean - target) / size
        return torch.autograd.grad(features, leaf, pull[classes[piece].to(pull.device)])[0]

    def at_once(piece: slice) -> tuple[Tensor, Tensor] | None:
        if piece.stop - piece.start < len(x):
            return None
        leaf = x.detach().requires_grad_()
        features = embed(leaf, classes)
        mean = torch.zeros_like(target)
        present, sums = class_sums(features.detach(), classes)
        mean[present] = sums
        mean /= size
        return mean, gradient(features, leaf, mean, piece)

    def part(piece: slice) -> Tensor:
        leaf = x[piece].detach().requires_grad_()
        return gradient(embed(leaf, classes[piece]), leaf, mean, piece)

    if (done := pieces.map(len(x), at_once)[0]) is not None:
        mean, gradients = done
    else:
        mean = means(embed, lambda piece: x[piece].detach(), classes, len(target), pieces)
        gradients = torch.cat(pieces.map(len(x), part))
    return discrepancy(own * target, own * mean), gradients


def _counts(classes: Tensor, like: Tensor) -> Tensor:
    """(classes, 1) how many examples each class has, at least one: the divisor of a mean."""
    return torch.bincount(classes, minlength=len(like)).clamp(min=1).to(like)[:, None]
