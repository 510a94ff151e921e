"""The contract of `datadistill.testing`, over every method and every modality; and the contract itself, on methods that break it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import pytest
import torch
from cases import CASES
from torch import nn

from datadistill import methods, modalities
from datadistill.data.task import Task
from datadistill.errors import UsageError
from datadistill.labels import Hard
from datadistill.methods import Method, Paper
from datadistill.run import Run
from datadistill.synthetic import SyntheticSet
from datadistill.testing import CHECKS, check_method, tiny_tasks

TASKS = tiny_tasks()
METHODS = {m.name: m for m in methods.BUILT_IN}
EVERY = [pytest.param(name, case, id=f"{name}-{k}") for name in METHODS for k, case in enumerate(CASES.get(name, []))]


def test_every_method_has_a_tiny_case():
    for name in METHODS:
        assert name in CASES, f'the contract is not checked for {name!r}: add a line to tests/methods/cases.py, e.g. "{name}": [{{"iterations": 3}}],'
    assert set(CASES) <= set(METHODS), f"cases of methods that are not there: {set(CASES) - set(METHODS)}"


def test_every_modality_has_a_tiny_task():
    assert set(TASKS) == set(modalities.ALL)
    for name, task in TASKS.items():
        assert task.modality.name == name
        assert len(set(task.quota.tolist())) > 1 and not torch.equal(task.train.labels, task.train.labels.sort().values)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize(("name", "case"), EVERY)
def test_contract(name, case, task, check):
    check(methods.get(name, **case), task)


def test_the_best_coreset_is_chosen_among_all_selection_methods_but_random():
    assert methods.coresets() == [m.name for m in methods.BUILT_IN if m.family == "selection" and m.name != "random"]
    assert {"herding", "k-center", "k-means"} <= set(methods.coresets())


# -- the contract itself: each promise, broken once ---------------------------------------------------------------------


class Base(Method):
    """Honest in everything; the methods below each break one promise."""

    name: ClassVar = "broken"
    family: ClassVar = "selection"
    paper: ClassVar = Paper(title="(none)", venue="this test")

    def choose(self, task: Task, run: Run) -> torch.Tensor:
        return torch.cat([task.train.pick(c, int(task.quota[c]), run.rng("choose", c)) for c in task.classes])

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        return SyntheticSet.select(task, self.choose(task, run))


def method(cls: type) -> type:
    return final(dataclass(frozen=True, kw_only=True)(cls))


@method
class Honest(Base):
    """Breaks nothing."""


@method
class OneTooFew(Base):
    """Loses an item."""

    def choose(self, task, run):
        return super().choose(task, run)[1:]


@method
class SameForAll(Base):
    """Takes the same number from each class, whatever the quota says."""

    def choose(self, task, run):
        each = int(task.quota.sum()) // len(task.classes)
        return torch.cat([task.train.indices(c)[: each + (c < int(task.quota.sum()) % len(task.classes))] for c in task.classes])


@method
class Twice(Base):
    """Chooses the same example again and again."""

    def choose(self, task, run):
        return torch.cat([task.train.indices(c)[:1].repeat(int(task.quota[c])) for c in task.classes])


@method
class SortedData(Base):
    """Takes it that the real examples come sorted by class, and labels them so."""

    def distill(self, task, run):
        first = torch.cat([torch.tensor([0]), task.train.counts.cumsum(0)[:-1]])
        rows = torch.cat([first[c] + torch.arange(int(task.quota[c])) for c in task.classes])
        return SyntheticSet(task.train.read(rows), Hard(task.labels, len(task.classes)), task.modality, rows=task.train.stored[rows], origin=rows)


@method
class WrongType(Base):
    """Stores another type than the modality does."""

    def distill(self, task, run):
        syn = super().distill(task, run)
        syn.rows, syn.origin = syn.rows.double(), None
        return syn


@method
class OutOfRange(Base):
    """Stores what no real example could be, and no modality would write."""

    def distill(self, task, run):
        syn = super().distill(task, run)
        syn.rows, syn.origin = torch.full_like(syn.rows, 1e9), None
        return syn


@method
class Scribbles(Base):
    """Changes a real example."""

    def choose(self, task, run):
        task.train.stored[0] += 1
        return super().choose(task, run)


@method
class Relabels(Base):
    """Changes a validation label."""

    def choose(self, task, run):
        task.val.labels[0] = (task.val.labels[0] + 1) % len(task.classes)
        return super().choose(task, run)


@method
class Gambles(Base):
    """Draws from torch's global stream."""

    def choose(self, task, run):
        torch.rand(1)
        return super().choose(task, run)


