"""Ridge regression in the space of a kernel as a differentiable predictor, and the kernels of infinitely wide networks.

    f(T) = K_ts (K_ss + lambda I)^-1 y_s                 what a kernel machine trained on S says of T: KIP, RFAD, FRePo, RCIG

The kernels are those of Neal (1996), Cho & Saul (NeurIPS 2009), Jacot et al. (NeurIPS 2018) and Arora et al. (NeurIPS 2019), in the NTK
parametrisation: every layer is sqrt(weight / fan in) W h + sqrt(bias) b with W, b ~ N(0, 1), and nonlinearities are ReLU.
    nngp    E f(x) f(x') over random networks           ntk    E <df(x)/dtheta, df(x')/dtheta>
All of it is in double precision: K_ss is nearly singular, and lambda small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .pieces import Checkpointed, Pieces

Kernel = Callable[[Tensor, Tensor], Tensor]
"""x (n, *shape), x' (m, *shape) -> (n, m), differentiable in both; every pair by itself."""


# -- regression ---------------------------------------------------------------------------------------------------------


def centred(y: Tensor, classes: int) -> Tensor:
    """(n, classes) float64: one minus 1/classes at the class, minus 1/classes elsewhere; y (n,) class numbers."""
    return F.one_hot(y, classes).double() - 1 / classes


def dual(k_ss: Tensor, y: Tensor, shift: Tensor | float) -> Tensor:
    """(n, outputs) (K_ss + shift I)^-1 y, by Cholesky; NaN where that matrix is not positive definite, which a run knows how to take back."""
    shifted = k_ss.double() + shift * torch.eye(len(k_ss), dtype=torch.float64, device=k_ss.device)
    factor, failed = torch.linalg.cholesky_ex(shifted)
    return torch.cholesky_solve(y.double(), torch.where(failed > 0, torch.nan, factor))


def predict(k_ss: Tensor, k_ts: Tensor, y: Tensor, ridge: float) -> Tensor:
    """(m, outputs) K_ts (K_ss + lambda I)^-1 y with lambda = ridge tr(K_ss) / n, as KIP and FRePo have it.

    k_ss (n, n)      k_ts (m, n)      y (n, outputs); differentiable in all of them
    """
    return k_ts.double() @ dual(k_ss, y, ridge * k_ss.diagonal().double().mean())


def squared(prediction: Tensor, target: Tensor) -> Tensor:
    """(m,) 1/2 || prediction - target ||^2 of each example."""
    return 0.5 * (prediction - target).square().sum(1)


def platt(prediction: Tensor, y: Tensor, log_tau: Tensor) -> Tensor:
    """(m,) cross-entropy of tau times the prediction with the class (RFAD's Platt scaling; tau is learned)."""
    return F.cross_entropy(log_tau.exp() * prediction, y, reduction="none")


def margin(y: Tensor, most: float) -> Tensor:
    """(n,) minus the lead of the largest label over the next, counted up to `most`: down this, learned labels keep a class."""
    top = y.topk(2, 1).values
    return -(top[:, 0] - top[:, 1]).clamp(max=most)


def conjugate_gradients(apply: Callable[[Tensor], Tensor], b: Tensor, steps: int) -> Tensor:
    """(P,) about A^-1 b after so many steps from zero, for a symmetric positive definite A given as apply(v) = A v."""
    x, r = torch.zeros_like(b), b
    p, rr = r, r @ r
    for _ in range(steps):
        if not rr > 1e-30 * (b @ b):  # solved; or not a number
            break
        ap = apply(p)
        alpha = rr / (p @ ap)
        x, r = x + alpha * p, r - alpha * ap
        rr, before = r @ r, rr
        p = r + rr / before * p
    return x


