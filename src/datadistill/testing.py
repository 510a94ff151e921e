"""The contract that every method keeps, as checks that anybody can run on a method of their own; no test framework needed.

    from datadistill.testing import check_method, tiny_tasks

    for task in tiny_tasks().values():
        check_method(MyMethod(iterations=3), task)

A promise that is broken is an AssertionError that says which. Under a test framework, one test per promise:

    @pytest.mark.parametrize("check", CHECKS)
    @pytest.mark.parametrize("task", tiny_tasks().values())
    def test_contract(check, task):
        check(MyMethod(iterations=3), task)
"""

from __future__ import annotations

import contextlib
import inspect
import io
import random
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import numpy as np
import torch
from torch import Tensor

from .data.task import Real, Task
from .data.tiny import tiny_tasks
from .errors import Interrupted, UsageError
from .labels import Hard
from .methods import Method, Paper
from .rng import rng
from .run import Run
from .store.tensors import flatten, from_bytes, to_bytes, unflatten
from .synthetic import SyntheticSet
from .synthetic.artifact import Artifact

__all__ = ["CHECKS", "check_method", "tiny_tasks"]

FAMILIES = {"selection", "distribution", "gradient", "trajectory", "kernel", "decoupled", "generative"}


def check_method(method: Method, task: Task) -> None:
    """Every promise of the contract. `method` has tiny hyper-parameters; it is run some twenty times on `task`."""
    for check in CHECKS:
        check(method, task)


def refuses(method: Method, task: Task) -> bool:
    """Whether the method, as it is set, refuses this kind of data: then its other promises do not apply."""
    try:
        method.check(task.modality)
    except UsageError:
        return True
    return False


# -- what it says of itself ---------------------------------------------------------------------------------------------


