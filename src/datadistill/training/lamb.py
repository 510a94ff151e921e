"""LAMB (You et al., ICLR 2020): Adam whose step is scaled to the length of what it moves; and a cosine over its steps.

    u = m / (sqrt(v) + eps), m and v without their bias;   p <- p - lr(t) (||p|| / ||u||) u        for each tensor p by itself

so that a step moves a tensor by the share lr(t) of its length, however steep the loss is. Where p or u is zero the scale is one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

import torch
from torch import Tensor

from ..rates import half_cosine


@final
class LAMB(torch.optim.Optimizer):
    """lr(t) = lr (least + (1 - least) (1 + cos(pi t / steps)) / 2) for t = 0 .. steps - 1. No weight decay."""

    def __init__(self, parameters: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float, steps: int, least: float = 0.1, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6):
        super().__init__(parameters, {"lr": lr, "steps": steps, "least": least, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in (p for p in group["params"] if p.grad is not None):
                state = self.state[p]
                if not state:
                    state.update(t=torch.zeros(()), m=torch.zeros_like(p), v=torch.zeros_like(p))
                lr = group["lr"] * (group["least"] + (1 - group["least"]) * half_cosine(min(1.0, float(state["t"]) / group["steps"])))
                state["t"] += 1
                t = float(state["t"])
                state["m"].lerp_(p.grad, 1 - b1)
                state["v"].lerp_(p.grad.square(), 1 - b2)
                u = state["m"] / (1 - b1**t) / ((state["v"] / (1 - b2**t)).sqrt() + group["eps"])
                lengths = float(p.norm()), float(u.norm())
                p.sub_(u, alpha=lr * (lengths[0] / lengths[1] if min(lengths) > 0 else 1.0))
