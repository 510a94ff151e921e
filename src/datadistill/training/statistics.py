"""What a teacher's layers say of each class of T: one pass over the real data, kept by `run.cached`."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from .. import nets
from ..data.task import Real
from ..match.batch_norm import Moments
from ..memory import Pieces
from ..nets.taps import Taps
from ..run import Run
from .embedding import content_key
from .recover import with_batch_norm

CHUNK = 256


def class_moments(net: nets.Net, real: Real, run: Run) -> list[Moments]:
    """Of each batch norm's input: mean and biased variance per class and channel, (classes, channels), over the class's examples
    and their positions. A class without examples has those of all.
    """
    layers = with_batch_norm(net)
    key = content_key(real, run, teacher=fingerprint(net), what="class moments")
    kept = run.cached("statistics", key, lambda: _measured(net, real, run, layers))
    return [Moments(kept[f"mean/{k}"].to(run.device), kept[f"var/{k}"].to(run.device)) for k in range(len(layers))]


@torch.no_grad()
def _measured(net: nets.Net, real: Real, run: Run, layers: list[torch.nn.Module]) -> dict[str, Tensor]:
    taps = Taps(layers, _sums)
    total: list[Tensor] = []
    pieces = Pieces(CHUNK, "chunk of real examples", run.notes)
    for c in run.steps(len(real.counts), label="measuring classes"):
        own = real.indices(c)

        def look(piece: slice, own: Tensor = own) -> list[Tensor]:
            with taps:
                net(real.read(own[piece]).to(run.device))
            return list(taps.seen)

        parts = pieces.map(len(own), look)
        if not total:
            total = [torch.zeros((len(real.counts), *s.shape), dtype=torch.float64) for s in (parts[0] if parts else look(slice(0, 0)))]
        for k in range(len(layers)):
            for part in parts:
                total[k][c] += part[k].cpu()
    out = {}
    for k, sums in enumerate(total):
        sums = torch.where(sums[:, :1, :1] > 0, sums, sums.sum(0))
        n, first, second = sums.unbind(1)
        out[f"mean/{k}"] = (first / n).float()
        out[f"var/{k}"] = (second / n - (first / n).square()).clamp(min=0).float()
    return out


def _sums(h: Tensor) -> Tensor:
    """(3, channels) float64: how many numbers, their sum, the sum of their squares."""
    flat = h.transpose(0, 1).flatten(1).double()
    return torch.stack([torch.full_like(flat[:, 0], flat.shape[1]) if flat.shape[1] else flat.new_zeros(len(flat)), flat.sum(1), flat.square().sum(1)])


def fingerprint(net: nets.Net) -> str:
    """sha256 of a net's weights and statistics."""
    digest = hashlib.sha256()
    for name, value in net.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
