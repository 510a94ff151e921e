"""2x2 average pooling, and its adjoint, as a few strided sums: on a CPU several times faster than torch's kernels, of which the adjoint is slow on a GPU too."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Halve(nn.Module):
    """Average over 2x2 squares; an odd last row or column is left out, as `AvgPool2d(2)` does. Any number of derivatives."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type not in ("cpu", "cuda") or x.shape[2] % 2 or x.shape[3] % 2 or torch.compiler.is_compiling():
            return F.avg_pool2d(x, 2)
        return _Down.apply(x)


class _Down(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        if x.is_cuda:
            return F.avg_pool2d(x, 2)
        rows = x.unflatten(2, (-1, 2))
        rows = rows[:, :, :, 0] + rows[:, :, :, 1]
        return (rows[..., ::2] + rows[..., 1::2]).mul_(0.25)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None: ...

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        return _Up.apply(g)

    @staticmethod
    def jvp(ctx, t: Tensor) -> Tensor:
        return _Down.apply(t)


class _Up(torch.autograd.Function):
    """A quarter of each value to each pixel of its square."""

    generate_vmap_rule = True

    @staticmethod
    def forward(g: Tensor) -> Tensor:
        g = (g * 0.25).contiguous()
        n, c, h, w = g.shape
        if g.is_cuda:
            return g.view(n, c, h, 1, w, 1).expand(n, c, h, 2, w, 2).reshape(n, c, 2 * h, 2 * w)
        if g.dtype in (torch.float32, torch.float64):
            pairs = torch.view_as_real(torch.complex(g, g))  # torch's fastest way to write each value twice
        else:
            pairs = torch.stack((g, g), -1)
        pairs = pairs.view(n, c, h, 1, 2 * w)
        return pairs.expand(n, c, h, 2, 2 * w).reshape(n, c, 2 * h, 2 * w)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None: ...

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        return _Down.apply(g)

    @staticmethod
    def jvp(ctx, t: Tensor) -> Tensor:
        return _Up.apply(t)