def descent(kernel: Kernel, s: Tensor, t: Tensor, loss: Callable[[Tensor, Tensor], Tensor], pieces: Pieces, also: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
    """(L, dL/ds, and dL by each of `also`) for L = loss(k_ss, k_ts), the kernel in rows that fit: once if all of them do, else twice."""
    n = len(s)

    def rows(piece: slice, graph: bool) -> tuple[Tensor, list[Tensor]]:
        """These rows of the kernel of s and t, one after the other, with s."""
        leaf = s.detach().requires_grad_()
        own = [leaf[piece.start : piece.stop]] if piece.start < n else []
        with torch.set_grad_enabled(graph):
            return leaf, [kernel(torch.cat([*own, t[max(0, piece.start - n) : max(0, piece.stop - n)]]), leaf)]

    gram = Checkpointed(rows, n + len(t), pieces, kept=0)
    k = torch.cat(gram.forward(lambda outputs: outputs[0])).requires_grad_()
    value = loss(k[:n], k[n:])
    pull, *others = torch.autograd.grad(value, [k, *also])
    return value.detach(), torch.stack(gram.backward(lambda piece: [pull[piece]])).sum(0), *others


# -- infinitely wide networks -------------------------------------------------------------------------------------------


def arc(c: Tensor) -> tuple[Tensor, Tensor]:
    """(k0, k1) of the cosine c of two inputs: E step(u) step(v) = k0 / 2 and E relu(u) relu(v) = k1 / 2 for u, v ~ N(0, 1) so correlated.

    Where the two point the same way, k0 has a cusp: its derivative is taken as zero there, the mean of both sides.
    """
    inside = 1 - c * c > 1e-14
    safe = torch.where(inside, c, 0)
    angle = torch.where(inside, safe.acos(), torch.where(c > 0, 0.0, math.pi).to(c))
    sine = torch.where(inside, (1 - safe.square()).sqrt(), 0)
    return (math.pi - angle) / math.pi, (sine + (math.pi - angle) * c) / math.pi


def fully_connected(x: Tensor, other: Tensor, depth: int, weight: float = 2.0, bias: float = 0.01) -> tuple[Tensor, Tensor]:
    """(nngp, ntk), each (n, m), of a network with `depth` hidden layers; x (n, *shape), other (m, *shape)."""
    x, other = x.flatten(1).double(), other.flatten(1).double()
    own, others = (weight * z.square().mean(1) + bias for z in (x, other))
    nngp = weight * (x @ other.T) / x.shape[1] + bias
    ntk = nngp
    for _ in range(depth):
        size = (own[:, None] * others).sqrt()
        k0, k1 = arc(nngp / size)
        nngp = weight / 2 * size * k1 + bias
        ntk = nngp + weight / 2 * k0 * ntk
        own, others = (weight / 2 * z + bias for z in (own, others))
    return nngp, ntk


def convolutional(x: Tensor, other: Tensor, depth: int, weight: float = 2.0, bias: float = 0.01) -> tuple[Tensor, Tensor]:
    """(nngp, ntk), each (n, m), of `depth` times [convolution 3x3 with zeros around, ReLU, mean over 2x2] and a linear head.

    x (n, channels, height, width), other (m, ...). A pair takes the covariance of every two pixels: memory and time go as the
    fourth power of the side, and `pair_bytes` says how much.
    """
    x, other = x.double(), other.double()
    own, others = (_Covariance.of(torch.einsum("ncpq,ncrs->npqrs", z, z) / z.shape[1], weight, bias) for z in (x, other))
    both = _Covariance.of(torch.einsum("ncpq,mcrs->nmpqrs", x, other) / x.shape[1], weight, bias)
    for k in range(depth):
        a, b = own.variance[:, None], others.variance[None]
        both = both.after_relu(a, b).halved()
        own, others = (z.after_relu(z.variance, z.variance).halved() for z in (own, others))
        if k + 1 < depth:
            both, own, others = (z.convolved(weight, bias) for z in (both, own, others))
    nngp = weight * both.variance_of(both.nngp).mean((-2, -1)) + bias
    return nngp, nngp + weight * both.variance_of(both.ntk).mean((-2, -1))


class _Covariance:
    """nngp and ntk of every two positions, (..., h, w, h, w) each; ahead of them one axis of examples, or two of pairs."""

    def __init__(self, nngp: Tensor, ntk: Tensor):
        self.nngp, self.ntk = nngp, ntk

    @classmethod
    def of(cls, pixels: Tensor, weight: float, bias: float) -> _Covariance:
        """After the first convolution, of inputs with this covariance."""
        return cls(pixels, torch.zeros_like(pixels)).convolved(weight, bias)

    @staticmethod
    def variance_of(k: Tensor) -> Tensor:
        """(..., h, w) each position with itself."""
        h, w = k.shape[-2:]
        return k.flatten(-4, -3).flatten(-2).diagonal(dim1=-2, dim2=-1).unflatten(-1, (h, w))

    @property
    def variance(self) -> Tensor:
        return self.variance_of(self.nngp)

    def after_relu(self, a: Tensor, b: Tensor) -> _Covariance:
        """a, b (..., h, w) the variances of the two of each pair."""
        size = (a[..., None, None] * b[..., None, None, :, :]).sqrt()
        k0, k1 = arc(self.nngp / size)
        return _Covariance(size * k1 / 2, self.ntk * k0 / 2)

    def halved(self) -> _Covariance:
        return _Covariance(*(_means(k) for k in (self.nngp, self.ntk)))

    def convolved(self, weight: float, bias: float) -> _Covariance:
        nngp = weight / 9 * _neighbours(self.nngp) + bias
        return _Covariance(nngp, nngp + weight / 9 * _neighbours(self.ntk))


def _neighbours(k: Tensor) -> Tensor:
    """Sum over the nine steps that both positions take together, zeros beyond the border."""
    h, w = k.shape[-2:]
    tall = F.pad(k, (0, 0, 1, 1, 0, 0, 1, 1))
    k = sum(tall[..., d : d + h, :, d : d + h, :] for d in range(3))
    wide = F.pad(k, (1, 1, 0, 0, 1, 1))
    return sum(wide[..., d : d + w, :, d : d + w] for d in range(3))


def _means(k: Tensor) -> Tensor:
    """Over 2x2 squares of both positions; an odd last row or column is left out."""
    h, w = k.shape[-2] // 2, k.shape[-1] // 2
    k = k[..., : 2 * h, : 2 * w, : 2 * h, : 2 * w]
    for axis in (-4, -3, -2, -1):
        k = k.unflatten(axis, (-1, 2)).mean(axis)
    return k


def pair_bytes(shape: Sequence[int]) -> int:
    """About how much memory a pair of examples takes in `convolutional` with its graph: some thirty arrays of the largest size."""
    return 30 * 8 * (shape[-2] * shape[-1]) ** 2
