"""What methods share that match S to T through a net: hyper-parameters, real batches, and the way of a gradient back to S."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from .. import dist, nets
from ..data.task import Task
from ..errors import UsageError
from ..match.clusters import representative
from ..memory import Pieces
from ..modalities import Augmentation, Modality
from ..precision import Precision, computing
from ..replay import sent
from ..rng import seed_of
from ..run import Run
from ..synthetic import Start, SyntheticSet, forms
from ..training.embedding import narrow
from .base import Method

Sampling = Literal["random", "representative"]

ADAM = {"optimizer": "adam", "lr": 0.02, "momentum": 0.9}  # of quick settings, for pictures of any size
SGD = {"optimizer": "sgd", "momentum": 0.5}  # for tables, where the quick settings of pictures have ADAM


@dataclass(frozen=True, kw_only=True)
class Matching(Method):
    """A method that moves S so that, through a net, it looks like T. Abstract: the hyper-parameters that all of them have."""

    needs: ClassVar = frozenset({"continuous"})
    scales_over: ClassVar = "classes"
    papers_form: ClassVar[str] = "pixels"
    decays: ClassVar = frozenset({"momentum"})

    iterations: int
    lr: float  # on the synthetic items, in network space
    optimizer: Literal["sgd", "adam"] = "sgd"  # of S; adam's steps do not depend on ipc, width and the size of pictures (its lr: 0.02 or so)
    momentum: float = 0.5  # of sgd; adam's first beta
    real_batch: int = 256  # |B_T|, per class
    net: str = "auto"  # auto: the modality's first
    width: int | None = None  # none: the family's own, which is the papers' 128 for a convnet
    init: Start = "real"  # representative: real examples in the middle of their class's clusters
    augment: bool = True  # omega, the same for the real and the synthetic examples of a class
    form: str = "pixels"  # what is stored: pixels, multiform:2, ... (see synthetic/forms.py); auto: the paper's, where the data allow it
    sampling: Sampling = "random"  # representative: DREAM's (Liu et al., ICCV 2023), see `Batches`
    precision: Precision = "float32"  # of convolutions; bfloat16 is faster in wide nets, on devices that have instructions for it
    chunk: int | None = None  # examples through the net at once, a knob for memory that changes no result; none: what fits the caches

    def check(self, modality: Modality) -> None:
        super().check(modality)
        forms.check(self.form_for(modality), modality)
        without_batch_norm(self, modality)

    def form_for(self, modality: Modality) -> str:
        """The `form` field, where "auto" is the paper's, or pixels for data that it cannot take and for pictures smaller than the papers' smallest."""
        if self.form != "auto":
            return self.form
        return self.papers_form if forms.holds_grids(modality) else "pixels"

    def start(self, task: Task, run: Run) -> SyntheticSet:
        """S at the beginning, on the run's device."""
        self.check(task.modality)
        if dist.ranks() > len(task.classes):
            raise UsageError(f"{dist.ranks()} processes to share {len(task.classes)} classes", f"at most {len(task.classes)}")
        return SyntheticSet.init(task, self.init, run.rng("init"), self.form_for(task.modality)).to(run.device)

    def optimizer_for(self, syn: SyntheticSet, scale: float = 1.0) -> torch.optim.Optimizer:
        """Of S: Adam at rate lr, or SGD at so many times lr."""
        if self.optimizer == "adam":
            return torch.optim.Adam(syn.parameters(), lr=self.lr, betas=(self.momentum, 0.999))
        return torch.optim.SGD(syn.parameters(), lr=self.lr * scale, momentum=self.momentum)

    def network(self, task: Task, run: Run, *key: str | int) -> nets.Net:
        """A freshly initialised net, named by the key, on the run's device."""
        return narrow(self.net_for(task.modality), task.spec, self.width, run.rng(*key)).to(run.device)

    def omega(self, task: Task, run: Run, *key: str | int) -> Augmentation:
        """One draw for each class; or none."""
        return task.modality.augment(run.rng(*key), len(task.classes)) if self.augment else as_it_is

    def through(self, part: Callable[[Tensor], Tensor], omega: Augmentation) -> Callable[[Tensor, Tensor], Tensor]:
        """x (n, *shape), the class of each (n,) -> part(omega(x)), where part is what of a net is looked at, computed in `precision`."""

        def seen(x: Tensor, c: Tensor) -> Tensor:
            shown = omega(x, c)
            with computing(self.precision, x.device):
                return part(shown).to(x.dtype)

        return seen

    def pieces(self, task: Task, run: Run) -> Pieces:
        """Pieces of `chunk` examples, or of so many that the net's largest activation fits the caches."""
        return pieces_for(self.network(task, run, "chunk"), task, run, self.chunk)


class Fresh:
    """A network that is drawn anew for every step, and whose weights stay where they are. On a GPU they come by one copy."""

    def __init__(self, method: Matching, task: Task, run: Run):
        self.run, self.drawn = run, narrow(method.net_for(task.modality), task.spec, method.width, run.rng("fresh")).requires_grad_(False)
        self.net = self.drawn if run.device.type == "cpu" else copy.deepcopy(self.drawn).to(run.device)

    def draw(self, *key: str | int) -> nets.Net:
        """The network of this name."""
        nets.initialise_(self.drawn, self.run.rng(*key))
        if self.net is not self.drawn:
            nets.take_(self.net, self.drawn)
        return self.net


