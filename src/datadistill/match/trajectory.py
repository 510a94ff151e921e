"""The maths of trajectory matching and of truncated inner loops, with no idea of where nets or data come from.

Parameters are vectors theta (P,); an expert's segment goes from theta*_t, `start`, to theta*_{t+M}, `target`.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST = 1e-12  # of a squared distance: an expert that stands still makes a large loss, not NaN


def distance(theta: Tensor, start: Tensor, target: Tensor) -> Tensor:
    """MTT's loss, || theta - theta*_{t+M} ||^2 / || theta*_t - theta*_{t+M} ||^2: 1 where the student stood still, 0 where it arrived."""
    return (theta - target).square().sum() / (start - target).square().sum().clamp(min=LEAST)


def gsam(w: Tensor, g: Tensor, gradient_at, rho: float, alpha: float, eps: float = 1e-12) -> Tensor:
    """GSAM's direction (Zhuang et al., ICLR 2022) at w with gradient g, perturbed adaptively (ASAM): what FTD's experts step along.

    The gradient g_p at the worst point nearby, w + rho w^2 g / || |w| g ||, less alpha of the part of g that is orthogonal to it.
    """
    perturbed = gradient_at(w + rho * w.square() * g / ((w.abs() * g).norm() + eps))
    along = perturbed / (perturbed.norm() + eps)
    return perturbed - alpha * (g - (g @ along) * along)


def window(it: int, low: int, first: int, last: int, until: int) -> range:
    """DATM's start epochs at iteration `it`: from `low` up to a bound that grows from `first` to `last` by iteration `until`."""
    bound = last if it >= until else first + int((last - first) * it / until)
    return range(low, max(bound, low + 1))


def truncation(norms: Tensor, stage: int, window: int, reach: int, u: float) -> tuple[int, int]:
    """AT-BPTT's (first step of the window, its length) from the gradient norms (T,) of a whole inner loop and u uniform in [0, 1).

    Stage 1 starts where the gradient is large, with a window the longer the more the gradient changes there; stage 3 mirrors
    that position, with a short window; stage 2 starts anywhere, with a long one. `reach` is the papers' d: W - d to W + d.
    """
    steps = len(norms)
    if stage == 2:
        size = min(window + reach, steps)
        return int(u * (steps - size + 1)), size
    drawn = min(int(torch.searchsorted(torch.softmax(norms.double(), 0).cumsum(0), u)), steps - 1)
    if stage == 1:
        change = torch.cat([norms.new_zeros(1), norms.diff().abs()])
        size = int(window - reach + 2 * reach * int((change < change[drawn]).sum()) / steps)
        start = drawn
    else:
        size = window - reach
        start = steps - drawn - size
    size = max(1, min(size, steps))
    return max(0, min(start, steps - size)), size
