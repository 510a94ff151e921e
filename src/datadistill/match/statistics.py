"""Statistics of features that papers match beyond the mean. All differentiable, all for one class at a time unless said otherwise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(maps: Tensor, p: float) -> Tensor:
    """(n, positions) where a layer looks: sum over channels of |A|^p at each position, of length one. maps (n, channels, *grid)."""
    return F.normalize(maps.abs().pow(p).sum(1).flatten(1), dim=1)


def mmd2(x: Tensor, y: Tensor, scales: int = 5) -> Tensor:
    """The squared maximum mean discrepancy of x (n, d) and y (m, d): || mean k(x, .) - mean k(y, .) ||^2 in the space of a kernel.

    k is the sum of `scales` Gaussians exp(-|a - b|^2 / s), s going up in powers of two around the mean of |a - b|^2 over all
    pairs of different points, which is a constant here (Gretton et al., JMLR 2012, eq. 5; never negative, zero if x is y).
    """
    both = torch.cat([x, y])
    both = both - both.detach().mean(0)  # which changes no distance, and keeps digits in what follows
    squares = both.square().sum(1)
    apart = (squares[:, None] + squares - 2 * both @ both.T).clamp(min=0)
    n, total = len(x), len(both)
    width = (apart.detach().sum() / (total * (total - 1))).clamp(min=1e-12)
    k = torch.stack([torch.exp(-apart / (width * 2.0**s)) for s in range(-(scales // 2), scales - scales // 2)]).sum(0)
    return k[:n, :n].mean() + k[n:, n:].mean() - 2 * k[:n, n:].mean()


def characteristic(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """(real, imaginary) of the empirical characteristic function mean_j exp(i <t, x_j>) of x (n, d) at t (k, d): each (k,)."""
    phase = x @ t.T
    return phase.cos().mean(0), phase.sin().mean(0)


def characteristic_distance(target: tuple[Tensor, Tensor], source: tuple[Tensor, Tensor], alpha: float = 0.5) -> Tensor:
    """Mean over frequencies of sqrt(alpha (|F| - |G|)^2 + (1 - alpha) 2 (|F| |G| - Re F conj G)): amplitude, and phase weighted
    by amplitude (Wang et al., CVPR 2025, eq. 6). At alpha = 1/2 this is |F - G| / sqrt(2).

    Computed as (1 - alpha) |F - G|^2 + (2 alpha - 1) (|F| - |G|)^2 under the root, the same without a difference of products.
    """
    (fr, fi), (gr, gi) = target, source
    f, g = torch.sqrt(fr.square() + fi.square() + 1e-12), torch.sqrt(gr.square() + gi.square() + 1e-12)
    apart = (1 - alpha) * ((fr - gr).square() + (fi - gi).square()) + (2 * alpha - 1) * (f - g).square()
    return torch.sqrt(apart.clamp(min=0) + 1e-12).mean()
