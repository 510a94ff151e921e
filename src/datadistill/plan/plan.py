"""Seconds, memory and bytes of a distillation, predicted.

Up to DIRECT classes the method itself is begun on the whole task (`Probe`). With more it is begun on two small ones, of `some` classes and of
twice as many at least, with as many examples and items in each class as the real one has, and what is found is taken on in a straight line: how often
each loop goes round; how long a step takes, where the larger one's steps are slower; the bytes of tensors that are alive at once, counted one
by one, on top of what the larger one's process held; every side of every tensor, which gives its bytes exactly. A method whose cost grows faster than
its classes (kernels between all items) takes longer than is said.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import modalities
from ..data.ondisk import OnDisk
from ..data.standin import Standin
from ..data.task import Real, Task
from ..labels.base import smallest
from ..memory import Live, peak_bytes
from ..methods import Method
from ..synthetic.artifact import Artifact
from ..text import duration, size
from .probe import Probe

DIRECT = 16
EXAMPLES, UNIT = 512, 100  # real examples, and classes of which one item is recovered together, that make batches full
POOL = 256  # real examples that stand for all

Shape = tuple[int, torch.dtype, tuple[int, ...]]  # how many such tensors, their type and shape


@dataclass(frozen=True)
class Plan:
    """Predicted. seconds: of the method, between `low` and `high` as the steps that were timed differ (and a tenth, at least)

    loops     label -> (steps, seconds a step)         memory   the most that the process holds
    samples, labels   bytes of the artifact            cache    name -> bytes (teacher, expert, embedding, ...)
    read      (seconds, bytes on the disk) of decoding the source once       looked   seconds that finding out took
    """

    seconds: float
    low: float
    high: float
    loops: dict[str, tuple[int, float]]
    memory: int
    samples: int
    labels: int
    cache: dict[str, int]
    looked: float
    read: tuple[float, int] = (0.0, 0)
    notes: tuple[str, ...] = field(default=())

    @property
    def bytes(self) -> int:
        """Of the artifact, as a budget counts them."""
        return self.samples + self.labels

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "bytes": self.bytes}

    def lines(self) -> list[str]:
        """For a person."""
        lines = [f"time      about {duration(self.seconds)}, from {duration(self.low)} to {duration(self.high)}"]
        most = sorted(self.loops.items(), key=lambda loop: -loop[1][0] * loop[1][1])[:8]
        lines += [f"          {label}: {n:,} steps of {rate:.3g} s, {duration(n * rate)}" for label, (n, rate) in most if n * rate > 0]
        lines += [f"memory    {size(self.memory)}", f"artifact  {size(self.bytes)}: samples {size(self.samples)}, labels {size(self.labels)}"]
        lines += [f"cache     {size(n)} of {name}" for name, n in self.cache.items()]
        if self.read[1] or self.read[0] >= 1:
            lines.append(f"source    decoded once: about {duration(self.read[0])}, {size(self.read[1])} on the disk")
        return [*lines, *(f"note: {note}" for note in self.notes), f"(found out in {duration(self.looked)}; other work on the machine makes all of it slower)"]


@dataclass(frozen=True)
class Seen:
    """What a probe found on a task of so many classes."""

    classes: int
    seconds: float
    work: Mapping[str, tuple[int, float, float, float]]  # label -> steps, and the quartiles of the seconds of one
    memory: int  # the most that the process held
    alive: int  # the most bytes of tensors made by the method; counted where there are two to compare
    samples: dict[str, Shape]
    labels: dict[str, Shape]
    cache: dict[str, dict[str, Shape]]


def plan(method: Method, task: Task, *, seed: int = 0, device: str | torch.device = "cpu", budget: float = 20.0, clock: Callable[[], float] = time.perf_counter) -> Plan:
    """What `method.distill(task)` would cost. budget: seconds that steps may take while it is found out; each loop has one at least."""
    began, classes = clock(), len(task.classes)
    less = some(method, task)
    whole = classes <= (more := max(DIRECT, 2 * less))
    seen = [_look(method, task, seed, device, budget, clock)] if whole else [_look(method, few(task, c), seed, device, budget / 2, clock, count=True) for c in (less, more)]
    a, b = seen[0], seen[-1]

    def grown(one: float, other: float) -> float:
        return max(0.0, one if a.classes == b.classes else one + (other - one) * (classes - a.classes) / (b.classes - a.classes))

    loops, quartiles = {}, np.zeros(3)
    for label in a.work.keys() & b.work.keys():
        (n, *rates), (m, *others) = a.work[label], b.work[label]
        steps = round(grown(n, m))
        rate = [grown(one, other) for one, other in zip(rates, others, strict=True)] if others[0] > rates[2] else others
        loops[label] = (steps, rate[1])
        quartiles += steps * np.sort(rate)
    rest = grown(*(s.seconds - sum(n * rate for n, _, rate, _ in s.work.values()) for s in (a, b)))
    low, middle, high = (float(q + rest) for q in quartiles)

    def total(of: Callable[[Seen], dict[str, Shape]]) -> int:
        return sum(_bytes(_grown(of(a)[name], of(b)[name], a, b, classes), int(task.quota.sum()), classes) for name in of(a).keys() & of(b).keys())

    labels = total(lambda s: s.labels)
    line = [sum(math.prod(shape) * kind.itemsize * n for n, kind, shape in s.labels.values()) for s in (a, b)]
    beyond = max(0.0, labels - grown(*line))  # labels of all classes for all items grow with the square
    cache = {name: total(lambda s, name=name: s.cache.get(name, {})) for name in a.cache.keys() & b.cache.keys()}
    notes = () if whole else (f"from the same method on {a.classes} and {b.classes} classes, taken on in a straight line to {classes:,}",)
    return Plan(middle, min(low, 0.9 * middle), max(high, 1.1 * middle), loops, round(b.memory + max(0.0, grown(a.alive, b.alive) - b.alive) + beyond), total(lambda s: s.samples), labels,
                {name: n for name, n in cache.items() if n}, clock() - began, notes=notes)  # fmt: skip


def some(method: Method, task: Task) -> int:
    """How many classes are enough for batches to be full, so that more of them make more batches and not larger ones."""
    return max(4, math.ceil(EXAMPLES * len(task.classes) / len(task.train)), UNIT if method.scales_over == "items" else 0)


def few(task: Task, classes: int) -> Task:
    """A task of fewer classes, with as many examples and items in each as the real one has on average; its examples are some of the real ones."""
    modality = modalities.of(replace(task.spec, classes=task.spec.classes[:classes]))

    def real(whole: Real) -> Real:
        n = classes * round(len(whole) / len(task.classes))
        stored = whole.stored
        pool = stored.pool if isinstance(stored, Standin) else stored[:POOL] if isinstance(stored, OnDisk) else stored
        return Real(Standin(pool if len(pool) else task.train.stored[:1], np.arange(n)), torch.arange(n) % classes, modality)

    each = max(1, round(float(task.quota.double().mean())))
    return Task(real(task.train), real(task.val), torch.full((classes,), each))


def _look(method: Method, task: Task, seed: int, device: str | torch.device, budget: float, clock: Callable[[], float], count: bool = False) -> Seen:
    live = Live()
    if count:  # by itself, since it takes time
        with live:
            method.distill(task, Probe(seed, device=device, quota=task.quota.tolist(), budget=0.0, clock=clock))
    _forget_peak(device)
    probe = Probe(seed, device=device, quota=task.quota.tolist(), budget=budget, clock=clock)
    artifact = Artifact.of(method.distill(task, probe), {})
    seconds = probe.reckoned
    work = {label: (w.steps, *(float(q) for q in np.quantile(w.seconds, (0.25, 0.5, 0.75)))) for label, w in probe.work.items()}
    cache = {name: _shapes({f"{k}/{part}": t for k, entry in enumerate(entries) for part, t in entry.items()}) for name, entries in probe.kept.items()}
    return Seen(len(task.classes), seconds, work, peak_bytes(device), live.most, _shapes(artifact.tensors), _shapes(artifact.labels.tensors()), cache)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: (1, t.dtype, tuple(t.shape)) for name, t in tensors.items()}


def _grown(one: Shape, other: Shape, a: Seen, b: Seen, classes: int) -> Shape:
    """Each side of a tensor, taken on."""
    if a.classes == b.classes or len(one[2]) != len(other[2]):
        return other
    sides = [s + (t - s) * (classes - a.classes) // (b.classes - a.classes) for s, t in zip(one[2], other[2], strict=True)]
    return one[0], one[1], tuple(max(0, side) for side in sides)


def _bytes(shape: Shape, items: int, classes: int) -> int:
    """As stored; class numbers in the type that holds them all."""
    n, kind, sides = shape
    if kind is torch.uint8 and sides == (items,):
        kind = smallest(classes)
    return n * math.prod(sides) * kind.itemsize


def _forget_peak(device: str | torch.device) -> None:
    """Peaks before this do not count, where the system can be told so (Linux, CUDA)."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass


