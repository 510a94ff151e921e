"""A pool of networks in training on S, each begun anew when it has been trained enough: so S meets networks of every age.

It is a module, so that a run saves it: all networks as rows of one table, with their Adam's state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from ..match.pieces import gradients
from ..memory import Pieces
from ..nets import Net


@final
class Pool(nn.Module):
    """`n` networks theta (n, P) that make(k, generation) gives, trained by Adam to the loss 1/2 || f(x) - y ||^2.

    age (n,) steps of training that each counts; at first those of ages(k)
    """

    def __init__(self, make: Callable[[int, int], Net], n: int, lr: float, ages: Callable[[int], int] = lambda k: 0):
        super().__init__()
        nets = [make(k, 0) for k in range(n)]
        self.make, self.lr = make, lr
        self._net = (nets[0],)  # in a tuple: not part of what is saved
        self.register_buffer("theta", torch.stack([_flat(net) for net in nets]))
        self.register_buffer("m", torch.zeros_like(self.theta))
        self.register_buffer("v", torch.zeros_like(self.theta))
        self.register_buffer("steps", torch.zeros(n, dtype=torch.long))  # of Adam
        self.register_buffer("age", torch.tensor([ages(k) for k in range(n)]))
        self.register_buffer("generation", torch.zeros(n, dtype=torch.long))

    def __len__(self) -> int:
        return len(self.theta)

    @torch.no_grad()
    def load(self, k: int) -> Net:
        """The k-th network: the same object whatever k."""
        (net,) = self._net
        nn.utils.vector_to_parameters(self.theta[k].clone(), net.parameters())
        return net

    def renew(self, k: int) -> None:
        """A fresh network in its place, of age zero."""
        self.generation[k] += 1
        self.theta[k] = _flat(self.make(k, int(self.generation[k])))
        for zero in (self.m, self.v, self.steps, self.age):
            zero[k] = 0

    def fit(self, k: int, x: Tensor, y: Tensor, pieces: Pieces, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        """One step of the k-th on the examples x (n, *shape) with the outputs y (n, classes)."""
        net = self.load(k).requires_grad_(True)
        weights = list(net.parameters())

        def loss_sum(piece: slice) -> Tensor:
            return 0.5 * (net(x[piece]) - y[piece]).square().sum() / len(y)

        g = torch.cat([part.reshape(-1) for part in gradients(pieces, len(y), loss_sum, weights)[1]])
        net.requires_grad_(False)
        self.steps[k] += 1
        self.age[k] += 1
        t = int(self.steps[k])
        self.m[k].lerp_(g, 1 - betas[0])
        self.v[k].lerp_(g.square(), 1 - betas[1])
        self.theta[k].sub_(self.lr / (1 - betas[0] ** t) * self.m[k] / ((self.v[k] / (1 - betas[1] ** t)).sqrt() + eps))


def _flat(net: Net) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in net.parameters()])
