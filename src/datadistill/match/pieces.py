"""Losses through a net or a kernel that takes examples piece by piece: sums of them, and those that mix examples, forward, for L, and backward, for its derivative."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

KEPT = 4  # pieces whose graphs are kept


class Pieces(Protocol):
    """How work is cut up: `map(n, work)` calls work on slices, of `limit` at most, that cover range(n), again on half as much when memory runs out."""

    limit: int

    def map(self, n: int, work: Callable[[slice], object]) -> list: ...


def add_(total: list[Tensor], own: Sequence[Tensor]) -> None:
    """total += own, where an empty total is zero; the last thing that a piece does, which may be done again until then."""
    total[:] = torch._foreach_add(total, own) if total else own


def gradients(pieces: Pieces, n: int, loss_sum: Callable[[slice], Tensor], parameters: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """(sum of losses, its gradients) over range(n), piece by piece: gradient accumulation that can be repeated."""
    total: list[Tensor] = []

    def one(piece: slice) -> Tensor:
        loss = loss_sum(piece)
        add_(total, torch.autograd.grad(loss, parameters))
        return loss.detach()

    return torch.stack(pieces.map(n, one)).sum(), total


class Checkpointed:
    """part(piece, graph) -> (leaf, outputs) over pieces of range(n): what of x goes in and what comes of it, linked by a graph if `graph` is true.

    The graphs of the first `kept` pieces, or of one that is all, are kept for the way back, unless memory runs out; those of the
    others are made again.
    """

    def __init__(self, part: Callable[[slice, bool], tuple[Tensor, Sequence[Tensor]]], n: int, pieces: Pieces, kept: int = KEPT):
        self.part, self.n, self.pieces = part, n, pieces
        self.limit, self.graphs = pieces.limit, {}
        self.kept = n if n <= self.limit else kept * self.limit  # examples, not pieces

    def forward(self, take: Callable[[Sequence[Tensor]], object]) -> list:
        """take(outputs, without a graph) of each piece: the last thing that is done with it."""

        def one(piece: slice) -> object:
            keep = self._unhalved() and piece.stop <= self.kept
            leaf, outputs = self.part(piece, keep)
            if keep:
                self.graphs[piece.start] = leaf, outputs
            return take([o.detach() for o in outputs])

        return self.pieces.map(self.n, one)

    def backward(self, pull: Callable[[slice], Sequence[Tensor]]) -> list[Tensor]:
        """dL by the leaf of each piece, where pull(piece) is dL by its outputs."""

        def one(piece: slice) -> Tensor:
            leaf, outputs = (self.graphs.pop(piece.start, None) if self._unhalved() else None) or self.part(piece, True)
            return torch.autograd.grad(outputs, leaf, pull(piece))[0]

        return self.pieces.map(self.n, one)

    def _unhalved(self) -> bool:
        """Whether pieces are as large as at the beginning; where memory has run out, graphs are let go."""
        if self.pieces.limit < self.limit:
            self.graphs.clear()
        return self.pieces.limit == self.limit
