"""The batch-norm statistics of SRe2L and its family: what a teacher's layers see of S, against what they saw of T."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

EPS = 1e-5  # what batch norm adds to a variance, here taken off before: some versions of torch refuse none


class Moments(NamedTuple):
    """Of one layer's input: mean and biased variance, each (channels,), or (n, channels) for several at once."""

    mean: Tensor
    var: Tensor


def moments(h: Tensor) -> Moments:
    """Mean and biased variance of h (n, channels, *grid) per channel over everything else, in float32; differentiable once."""
    return Moments(*_Moments.apply(h))


def by_example(h: Tensor) -> Moments:
    """(n, channels) of each example of h (n, channels, *grid) by itself; differentiable once."""
    return Moments(*(m.view(h.shape[:2]) for m in moments(h.flatten(0, 1)[None])))


def grouped(each: Moments, of: Tensor, k: int) -> Moments:
    """(k, channels) of examples taken together by their group, of (n,), from those of each (n, channels); no group is empty."""
    count = torch.bincount(of, minlength=k)[:, None]

    def average(t: Tensor) -> Tensor:
        return torch.zeros((k, t.shape[1]), device=t.device).index_add(0, of, t) / count

    mean = average(each.mean)
    return Moments(mean, average(each.var + (each.mean - mean[of]).square()))


def distance(own: Moments, target: Moments, var_weight: float = 1.0) -> Tensor:
    """|| mean - mean' ||_2 + w || var - var' ||_2: norms, not their squares (Yin et al., SRe2L). A norm of zero has gradient zero."""
    return torch.linalg.vector_norm(own.mean - target.mean) + var_weight * torch.linalg.vector_norm(own.var - target.var)


def loss(own: list[Moments], target: list[Moments], first: float = 10.0, var_weight: float = 1.0) -> Tensor:
    """sum_l w_l distance_l, with w_1 = first and all others 1: R_BN of SRe2L."""
    terms = [distance(a, b, var_weight) for a, b in zip(own, target, strict=True)]
    terms[0] = first * terms[0]
    return torch.stack(terms).sum()


def patch_moments(h: Tensor, side: int) -> Moments:
    """Of h (n, channels, height, width) by place: mean and biased variance of each square of `side` x `side` positions over examples,
    channels and positions, (squares,), row by row; sides that it does not divide are enlarged by interpolation (G-VBSM).
    """
    h = whole_patches(h.float(), side)
    mean, square = (F.avg_pool2d(part.mean((0, 1))[None], side).flatten() for part in (h, h.square()))
    return Moments(mean, (square - mean.square()).clamp(min=0))


def whole_patches(h: Tensor, side: int) -> Tensor:
    """h with sides that are multiples of `side`."""
    sides = [-(-length // side) * side for length in h.shape[2:]]
    return h if sides == list(h.shape[2:]) else F.interpolate(h, sides, mode="bilinear", align_corners=False)


class _Moments(torch.autograd.Function):
    """Its way back is one pass over h: dL/dh = g_mean / N + 2 g_var (h - mean) / N."""

    @staticmethod
    def forward(ctx, h: Tensor) -> tuple[Tensor, Tensor]:
        axes, n = [0, *range(2, h.ndim)], h.numel() // h.shape[1]
        if h.device.type != "cpu":
            var, mean = torch.var_mean(h.float(), axes, correction=0)
        elif h.ndim == 4 and n > 1 and (h.dtype == torch.bfloat16 or h.is_contiguous(memory_format=torch.channels_last)):
            mean, var = torch.zeros((2, h.shape[1])).unbind()  # one pass without a copy: batch norm's own, in float32
            torch.batch_norm_update_stats(h, mean, var, 1.0)
            var *= (n - 1) / n
        else:  # var_mean takes twenty times as long as these two passes
            x = h.float()
            mean = x.mean(axes)
            var = (x - mean.view(1, -1, *[1] * (h.ndim - 2))).square_().mean(axes)
        ctx.save_for_backward(h, mean)
        return mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx, g_mean: Tensor, g_var: Tensor) -> Tensor:
        h, mean = ctx.saved_tensors
        n = h.numel() // h.shape[1]
        return F.batch_norm(h, mean, torch.full_like(mean, 1 - EPS), 2 * g_var / n, g_mean / n, eps=EPS)  # one pass, in float32
