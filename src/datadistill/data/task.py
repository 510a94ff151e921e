"""What a method is given: real data held once as stored, a budget, and no test split."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput, UsageError
from ..modalities import Modality
from ..replay import sent
from ..text import safe
from .ondisk import OnDisk
from .standin import Standin


class Real:
    """A split of the real set T, held once, as stored (uint8 pixels, table cells), in memory or in a file; read in pieces, on demand.

    stored  (N, *spec.stored), a tensor or what is indexed like one      labels  (N,) int64, class numbers
    """

    def __init__(self, stored: Tensor | OnDisk | Standin, labels: Tensor, modality: Modality):
        if len(stored) != len(labels):
            raise BadInput(f"{len(stored)} examples but {len(labels)} labels", "one label per example")
        self.stored, self.labels, self.modality = stored, labels.long(), modality
        self._copies: dict[torch.device, Tensor] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_copies": {}}

    @cached_property
    def counts(self) -> Tensor:
        """(classes,) how many examples each class has."""
        return torch.bincount(self.labels, minlength=len(self.modality.spec.classes))

    @cached_property
    def _by_class(self) -> list[Tensor]:
        return list(torch.argsort(self.labels, stable=True).split(self.counts.tolist()))

    def indices(self, c: int) -> Tensor:
        """Where class c stands, in order."""
        return self._by_class[c]

    def read(self, indices: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """(n, *spec.shape) float32 in network space, on the device. A GPU gets a copy of what is stored, once, if that takes a quarter of its free
        memory at most; else what is asked for travels as it is stored."""
        held = self._near(torch.device(device))
        if not isinstance(held, Tensor):
            return self.modality.read(sent(held[indices.cpu()], device))
        return self.modality.read(sent(held.index_select(0, sent(indices, held.device)), device))  # several times as fast as [indices]

    def _near(self, device: torch.device) -> Tensor | OnDisk | Standin:
        """All that is stored, where it is nearest to the device."""
        if device.type != "cuda" or not isinstance(self.stored, Tensor):
            return self.stored
        if device not in self._copies:
            fits = 4 * self.stored.nbytes <= torch.cuda.mem_get_info(device)[0]
            self._copies[device] = self.stored.to(device) if fits else self.stored
        return self._copies[device]

    def pick(self, c: int, n: int, rng: torch.Generator) -> Tensor:
        """min(n, N_c) indices of class c, without replacement."""
        own = self.indices(c)
        return own[torch.randperm(len(own), generator=rng)[:n]]

    def draw(self, c: int, n: int, rng: torch.Generator) -> Tensor:
        """min(n, N_c) examples of class c in network space, without replacement: B_T of the papers."""
        return self.read(self.pick(c, n, rng))

    def expect(self, indices: Tensor) -> None:
        """Say that these will be read next: what lies on a disk is fetched meanwhile."""
        if isinstance(self.stored, OnDisk):
            self.stored.expect(indices)

    def subset(self, indices: Tensor) -> Real:
        stored = self.stored[indices] if isinstance(self.stored, Tensor) else self.stored.take(indices)
        return Real(stored, self.labels[indices], self.modality)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the stored bytes and labels, in order; of examples that stand for others, of those that are held."""
        digest = hashlib.sha256()
        stored = self.stored.pool if isinstance(self.stored, Standin) else self.stored
        for values in (stored, self.labels):
            some = max(1, (8 << 20) // max(1, values[:1].numel() * values.element_size()))
            for start in range(0, len(values), some):
                digest.update(values[start : start + some].contiguous().numpy().reshape(-1).view("uint8"))
        return digest.hexdigest()


@dataclass(frozen=True)
class Budget:
    """How many synthetic examples each class gets. Exactly one of `size`, `ratio`, `bytes` or an integer/dict `ipc` sets the
    total; `ipc="sqrt"` or `"proportional"` sets how a total is shared (alone: the square root of each class's count, and 1%).

    ipc    int: per class; {class name: n}; "sqrt"; "proportional"
    size   examples in all       ratio  of the real training set's examples       bytes  of samples and labels as stored
    """

    ipc: int | str | Mapping[str, int] | None = None
    size: int | None = None
    ratio: float | None = None
    bytes: int | None = None

    def __post_init__(self) -> None:
        totals = [n for n in ("size", "ratio", "bytes") if getattr(self, n) is not None]
        shared = self.ipc in (None, "sqrt", "proportional") if not isinstance(self.ipc, Mapping) else False
        if len(totals) > 1 or (totals and not shared) or (not totals and self.ipc is None):
            raise UsageError(
                f"the budget is given by {['ipc'] * (self.ipc is not None) + totals or 'nothing'}",
                "one of ipc (a number or 'cat=3,dog=10'), size, ratio or bytes; ipc 'sqrt' or 'proportional' may go with a total",
                "--ipc 10",
            )
        if isinstance(self.ipc, str) and self.ipc not in ("sqrt", "proportional"):
            raise UsageError(f"ipc {safe(self.ipc)!r}", "a number, 'sqrt', 'proportional' or 'cat=3,dog=10'", "--ipc 10")
        values = list(self.ipc.values()) if isinstance(self.ipc, Mapping) else [self.ipc]
        values = [v for v in values + [self.size, self.ratio, self.bytes] if v is not None and not isinstance(v, str)]
        if any(not v > 0 for v in values):
            raise UsageError(f"a budget of {min(values)}", "a positive number", "--ipc 10")

    def share(self, real: Real, labels: tuple[int, int] = (0, 0)) -> Tensor:
        """(classes,) items for each class: at least one, never more than the class has. labels: bytes that they take beside the class, of each
        item and of the whole set; for `bytes`.
        """
        each, whole = item_bytes(real) + labels[0], labels[1]
        counts = real.counts
        if isinstance(self.ipc, Mapping):
            return torch.minimum(self._named(real), counts)
        if isinstance(self.ipc, int):
            return counts.clamp(max=self.ipc)
        weight = {"sqrt": counts.double().sqrt(), "proportional": counts.double(), None: torch.ones_like(counts, dtype=torch.double)}[self.ipc]
        if self.size is not None:
            total = self.size
        elif self.ratio is not None:
            total = round(self.ratio * len(real))
        elif self.bytes is not None:
            total = max(0, self.bytes - whole) // each
        else:
            total = round(float(weight.sum())) if self.ipc == "sqrt" else round(0.01 * len(real))
            total = max(total, len(counts))
        if total < len(counts):
            raise UsageError(
                f"a budget of {total} items for {len(counts)} classes",
                "at least one item per class",
                f"--size {len(counts)}" if self.bytes is None else f"--bytes {whole + len(counts) * each}",
            )
        return _apportion(min(total, int(counts.sum())), weight, counts)

    def _named(self, real: Real) -> Tensor:
        assert isinstance(self.ipc, Mapping)
        classes = real.modality.spec.classes
        unknown = [name for name in self.ipc if name not in classes]
        missing = [name for name in classes if name not in self.ipc]
        if unknown or missing:
            odd = [safe(n) for n in (unknown or missing)[:5]]
            raise UsageError(
                f"--ipc names {'unknown' if unknown else 'no number for'} class{'es' * (len(odd) > 1)} {', '.join(odd)}",
                f"each of the classes {', '.join(safe(c) for c in classes[:20])}",
            )
        return torch.tensor([self.ipc[name] for name in classes])


def item_bytes(real: Real) -> int:
    """Bytes of one stored example with its hard label (int64 class numbers are stored in the fewest bytes that hold them)."""
    return real.stored[0].numel() * real.stored.element_size() + label_bytes(len(real.modality.spec.classes))


def label_bytes(classes: int) -> int:
    """Bytes of one hard label as stored: 1 up to 256 classes, else 2 up to 32,768, else 4."""
    return 1 if classes <= 256 else 2 if classes <= 32_768 else 4


def _apportion(total: int, weight: Tensor, most: Tensor) -> Tensor:
    """`total` shared by weight: one for each first, the rest by largest remainder, nobody over `most`."""
    share = torch.ones_like(most)
    while (left := total - int(share.sum())) > 0:
        open_ = share < most
        goal = torch.where(open_, weight, 0.0)
        goal = goal / goal.sum() * left
        extra = torch.minimum(goal.floor().long(), most - share)
        if int(extra.sum()) == 0:  # hand out the last ones by largest remainder; ties go to the first class
            order = torch.argsort(torch.where(open_, goal, -1.0), descending=True, stable=True)
            extra = torch.zeros_like(most)
            extra[order[: min(left, int(open_.sum()))]] = 1
        share = share + extra
    return share


@dataclass(frozen=True)
class Task:
    """What a method sees: train and val, how many items each class gets, and by construction no test split.

    quota  (classes,) synthetic items per class      labels  (n,) the class number of each, in class order
    """

    train: Real
    val: Real
    quota: Tensor

    @classmethod
    def of(cls, train: Real, val: Real, budget: Budget, labels: tuple[int, int] = (0, 0)) -> Task:
        """The task that a budget makes; labels: see `Budget.share`."""
        return cls(train, val, budget.share(train, labels))

    @property
    def modality(self) -> Modality:
        return self.train.modality

    @property
    def spec(self):
        return self.modality.spec

    @property
    def classes(self) -> range:
        return range(len(self.spec.classes))

    @property
    def labels(self) -> Tensor:
        return torch.repeat_interleave(torch.arange(len(self.quota)), self.quota)
