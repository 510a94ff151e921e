"""Matching of gradients by the weights, piece by piece: the maths of DC and its relatives, with no idea of where data or nets come from.

D = sum over layers of d(g_T, g_S), where g is the gradient of the mean loss of one class by the weights of a layer. The real side
needs no graph beyond one piece; on the synthetic side D depends on x only through g_S, so that with v = dD/dg_S, which is
fixed once g_S is known, dD/dx = d<g_S, v>/dx: examples can go through the net in pieces of any size, and what they give is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from .pieces import Checkpointed, Pieces, add_, gradients

Losses = Callable[[Tensor, Tensor], Tensor]
"""x (n, *shape) and the class of each (n,) -> the sum of the net's losses on them. Every example by itself: no batch norm."""

Distance = Literal["cosine", "mse", "l1"]


def weights(net: nn.Module, *, head: bool = True) -> list[nn.Parameter]:
    """The weights that papers match: those with two axes or more, no biases and no norms; without `head` the last linear layer is left
    out, unless it is all that the net has."""
    last = getattr(net, "head", None)
    matched = [p for p in net.parameters() if p.ndim > 1]
    return matched if head or last is None or len(matched) == 1 else [p for p in matched if p is not last.weight]


def distance(target: Sequence[Tensor], source: Sequence[Tensor], kind: Distance = "cosine") -> Tensor:
    """sum over layers of d(target, source), for gradients of the same shapes.

    cosine  sum over output units of 1 - cos of the two gradients of that unit (eq. 9 of DC, which adds 1e-6 to the divisor)
    mse     sum of squared differences (IDC)         l1  sum of absolute differences (IDC, for grey pictures)
    """
    return torch.stack([_of_layer(a, b, kind) for a, b in zip(target, source, strict=True)]).sum()


def _of_layer(a: Tensor, b: Tensor, kind: Distance) -> Tensor:
    if kind == "mse":
        return (a - b).square().sum()
    if kind == "l1":
        return (a - b).abs().sum()
    a, b = a.flatten(1), b.flatten(1)
    return (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()


def mean_gradient(losses: Losses, read: Callable[[slice], Tensor], classes: Tensor, weights: Sequence[Tensor], pieces: Pieces) -> list[Tensor]:
    """The gradient of the mean loss by the weights, without a graph. read(slice) gives those examples, of these classes (n,)."""
    return gradients(pieces, len(classes), lambda piece: losses(read(piece), classes[piece]) / len(classes), weights)[1]


def descent(losses: Losses, x: Tensor, classes: Tensor, weights: Sequence[Tensor], target: Sequence[Tensor], pieces: Pieces,
            kind: Distance = "cosine") -> tuple[Tensor, Tensor]:
    """(D, dD/dx) for the synthetic x (n, *shape) of these classes (n,), against the real gradients `target`."""
    n, source = len(x), []

    def part(piece: slice, graph: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        leaf = x[piece].detach().requires_grad_()
        return leaf, torch.autograd.grad(losses(leaf, classes[piece]) / n, weights, create_graph=graph)

    g_S = Checkpointed(part, n, pieces)
    g_S.forward(partial(add_, source))
    leaves = [g.requires_grad_() for g in source]
    value = distance(target, leaves, kind)
    pull = torch.autograd.grad(value, leaves)
    return value.detach(), torch.cat(g_S.backward(lambda piece: pull))