def check_declared(method: Method, task: Task) -> None:
    """A final, frozen dataclass with keyword-only fields, all with defaults; a docstring, a name, a family, a paper."""
    cls = type(method)
    assert getattr(cls, "__final__", False), f"{cls.__name__} is not marked @final"
    frozen = getattr(getattr(cls, "__dataclass_params__", None), "frozen", False)
    assert "__dataclass_params__" in vars(cls) and frozen and all(f.kw_only for f in fields(cls)), f"{cls.__name__} is not a @dataclass(frozen=True, kw_only=True)"
    cls()  # every hyper-parameter has a default
    for f in fields(method):
        with contextlib.suppress(FrozenInstanceError):
            setattr(method, f.name, getattr(method, f.name))
            raise AssertionError(f"{cls.__name__}.{f.name} can be assigned to")
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", cls.name), f"the name {cls.name!r} is not lower-case letters, digits and hyphens"
    assert cls.family in FAMILIES, f"the family {cls.family!r} is not one of {sorted(FAMILIES)}"
    assert isinstance(cls.paper, Paper) and cls.paper.title and cls.paper.venue, f"{cls.__name__}.paper does not say where the method comes from"
    assert cls.scales_over is None or isinstance(cls.scales_over, str)
    assert cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}("), f"{cls.__name__} has no docstring"
    assert getattr(inspect.getmodule(cls), "__doc__", None), f"the module of {cls.__name__} has no docstring: paper, algorithm, differences"
    replace(cls(), **{**cls.quick, **cls.quick_table})  # they name fields
    assert cls.takes(), f"{cls.__name__} needs {sorted(cls.needs)}, which no modality has"


def check_settings(method: Method, task: Task) -> None:
    """Every hyper-parameter can be given as text; what makes no sense is refused, naming it."""
    hints = get_type_hints(type(method))
    for f in fields(method):
        for owner in (method, type(method)()):
            value = getattr(owner, f.name)
            text = "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            try:
                back = owner.with_settings({f.name: text})
            except UsageError as error:
                raise AssertionError(f"{f.name}={text} cannot be given as text: {error}") from error
            assert back == owner, f"{f.name}={text} as text does not give {value!r} back"
        accepts_text = str in (hints[f.name], *get_args(hints[f.name]))
        if not accepts_text:
            _must_refuse(lambda name=f.name: method.with_settings({name: "no such value"}), f.name)
    _must_refuse(lambda: method.with_settings({"no_such_field": "1"}), "no_such_field")


def check_refusal(method: Method, task: Task) -> None:
    """A kind of data that lacks a trait is refused before any work, and those that can be taken are named."""
    unheard_of = SimpleNamespace(name="unheard-of", traits=frozenset(), nets=())
    _must_refuse(lambda: method.check(unheard_of), "unheard-of", *method.takes())
    if task.modality.name not in method.takes():
        _must_refuse(lambda: method.check(task.modality), task.modality.name, *method.takes())
    elif refuses(method, task):  # for what these settings ask: nobody else will notice, so distill refuses too
        _must_refuse(lambda: method.check(task.modality), task.modality.name)
        _must_refuse(lambda: method.distill(task, Run(0)), task.modality.name)


def _must_refuse(act: Callable[[], Any], *words: str) -> None:
    try:
        act()
    except UsageError as error:
        missing = [word for word in words if word not in str(error)]
        assert not missing, f"the refusal does not name {missing}: {error}"
        assert error.expected or error.fix, f"the refusal does not say what would be right: {error}"
    else:
        raise AssertionError(f"not refused: {', '.join(words)}")


# -- what it makes ------------------------------------------------------------------------------------------------------


def check_budget(method: Method, task: Task) -> None:
    """Exactly quota items per class: uneven, one each, with a class of a single example, in another order, and all there is."""
    if refuses(method, task):
        return
    first_two = torch.cat([task.train.indices(0), task.train.indices(1)])
    lone = task.train.subset(torch.cat([first_two, *(task.train.indices(c)[:1] for c in task.classes[2:])]))
    cases = {
        "uneven": task,
        "one of each class": replace(task, quota=torch.ones_like(task.quota)),
        "all there is": replace(task, quota=task.train.counts.clone()),
        "classes of one example": replace(task, train=lone, quota=torch.minimum(task.quota, lone.counts)),
        "classes in another order": renamed(task),
    }
    for what, case in cases.items():
        _keeps_budget(method.distill(case, Run(0)), case, what)


def _keeps_budget(syn: SyntheticSet, task: Task, what: str) -> None:
    items, classes = int(task.quota.sum()), len(task.classes)
    try:
        stored = syn.stored()
    except ValueError as error:
        raise AssertionError(f"{what}: cannot be stored: {error}") from error
    assert len(syn) == items, f"{what}: {len(syn)} items for a budget of {items}"
    assert len(stored) == items * syn.each, f"{what}: {len(stored)} examples from {items} items of {syn.each}"
    if isinstance(syn.labels, Hard):
        got = torch.bincount(syn.y, minlength=classes)
        assert torch.equal(got, task.quota), f"{what}: {got.tolist()} items per class for a quota of {task.quota.tolist()}"
    if syn.origin is not None:
        assert len(syn.origin.unique()) == items, f"{what}: an example is chosen twice"
        assert same_bits(stored, task.train.stored[syn.origin]), f"{what}: a chosen example is not the real one, bit for bit"
        assert torch.equal(syn.y, task.train.labels[syn.origin]), f"{what}: a chosen example has another label"


def renamed(task: Task) -> Task:
    """The same examples in another order, class c now called c + 1, and the last one 0."""

    def turn(real: Real) -> Real:
        order = torch.randperm(len(real), generator=rng(0, "another order"))
        return Real(real.stored[order], (real.labels[order] + 1) % len(task.classes), real.modality)

    return Task(turn(task.train), turn(task.val), task.quota.roll(1))


def check_legal(method: Method, task: Task) -> None:
    """Whatever the seed, what is stored has the modality's type and range, is finite as a student reads it, and stays what it is."""
    if refuses(method, task):
        return
    spec, modality = task.spec, task.modality
    for seed in (0, 1):
        syn = method.distill(task, Run(seed))
        _keeps_budget(syn, task, f"seed {seed}")
        stored = syn.stored()
        kind = str(stored.dtype).removeprefix("torch.")
        assert (kind, tuple(stored.shape[1:])) == (spec.dtype, spec.stored), f"stored as {kind} {tuple(stored.shape[1:])}, the spec says {spec.dtype} {spec.stored}"
        x = modality.read(stored)
        assert torch.isfinite(x).all(), "what is stored is not finite as a student reads it"
        assert same_bits(modality.encode(modality.decode(stored)), stored), "what is stored changes when it is decoded and encoded again"
        inside = x.clone()
        modality.clamp_(inside)
        assert torch.allclose(inside, x, atol=1e-3), "what is stored is outside the modality's range"
        targets = syn.example_labels().targets(torch.arange(len(stored)))
        if targets.is_floating_point():
            assert torch.isfinite(targets).all() and torch.allclose(targets.sum(1), torch.ones(len(stored)), atol=1e-3), "soft labels do not sum to one"
        else:
            assert len(targets) == len(stored) and 0 <= int(targets.min()) <= int(targets.max()) < len(task.classes), "labels are not class numbers"


def check_artifact(method: Method, task: Task) -> None:
    """Saved and loaded, it is the same set."""
    if refuses(method, task):
        return
    about = {"method": {"name": method.name, "family": method.family, "paper": str(method.paper)}}
    syn = method.distill(task, Run(0))
    artifact = Artifact.of(syn, about)
    with tempfile.TemporaryDirectory(prefix="datadistill-") as folder:
        loaded = Artifact.load(artifact.save(Path(folder) / "set"))
    assert loaded.sha256 == artifact.sha256 and loaded.spec == artifact.spec, "the artifact changes when it is saved and loaded"
    assert same_bits(loaded.x, syn.stored()), "examples change when they are saved and loaded"
    everything = torch.arange(len(loaded))
    assert same_bits(loaded.labels.targets(everything), syn.example_labels().targets(everything)), "labels change when they are saved and loaded"
    assert loaded.about["contains_originals"] == syn.originals, "the artifact does not say whether it holds real examples"


# -- how it behaves -----------------------------------------------------------------------------------------------------


def check_task_untouched(method: Method, task: Task) -> None:
    """The real data and the budget are as they were."""
    if refuses(method, task):
        return

    def state() -> list[Tensor]:
        return [task.quota, *(t for real in (task.train, task.val) for t in (real.stored, real.labels, real.counts, *map(real.indices, task.classes)))]

    before, spec = [t.clone() for t in state()], task.spec.to_json()
    method.distill(task, Run(0))
    assert all(map(same_bits, before, state())), "the task is not what it was before"
    assert task.spec.to_json() == spec, "the spec is not what it was before"


def check_global_state_untouched(method: Method, task: Task) -> None:
    """Neither the global random streams nor torch's global switches are touched, and nothing is written to standard output."""
    if refuses(method, task):
        return

    def state() -> dict[str, Any]:
        return {
            "torch's random stream": torch.get_rng_state().tolist(),
            "numpy's random stream": repr(np.random.get_state()),
            "Python's random stream": random.getstate(),
            "the default dtype": torch.get_default_dtype(),
            "gradients being recorded": torch.is_grad_enabled(),
            "the number of threads": torch.get_num_threads(),
            "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        }

    before = state()
    with contextlib.redirect_stdout(io.StringIO()) as out:
        method.distill(task, Run(0))
    changed = [what for what, value in state().items() if value != before[what]]
    assert not changed, f"changed by the method: {', '.join(changed)}"
    assert not out.getvalue(), f"written to standard output: {out.getvalue()[:200]!r}"


def check_repeatable(method: Method, task: Task) -> None:
    """The same seed gives the same bytes, whatever the global random streams stand at, and from one method object time after time."""
    if refuses(method, task):
        return
    first = outcome(method.distill(task, Run(0)))
    with _streams_elsewhere():
        again = outcome(method.distill(task, Run(0)))
    assert same(first, again), "the same seed gives another set"
    afresh = replace(method)
    assert same(first, outcome(afresh.distill(task, Run(0)))), "an equal method gives another set"


def check_resumed(method: Method, task: Task) -> None:
    """Stopped after any step and begun again from the snapshot, in memory as on a disk, with its cache or without: the same bytes."""
    if refuses(method, task):
        return
    counter = Stopper()
    whole = outcome(method.distill(task, Run(0, progress=counter)))
    n = counter.count
    for k, stop in enumerate(sorted({1, n // 3, n // 2, n - 1, n} & set(range(1, n + 1)))):
        snapshots, stopper = Recorder(), Stopper(stop)
        stopper.run = Run(0, snapshots=snapshots, progress=stopper)
        try:
            method.distill(task, stopper.run)
        except Interrupted:
            pass
        else:
            raise AssertionError(f"asked to stop after step {stop} of {n}, it went on to the end: is there an `except` around a step?")
        if k % 2:
            snapshots.cache.clear()  # every other time, what was cached is made again
        resumed = outcome(method.distill(task, Run(0, snapshots=snapshots)))
        assert same(whole, resumed), f"stopped after step {stop} of {n} and resumed, it gives another set: is everything that changes given to run.steps?"


class Recorder:
    """`run.Snapshots` in memory, as bytes: what comes back has been through the disk's format."""

    def __init__(self) -> None:
        self.state: tuple[str, bytes] | None = None
        self.cache: dict[tuple[str, str], bytes] = {}
        self.parts: dict[str, Recorder] = {}
        self.made: bytes | None = None

    def save(self, state: dict[str, Any]) -> None:
        text, tensors = flatten(state)
        self.state = text, to_bytes(tensors)

    def load(self) -> dict[str, Any] | None:
        return None if self.state is None else unflatten(self.state[0], from_bytes(self.state[1]))

    def cached(self, name: str, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        if (name, key) not in self.cache:
            self.cache[name, key] = to_bytes(make())
        return from_bytes(self.cache[name, key])

    def part(self, name: str) -> Recorder:
        part = self.parts.setdefault(name, Recorder())
        part.cache = self.cache
        return part

    def keep(self, data: bytes) -> None:
        self.made, self.state = data, None

    def kept(self) -> bytes | None:
        return self.made


class Stopper:
    """Progress that counts steps and, after `stop` of them, does to `run` what Ctrl-C does."""

    run: Run | None = None

    def __init__(self, stop: int | None = None):
        self.stop, self.count = stop, 0

    def say(self, message: str) -> None: ...

    @contextlib.contextmanager
    def bar(self, label: str, total: int, done: int = 0) -> Iterator[Stopper]:
        yield self

    def advance(self, n: int, values: Any = None) -> None:
        self.count += n
        if self.count == self.stop and self.run is not None:
            self.run.stop_signal = 2


@contextlib.contextmanager
def _streams_elsewhere() -> Iterator[None]:
    """The global random streams moved on, and put back afterwards."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.rand(3), np.random.random(3), random.random()
    try:
        yield
    finally:
        torch.set_rng_state(states[0]), np.random.set_state(states[1]), random.setstate(states[2])


def outcome(syn: SyntheticSet) -> dict[str, Tensor]:
    """What would be stored: samples and labels."""
    return {**syn.pack(), **{f"labels/{name}": t for name, t in syn.labels.tensors().items()}}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two outcomes have the same tensors, bit for bit."""
    return a.keys() == b.keys() and all(same_bits(a[name], b[name]) for name in a)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Same type, shape and bits: NaN is equal to itself."""
    return a.dtype == b.dtype and a.shape == b.shape and a.detach().contiguous().numpy().tobytes() == b.detach().contiguous().numpy().tobytes()


Check = Callable[[Method, Task], None]
CHECKS: tuple[Check, ...] = (
    check_declared,
    check_settings,
    check_refusal,
    check_budget,
    check_legal,
    check_artifact,
    check_task_untouched,
    check_global_state_untouched,
    check_repeatable,
    check_resumed,
)