@method
class GamblesWithNumpy(Base):
    """Draws from numpy's global stream."""

    def choose(self, task, run):
        np.random.random()
        return super().choose(task, run)


@method
class Talks(Base):
    """Writes to standard output."""

    def choose(self, task, run):
        print("selecting")
        return super().choose(task, run)


@method
class Follows(Base):
    """Its choice depends on the global stream."""

    def choose(self, task, run):
        state = torch.get_rng_state()
        start = int(torch.randint(1 << 30, ()))
        torch.set_rng_state(state)
        return super().choose(task, Run(start))


CALLS = []


@method
class Remembers(Base):
    """Its choice depends on how often it was asked."""

    def choose(self, task, run):
        CALLS.append(1)
        return super().choose(task, Run(len(CALLS)))


@method
class Unsaved(Base):
    """Keeps something from step to step that it does not give to `run.steps`."""

    def choose(self, task, run):
        total = 0
        for it in run.steps(6, nn.Linear(1, 1)):
            total += it
        return super().choose(task, Run(total))


@method
class DependsOnCache(Base):
    """Its result differs when a cached stage is made again."""

    def choose(self, task, run):
        made = []
        run.cached("stage", "key", lambda: made.append(1) or {"x": torch.zeros(1)})
        for _ in run.steps(6, nn.Linear(1, 1)):
            pass
        return super().choose(task, Run(len(made)))


@method
class Unstoppable(Base):
    """Goes on when it is asked to stop."""

    def choose(self, task, run):
        with suppress(Exception):
            for _ in run.steps(6, nn.Linear(1, 1)):
                pass
        return super().choose(task, run)


@dataclass(frozen=True, kw_only=True)
class NotFinal(Base):
    """Could be overridden."""


@final
@dataclass(kw_only=True, unsafe_hash=True)
class Thawed:
    """Could be assigned to."""

    name, family, paper, scales_over = Base.name, Base.family, Base.paper, None
    lr: float = 1.0

    @classmethod
    def takes(cls):
        return list(TASKS)


@method
class NoDocstring(Base):
    pass


@method
class NoFamily(Base):
    """Of a family that nobody knows."""

    family: ClassVar = "magic"


@method
class Untold(Base):
    """Has a hyper-parameter that no text can give."""

    sizes: tuple[int, ...] = (1, 2)


@method
class TakesAll(Base):
    """Says that it needs what no kind of data has, and refuses nothing."""

    def check(self, modality):
        pass


@method
class Curt(Base):
    """Refuses without saying what it could take."""

    def check(self, modality):
        if modality.name not in self.takes():
            raise UsageError(f"not for {modality.name}")


BROKEN = [
    (OneTooFew, "budget"), (SameForAll, "budget"), (Twice, "budget"), (SortedData, "budget"), (WrongType, "legal"),
    (OutOfRange, "legal"), (Scribbles, "task_untouched"), (Relabels, "task_untouched"), (Gambles, "global_state_untouched"),
    (GamblesWithNumpy, "global_state_untouched"), (Talks, "global_state_untouched"), (Follows, "repeatable"), (Remembers, "repeatable"), (Unsaved, "resumed"),
    (DependsOnCache, "resumed"), (Unstoppable, "resumed"), (NotFinal, "declared"), (Thawed, "declared"), (NoDocstring, "declared"), (NoFamily, "declared"),
    (Untold, "settings"), (TakesAll, "refusal"), (Curt, "refusal"),
]  # fmt: skip


@pytest.mark.parametrize("kind", TASKS)
def test_an_honest_method_passes(kind):
    check_method(Honest(), tiny_tasks()[kind])


@pytest.mark.parametrize(("broken", "promise"), BROKEN, ids=lambda x: getattr(x, "__name__", x))
@pytest.mark.parametrize("kind", TASKS)
def test_a_broken_promise_is_found(broken, promise, kind):
    check, task = next(check for check in CHECKS if check.__name__ == f"check_{promise}"), tiny_tasks()[kind]
    if broken is OutOfRange and not task.train.stored.is_floating_point():
        pytest.skip("every value of the stored type is legal")
    with pytest.raises(AssertionError):
        check(broken(), task)
