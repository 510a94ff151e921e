"""Experts: nets trained on T, of which every epoch's parameters are kept. Trajectory methods match segments of these.

Every epoch of an expert is an entry of the cache, named by all that decides it: the real data, the seed, the net, the recipe and
the expert's number, but not how many epochs or experts are wanted. So experts made ahead serve every method with the same recipe,
a method whose last target is epoch 2 does not pay for a third, one that is stopped loses at most an epoch, and a step reads the
two that it needs. Snapshots are float32: differences between epochs in float16 keep 11 bits, which moves a target by up to 1/2000
of the segment and makes nothing exact, for half the disk.
Experts are trained in turn, or by as many workers as there are; stacked by torch.func, ConvNets take up to twice as long each on a CPU.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import nets
from ..data.task import Real
from ..errors import UsageError
from ..match.pieces import gradients
from ..match.trajectory import gsam
from ..memory import Pieces
from ..modalities import Augmentation
from ..replay import Replay
from ..run import Run
from .embedding import content_key, narrow
from .unroll import Flat


@dataclass(frozen=True)
class Teaching:
    """How an expert is trained: plain SGD at a constant rate, so that a longer trajectory begins with the shorter one.

    batch        at most: on a small set it is smaller, so that an epoch has 80 steps, or batches of 8
    rho, alpha   GSAM, for flat minima (FTD): the radius of the perturbation, and the share of the orthogonal part; rho 0: none
    """

    lr: float = 0.01
    batch: int = 256
    momentum: float = 0.0
    augment: bool = True
    rho: float = 0.0
    alpha: float = 0.0


class Experts:
    """`count` experts of one net family on a real set, made when asked for and kept by `run.cached`.

    net, width   the family and its size (none: the family's own)      room   bytes of snapshots held in memory
    """

    def __init__(self, real: Real, run: Run, *, net: str, width: int | None = None, count: int = 100, teaching: Teaching | None = None, room: int = 2**30):
        if net in nets.FAMILIES and nets.FAMILIES[net].batch_norm:
            good = [name for name in real.modality.nets if not nets.FAMILIES[name].batch_norm]
            raise UsageError(f"experts of net {net!r}, which has batch norm", f"a net without it: {' or '.join(good)}", f"net={good[0]}")
        how = teaching or Teaching()
        self.real, self.run, self.count = real, run, count
        self.teaching = replace(how, batch=min(how.batch, max(8, len(real) // 80)))
        self.per_epoch = -(-len(real) // self.teaching.batch)
        self.family, self.width = net, width
        self.net = Flat(self._build(0).to(run.device))
        self._held: OrderedDict[tuple[int, int], Tensor] = OrderedDict()
        self._room = max(1, room // (4 * len(self.net)))

    def _build(self, k: int) -> nets.Net:
        return narrow(self.family, self.real.modality.spec, self.width, self.run.rng("expert", k))

    def missing(self, epochs: int, has: Callable[[str, str], bool]) -> tuple[int, int]:
        """(bytes on the disk, training steps) of what has(name, key) does not know of epochs 1..epochs."""
        new = sum(not has("expert", self._key(k, epoch)) for k in range(self.count) for epoch in range(1, epochs + 1))
        return new * len(self.net) * 4, new * self.per_epoch

    def prepare(self, epochs: int) -> None:
        """Make what is missing of epochs 1..epochs; an expert's epoch is a unit, which begins where the epoch before ends."""
        for epoch in range(1, epochs + 1):
            for _ in self.run.each("training experts", Begun(self, epoch), self._train, steps=self.per_epoch, keys=lambda k, epoch=epoch: ("expert", self._key(k, epoch))):
                pass

    def at(self, k: int, epoch: int) -> Tensor:
        """(P,) expert k's parameters after so many epochs."""
        where = (k, epoch)
        if where not in self._held:
            self._held[where] = self._entry(k, epoch)["theta"].to(self.run.device)
            while len(self._held) > self._room:
                self._held.popitem(last=False)
        self._held.move_to_end(where)
        return self._held[where]

    def segment(self, rng: torch.Generator, starts: range, length: int) -> tuple[Tensor, Tensor]:
        """(theta*_t, theta*_{t+length}) of an expert and a start t from `starts`, both drawn at random."""
        k = int(torch.randint(self.count, (), generator=rng))
        t = starts[int(torch.randint(len(starts), (), generator=rng))]
        return self.at(k, t), self.at(k, t + length)

    def _key(self, k: int, epoch: int) -> str:
        return content_key(self.real, self.run, net=[self.family, self.net.shapes], teaching=asdict(self.teaching), expert=k, epoch=epoch)

    def _entry(self, k: int, epoch: int) -> dict[str, Tensor]:
        if epoch == 0:
            return {"theta": Flat.of(self._build(k))}
        return self.run.cached("expert", self._key(k, epoch), lambda: self._train(self.run, Begun(self, epoch)[k]))

    def _train(self, run: Run, begun: tuple[int, int, Tensor, Tensor | None]) -> dict[str, Tensor]:
        """theta (P,) after this epoch, and velocity (P,), if there is momentum."""
        k, epoch, theta, velocity = begun
        theta, velocity = theta.to(run.device), None if velocity is None else velocity.to(run.device)
        order = torch.randperm(len(self.real), generator=self.run.rng("expert", k, "order", epoch)).split(self.teaching.batch)
        slope = self._slope(run)
        for step in run.steps(self.per_epoch, label=f"training expert {k + 1} of {self.count}, epoch {epoch}"):
            theta, velocity = self._step(theta, velocity, order[step], (k, epoch, step), slope)
        return {"theta": theta.cpu(), **({} if velocity is None else {"velocity": velocity.cpu()})}

    def _slope(self, run: Run) -> Replay:
        """(theta, x (n, *shape), the class of each, omega or none) -> the direction that theta goes along."""
        pieces = Pieces(self.teaching.batch, "batch of experts", run.notes)

        def slope(theta: Tensor, x: Tensor, y: Tensor, omega: Augmentation | None) -> Tensor:
            n = len(x)
            shown = x if omega is None else omega(x, torch.arange(n, device=x.device))

            def gradient_at(w: Tensor) -> Tensor:
                leaf = w.detach().requires_grad_()
                return gradients(pieces, n, lambda piece: F.cross_entropy(self.net(leaf, shown[piece]), y[piece], reduction="sum") / n, [leaf])[1][0]

            how, g = self.teaching, gradient_at(theta)
            return gsam(theta, g, gradient_at, how.rho, how.alpha) if how.rho > 0 else g

        return Replay(slope, run.device, run.notes)

    def _step(self, theta: Tensor, velocity: Tensor | None, rows: Tensor, key: Iterable[int], slope: Replay) -> tuple[Tensor, Tensor | None]:
        omega = self.real.modality.augment(self.run.rng("expert", *key, "omega"), len(rows)) if self.teaching.augment else None
        how, g = self.teaching, slope(theta, self.real.read(rows, self.run.device), self.real.labels[rows], omega)
        if how.momentum:
            velocity = g.clone() if velocity is None else how.momentum * velocity + g
            g = velocity
        return theta - how.lr * g, velocity


class Begun(Sequence):
    """Of each expert: its number, the epoch, and theta (P,) and velocity (P,) or none, with which that begins; read when asked for."""

    def __init__(self, experts: Experts, epoch: int):
        self.experts, self.epoch = experts, epoch

    def __len__(self) -> int:
        return self.experts.count

    def __getitem__(self, k: int) -> tuple[int, int, Tensor, Tensor | None]:
        before = self.experts._entry(k, self.epoch - 1)
        return k, self.epoch, before["theta"], before.get("velocity")