def pieces_for(net: nets.Net, task: Task, run: Run, chunk: int | None = None) -> Pieces:
    """`chunk` examples at once; where none is given so many that the net's largest activation takes 16 MiB on a CPU, or 1 GiB on a GPU."""
    room = 2**24 if run.device.type == "cpu" else 2**30
    return Pieces(chunk or max(1, min(4096, room // nets.largest_activation(net, task.spec.shape))), "piece", run.notes)


def without_batch_norm(method: Method, modality: Modality) -> None:
    """Refuse a net whose output for an example depends on what else is in the batch."""
    family = method.net_for(modality)
    if family in nets.FAMILIES and nets.FAMILIES[family].batch_norm:
        good = [name for name in modality.nets if not nets.FAMILIES[name].batch_norm]
        raise UsageError(f"{method.name} through net {family!r}, which has batch norm, on {modality.name} data", f"a net without it: {' or '.join(good)}", f"--set net={good[0]}")


def as_it_is(x: Tensor, group: Tensor) -> Tensor:
    """No augmentation."""
    return x


class Batches(nn.Module):
    """B_T: of each class of this rank, `size` real examples or all that it has.

    random           drawn without replacement at every step
    representative   those nearest to the centres of `size` k-means clusters of the class in the net's features, found again
                     every `every` steps and kept between (DREAM, see match/clusters.py). It is a module so that a run saves
                     what it keeps.
    """

    def __init__(self, task: Task, run: Run, size: int, sampling: Sampling = "random", every: int = 10):
        super().__init__()
        self.task, self.run, self.size, self.sampling, self.every = task, run, size, sampling, every
        self.own = run.share(task.classes)
        self.register_buffer("kept", torch.zeros(sum(self._size(c) for c in self.own), dtype=torch.long))

    def _size(self, c: int) -> int:
        return min(self.size, int(self.task.train.counts[c]))

    def draw(self, step: int, net: nets.Net, pieces: Pieces) -> list[tuple[int, Tensor]]:
        """(class, (k,) indices into task.train) of each class of this rank, for this step."""
        if self.sampling == "random":
            return [(c, self.task.train.pick(c, self.size, self.run.rng("real", step, c))) for c in self.own]
        if step % self.every == 0:
            self.kept = torch.cat([torch.empty(0, dtype=torch.long), *(self._representative(c, step, net, pieces) for c in self.own)])
        return list(zip(self.own, self.kept.split([self._size(c) for c in self.own]), strict=True))

    @torch.no_grad()
    def _representative(self, c: int, step: int, net: nets.Net, pieces: Pieces) -> Tensor:
        real, indices = self.task.train, self.task.train.indices(c)
        if len(indices) <= self.size:
            return indices
        features = torch.cat(pieces.map(len(indices), lambda piece: net.embed(real.read(indices[piece], self.run.device)).cpu()))
        return indices[representative(features, self.size, seed_of(self.run.seed, "representative", step, c))]


def cool(optimizer: torch.optim.Optimizer, share: Callable[[int], float], it: int) -> None:
    """Before step `it`: the rate of the step before becomes what share, the part of the first rate that is left, says; a rate that the run has halved stays halved."""
    if it:
        for group in optimizer.param_groups:
            group["lr"] *= share(it) / share(it - 1)


def descend(run: Run, optimizer: torch.optim.Optimizer, syn: SyntheticSet, examples: Tensor, value: Tensor, gradient: Tensor,
            others: Sequence[Tensor] = (), gradients: Sequence[Tensor] = ()) -> Tensor:  # fmt: skip
    """A step of S, kept legal, and of `others`, down a loss of this value; `gradient` is by `examples`, syn.examples(...) as it was, `gradients` by `others`."""

    def backward() -> Tensor:
        torch.autograd.backward(examples, gradient)
        for p, g in zip(others, gradients, strict=True):
            p.grad = g
        return value

    value = run.descend(optimizer, backward)
    syn.clamp_()
    return value


def own_items(task: Task, run: Run, syn: SyntheticSet) -> tuple[Tensor, Tensor]:
    """(the items of this rank's classes, where S is; the class of each of their examples)"""
    items = torch.isin(syn.y, torch.tensor(run.share(task.classes))).nonzero().squeeze(1)
    return items.to(run.device), syn.y[items].repeat_interleave(syn.each)


Batch = tuple[Tensor, Augmentation | None, Tensor]
"""x (n, *shape), omega with a draw for each, and y (n,)."""


def minibatches(task: Task, x: Tensor, y: Tensor, epochs: int, batch: int, augment: bool, rng: Callable[..., torch.Generator]) -> Iterator[Batch]:
    """Shuffled batches of a small set, epoch after epoch, each example augmented by itself; rng(*key) names the draws."""
    for epoch in range(epochs):
        for k, rows in enumerate(torch.randperm(len(y), generator=rng("order", epoch)).split(batch)):
            omega = task.modality.augment(rng("shown", epoch, k), len(rows)) if augment else None
            yield x[sent(rows, x.device)], omega, y[rows]
