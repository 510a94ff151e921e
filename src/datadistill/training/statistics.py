"""What a teacher's layers say of T, and of each class of it: one pass over the real data, kept by `run.cached`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .. import nets
from ..data.task import Real
from ..match.batch_norm import Moments, moments, patch_moments
from ..memory import Pieces
from ..nets.taps import BATCH_NORMS, Taps
from ..run import Run
from .embedding import content_key
from .targets import with_batch_norm

CHUNK = 256
Sums = list[Tensor]
"""Of each kind of moments (3, groups) float64: how many numbers, their sum, the sum of their squares."""


def class_moments(net: nets.Net, real: Real, run: Run) -> list[Moments]:
    """Of each batch norm's input: mean and biased variance per class and channel, (classes, channels), over the class's examples
    and their positions. A class without examples has those of all.
    """
    return [kinds[0] for kinds in measured(net, with_batch_norm(net), real, run)[1]]


def by_patch(side: int) -> Callable[[nn.Module, Tensor], list[Moments]]:
    """G-VBSM's kinds: of each batch norm, channels; of each convolution, channels and squares of `side` positions."""

    def measure(module: nn.Module, h: Tensor) -> list[Moments]:
        return [moments(h)] if isinstance(module, BATCH_NORMS) else [moments(h), patch_moments(h, side)]

    return measure


def measured(net: nets.Net, layers: list[nn.Module], real: Real, run: Run, side: int | None = None) -> tuple[list[list[Moments]], list[list[Moments]]]:
    """(of all, by class): for each layer, each kind of moments of its input, by class with a first axis of classes.

    side   convolutions have moments by squares of so many positions too, as in `by_patch`
    """
    key = content_key(real, run, teacher=fingerprint(net), what="moments", layers=[type(layer).__name__ for layer in layers], side=side)
    kept = run.cached("statistics", key, lambda: _pass(net, layers, real, run, side))
    overall: list[list[Moments]] = []
    by_class: list[list[Moments]] = []
    for k, layer in enumerate(layers):
        kinds = [kept[f"{k}/{kind}"] for kind in range(1 if side is None or isinstance(layer, BATCH_NORMS) else 2)]
        overall.append([_moments(sums.sum(0), run) for sums in kinds])
        by_class.append([_moments(torch.where(sums[:, :1, :1] > 0, sums, sums.sum(0)), run) for sums in kinds])
    return overall, by_class


def _moments(sums: Tensor, run: Run) -> Moments:
    """From (..., 3, groups)."""
    n, first, second = sums.unbind(-2)
    mean = first / n
    return Moments(mean.float().to(run.device), (second / n - mean.square()).clamp(min=0).float().to(run.device))


@torch.no_grad()
def _pass(net: nets.Net, layers: list[nn.Module], real: Real, run: Run, side: int | None) -> dict[str, Tensor]:
    taps = Taps(layers, lambda module, h: _sums(h, side if side is not None and not isinstance(module, BATCH_NORMS) else None))
    total: dict[str, Tensor] = {}
    pieces = Pieces(CHUNK, "chunk of real examples", run.notes)
    for c in run.steps(len(real.counts), label="measuring classes"):
        own = real.indices(c)

        def look(piece: slice, own: Tensor = own) -> list[Sums]:
            with taps:
                net(real.read(own[piece], run.device))
            return list(taps.seen)

        for seen in pieces.map(len(own), look):
            for k, kinds in enumerate(seen):
                for kind, sums in enumerate(kinds):
                    name = f"{k}/{kind}"
                    total.setdefault(name, torch.zeros((len(real.counts), *sums.shape), dtype=torch.float64))[c] += sums.cpu()
    return total


def _sums(h: Tensor, side: int | None) -> Sums:
    found = [_of(moments(h), h.numel() // h.shape[1])]
    if side is not None:
        found.append(_of(patch_moments(h, side), h.shape[0] * h.shape[1] * side**2))
    return found


def _of(chunk: Moments, n: int) -> Tensor:
    """(3, groups) of the moments of a chunk, n numbers to a group."""
    mean, var = (t.double() for t in chunk)
    return torch.stack([torch.full_like(mean, n), n * mean, n * (var + mean.square())])


def fingerprint(net: nets.Net) -> str:
    """sha256 of a net's weights and statistics."""
    digest = hashlib.sha256()
    for name, value in net.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
