"""Backbones that are trained without labels, and a linear probe of what they say.

SimCLR (Chen et al., ICML 2020): of two views of every example in a batch, each is to find the other among all views,
    L = mean_i - log softmax_k(z_i . z_k / tau)[partner of i], k != i;     z = projector(psi(view)) on the unit sphere
The projector is thrown away. It stands for the self-supervised nets of the literature (MoCo, SwAV, DINO), which are trained for
days; views are crops and flips, then one operation of the modality's own augmentation.

Like a teacher, a backbone is made in blocks of epochs, each an entry of the cache: one that is stopped loses at most a block.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init  # draws nothing

from .. import nets, precision
from ..data.task import Real
from ..labels.views import visible
from ..memory import Pieces
from ..run import Run
from .embedding import content_key, narrow
from .recover import jittered
from .statistics import fingerprint
from .teachers import BLOCKS, Squeeze, State, part

CHUNK = 256  # examples embedded at once


@dataclass(frozen=True)
class Contrast:
    """How a backbone is trained: batches without replacement, SGD, a warm-up and a half cosine. tau: temperature; crop: the least share of the area."""

    epochs: int = 100
    batch: int = 256
    lr: float = 0.1
    weight_decay: float = 5e-4
    tau: float = 0.5
    crop: float = 0.2
    flip: bool = True
    projection: int = 128


def backbone(real: Real, run: Run, how: Contrast, *, net: str, width: int | None = None) -> nets.Net:
    """A net that was trained on T without its labels, once (kept by `run.cached`): frozen, in eval mode, its head untrained."""
    psi = narrow(net, real.modality.spec, width, run.rng("backbone", net)).to(run.device)
    block: int = -(-how.epochs // BLOCKS)
    state: State | None = None
    for k in range(-(-how.epochs // block)):
        key = content_key(real, run, net=[net, width], contrast=asdict(how), block=k)
        epochs = range(k * block, min((k + 1) * block, how.epochs))
        state = run.cached("backbone", key, lambda epochs=epochs, state=state: _train(psi, real, run, how, epochs, state))
    psi.load_state_dict(part(state or {}, "psi"))
    return psi.eval().requires_grad_(False)


def _train(psi: nets.Net, real: Real, run: Run, how: Contrast, epochs: range, before: State | None) -> State:
    features = psi.head.in_features
    projector = nn.Sequential(skip_init(nn.Linear, features, features), nn.ReLU(inplace=True), skip_init(nn.Linear, features, how.projection))
    nets.initialise_(projector, run.rng("backbone", "projector"))
    both = nn.ModuleDict({"psi": psi.requires_grad_(True).train(), "projector": projector.to(run.device)})
    parameters = [p for name, p in both.named_parameters() if not name.startswith("psi.head.")]
    optimizer = torch.optim.SGD(parameters, lr=how.lr, momentum=0.9, nesterov=True, weight_decay=how.weight_decay)
    if before is not None:
        psi.load_state_dict(part(before, "psi"))
        projector.load_state_dict(part(before, "projector"))
        for k, p in enumerate(parameters):
            optimizer.state[p] = {"momentum_buffer": before[f"momentum/{k}"].clone().to(run.device)}
    size = min(how.batch, len(real))
    per_epoch = len(real) // size
    rates = Squeeze(lr=how.lr)
    shuffled, order = -1, torch.empty(0)
    for step in run.steps(len(epochs) * per_epoch, label=f"training a backbone without labels, epochs {epochs.start + 1} to {epochs.stop} of {how.epochs}"):
        epoch, at = epochs.start + step // per_epoch, step % per_epoch
        if shuffled != epoch:
            order, shuffled = torch.randperm(len(real), generator=run.rng("backbone", "order", epoch)), epoch
        x = real.read(order[at * size : (at + 1) * size], run.device)
        optimizer.param_groups[0]["lr"] = rates.lr_at(epoch * per_epoch + at, how.epochs * per_epoch)
        optimizer.zero_grad(set_to_none=True)
        views = [_view(x, real, how, run.rng("backbone", "view", side, epoch, at)) for side in range(2)]
        with precision.training(run.device):
            z = projector(psi.embed(torch.cat(views)))
        contrast(z.float(), how.tau).backward()
        optimizer.step()
    state = {f"momentum/{k}": optimizer.state[p]["momentum_buffer"] for k, p in enumerate(parameters)} | both.state_dict()
    return {name.replace("psi.", "psi/", 1).replace("projector.", "projector/", 1): t.detach().clone().cpu() for name, t in state.items()}


def _view(x: Tensor, real: Real, how: Contrast, rng: torch.Generator) -> Tensor:
    return real.modality.augment(rng, len(x))(jittered(x, visible(how.crop, x.shape[2:]), 0, how.flip, rng), torch.arange(len(x)))


def contrast(z: Tensor, tau: float) -> Tensor:
    """NT-Xent of z (2 n, d), where row i and row i + n are views of one example."""
    z = F.normalize(z, dim=1)
    alike = (z @ z.T / tau).fill_diagonal_(-torch.inf)
    return F.cross_entropy(alike, torch.arange(len(z), device=z.device).roll(len(z) // 2))


@torch.no_grad()
def probed(psi: nets.Net, real: Real, run: Run, epochs: int = 30, batch: int = 256, lr: float = 0.1) -> nets.Net:
    """psi with a head that was trained on T's labels, on features that stay as they are (kept by `run.cached`)."""
    key = content_key(real, run, backbone=fingerprint(psi), probe=[epochs, batch, lr])
    psi.head.load_state_dict(run.cached("probe", key, lambda: _probe(psi, real, run, epochs, batch, lr)))
    return psi


def _probe(psi: nets.Net, real: Real, run: Run, epochs: int, batch: int, lr: float) -> dict[str, Tensor]:
    """Softmax regression by SGD on standardised features, brought back to features as they are."""
    with torch.no_grad():
        seen = Pieces(CHUNK, "chunk of examples to embed", run.notes).map(len(real), lambda piece: psi.embed(real.read(torch.arange(len(real))[piece], run.device)).float().cpu())
        h = torch.cat(seen)
        mean, deviation = h.mean(0), h.std(0, correction=0).clamp(min=1e-6)
        h = (h - mean) / deviation
    head = skip_init(nn.Linear, h.shape[1], psi.head.out_features)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.SGD(head.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)
    rates, size = Squeeze(lr=lr), min(batch, len(real))
    per_epoch = len(real) // size
    for step in run.steps(epochs * per_epoch, label="training a linear probe"):
        epoch, at = divmod(step, per_epoch)
        if at == 0:
            order = torch.randperm(len(real), generator=run.rng("probe", "order", epoch))
        rows = order[at * size : (at + 1) * size]
        optimizer.param_groups[0]["lr"] = rates.lr_at(step, epochs * per_epoch)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(head(h[rows]), real.labels[rows]).backward()
        optimizer.step()
    weight = head.weight.detach() / deviation
    return {"weight": weight, "bias": head.bias.detach() - weight @ mean}
