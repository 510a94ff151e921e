"""What a step of training asks for: the gradient of a net's mean loss on one batch by its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..match.pieces import gradients
from ..memory import Pieces
from ..modalities import Augmentation
from ..replay import Replay

Losses = Callable[..., Tensor]
"""(logits (k, classes), *what is asked of these k, at=how far training is) -> (k,)"""


def cross_entropy(logits: Tensor, y: Tensor, at: float = 0.0) -> Tensor:
    """(k,) against class numbers (k,) or distributions (k, classes)."""
    return F.cross_entropy(logits, y, reduction="none")


class Slopes:
    """(x (n, *shape), omega or none, what is asked of each) -> the gradient by each weight, which holds until the next call.

    Every example is augmented by itself. Out of memory: the batch goes in pieces (exact but for batch norm's statistics).
    computing   the context that the net works in
    """

    def __init__(self, net: nn.Module, pieces: Pieces, device: torch.device | str, losses: Losses = cross_entropy, computing: Callable[[], AbstractContextManager] = nullcontext):
        self.net, self.pieces, self.losses, self.computing = net, pieces, losses, computing
        self.weights = list(net.parameters())
        self._replay = Replay(self._of, device, pieces.notes)

    def __call__(self, x: Tensor, omega: Augmentation | None, *asked: Tensor, at: float = 0.0) -> list[Tensor]:
        return self._replay(x, omega, asked, at)

    def _of(self, x: Tensor, omega: Augmentation | None, asked: Sequence[Tensor], at: float) -> list[Tensor]:
        n = len(x)
        shown = x if omega is None else omega(x, torch.arange(n, device=x.device))

        def loss_sum(piece: slice) -> Tensor:
            with self.computing():
                logits = self.net(shown[piece])
            return self.losses(logits.to(shown.dtype), *(part[piece] for part in asked), at=at).sum() / n

        return gradients(self.pieces, n, loss_sum, self.weights)[1]

    def step(self, optimizer: torch.optim.Optimizer, x: Tensor, omega: Augmentation | None, *asked: Tensor, at: float = 0.0) -> None:
        """A step of the optimizer, which has this net's weights, down the mean loss."""
        for p, g in zip(self.weights, self(x, omega, *asked, at=at), strict=True):
            p.grad = g if g.stride() == p.stride() else torch.empty_like(p).copy_(g)  # fused optimizers take both as they lie in memory
        optimizer.step()
