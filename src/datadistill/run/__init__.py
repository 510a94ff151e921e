"""What a method may ask of the world, in seven verbs: rng, steps, share, each, descend, log, cached.

The loop belongs to the method. `steps` makes it resumable: what it is given to save (a set, an optimiser: anything with
`state_dict`) is copied every hundredth of the way, and that copy is what an interruption, a crash or a NaN falls back to.
Because randomness is named by the step, going on from a copy gives the same bits as never having stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from .. import dist
from ..engine import Engine
from ..engine.units import Made
from ..errors import Interrupted, NotFinite
from ..progress import Progress, Quiet
from ..rng import rng
from .costs import COST, Flops, Notes
from .places import Aside, Nowhere, Part, Snapshots, State
from .stage import Stage

__all__ = ["COST", "Flops", "Nowhere", "Part", "Run", "Snapshots"]
T = TypeVar("T")

DISK_EVERY = 10.0  # seconds between snapshots on disk
HALVINGS = 3


class Run:
    """One execution of a method: its seed, device, progress, snapshots and costs."""

    def __init__(self, seed: int = 0, *, device: str | torch.device = "cpu", snapshots: Snapshots | None = None, progress: Progress | None = None, engine: Engine | None = None):
        self.seed, self.device = seed, torch.device(device)
        self._snapshots = snapshots or Nowhere()
        self._engine = engine
        self._progress = progress or Quiet()
        self._curve: list[dict[str, float]] = []
        self._unread: list[dict[str, Tensor | float]] = []  # rows with numbers that are still on a GPU
        self._doubt: Tensor | None = None  # on a GPU: whether a step since the last look led out of the numbers
        self.notes = Notes(self._progress.say)
        self.flops = 0.0
        self.looping = False  # inside `steps`: a signal can wait for the end of the step
        self._before, self._began = 0.0, time.perf_counter()
        self.stop_signal = 0  # set by a signal handler; honoured between two steps
        self.saved: tuple[Any, ...] = ()
        self._rewind: torch.optim.Optimizer | None = None
        self._descends: torch.optim.Optimizer | None = None
        self._halvings = 0
        self._begun: list[str] = []  # the loops so far that save something
        self._paid: set[tuple[str, str]] = set()  # what came from `cached` and is counted
        self._aside = 0  # how many calls of `cached` we are inside of
        self._whole: Run | None = None  # of a unit: the run that it is a part of
        self._stages: list[str] = []  # the calls of `each` so far

    @property
    def seconds(self) -> float:
        """Time spent so far, interrupted earlier attempts included up to their last snapshot."""
        return self._before + time.perf_counter() - self._began

    @property
    def curve(self) -> list[dict[str, float]]:
        """What `log` was told, thinned."""
        for row in self._unread:
            self._curve = thinned([*self._curve, {k: float(v) for k, v in row.items()}])
        self._unread.clear()
        return self._curve

    @curve.setter
    def curve(self, rows: list[dict[str, float]]) -> None:
        self._curve = rows
        self._unread.clear()

    # -- the seven verbs -----------------------------------------------------------------------------------------------

    def rng(self, *key: str | int) -> torch.Generator:
        """The same stream for the same key, on every machine and rank."""
        return rng(self.seed, *key)

    def steps(self, n: int, *saved: Any, label: str = "distilling") -> Iterator[int]:
        """0..n-1, going on where the last snapshot of `saved` stands; progress, snapshots, Ctrl-C and rollback included.

        A method may have several loops; what a later one saves must hold all that it needs of the earlier ones. A loop that
        saves nothing, or stands inside `cached`, has progress and Ctrl-C only: it is done whole or begun again.
        """
        if self._aside or not saved:
            yield from self._steps_aside(n, label)
            return
        loop = f"{label} {sum(name.startswith(label) for name in self._begun)}"
        self._begun.append(loop)
        self.saved, self._halvings = saved, 0
        it, good = 0, None
        if (state := self._snapshots.load()) is not None and loop in state["begun"]:
            if loop != state["begun"][-1]:
                return  # a later loop had begun, and it saved all that it needs
            it, good = self._restore(state), state["good"]
            self._before, self._began = state["seconds"], time.perf_counter()
            self._paid |= {tuple(item) for item in state["paid"]}
            self.notes[:0] = state["notes"]  # what was to be told of the part before
            self.notes.append(f"resumed at step {it} of {n}")
        self.looping = True
        try:
            with self._progress.bar(label, n, it) as bar:
                yield from self._loop(n, it, good or self._copy(it), bar)
        finally:
            self.looping = False

    def _loop(self, n: int, it: int, good: State, bar: Any) -> Iterator[int]:
        written = time.monotonic()
        together = self._whole is not None or dist.most(n, -n) == [n, -n]  # else ranks are not at the same step, and nothing can be saved
        while it < n:
            yield from self._counted(it, n)
            kept = (it + 1) % max(1, n // 100) == 0  # where a NaN falls back to: at fixed steps, so that a resumed run does the same
            if kept or it + 1 == n:
                self._look()
            if self._rewind is not None:
                it = self._roll_back(good, self._rewind)
                self._rewind = None
                continue
            it += 1
            bar.advance(1, self._curve[-1] if self._curve else None)
            if kept:
                good = self._copy(it)
            stop, due = self._stop, time.monotonic() - written > DISK_EVERY
            if together and self._whole is None:
                stop, due = dist.most(stop, due)
            if together and (stop or due):
                self._snapshots.save({**self._copy(it), "good": good})
                written = time.monotonic()
            if stop:
                raise Interrupted(stop, f"stopped after step {it} of {n}, and saved")

    def share(self, items: Sequence[T]) -> list[T]:
        """This rank's part of the items: every item belongs to exactly one rank. A unit has its own to itself."""
        return list(items[dist.rank() :: dist.ranks()] if self._whole is None else items)

    def each(
        self, label: str, items: Sequence[Any], work: Callable[[Run, Any], Mapping[str, Tensor]], *, steps: int = 1, keys: Callable[[int], tuple[str, str]] | None = None
    ) -> Iterator[dict[str, Tensor]]:
        """work(run, item) of every item, in order and on the CPU, for all ranks: units that need nothing of each other, shared over ranks and
        done by the workers of the engine, if there is one. It comes to the same whoever does them, as long as `work` asks the run that it
        is given, and changes nothing outside.

        Each is kept on the disk as it is finished, and not made again when the run goes on after an interruption: in the working folder, or
        where keys(k) are a name and a content key for item k, in the cache, as `cached` would have it. A worker that dies has its unit
        begun again. What a unit costs is counted as if one worker had done all.
        steps   how many a unit has, for progress
        """
        nth = self._stages.count(label)
        parts = [Nowhere() if self._aside else self._snapshots.part(f"{label} {nth}/{k}") for k in range(len(items))]
        if not self._aside:
            self._stages.append(label)
        mine = self.share(range(len(items)))
        with self._progress.bar(label, steps * len(mine)) as bar, self._signals_wait():
            own = iter(Stage(self, perform, items, work, mine, parts, keys, bar, steps))
            alone = self._whole is not None or dist.ranks() == 1
            for k in range(len(items)):
                made = next(own) if alone or k % dist.ranks() == dist.rank() else None
                if made is None or not alone:
                    made = Made.unpack(dist.send(made and made.pack(), k % dist.ranks()))
                self.flops += made.flops
                self.curve = thinned([*self.curve, *made.curve])
                self.notes.extend(made.notes)
                yield dict(made.tensors)

    def descend(self, optimizer: torch.optim.Optimizer, loss: Tensor | Callable[[], Tensor], *, alone: bool = False) -> Tensor:
        """One step down the loss, gradients summed over ranks (not in a unit, which is one rank's own); the loss, detached. A loss (or gradient) that is not finite undoes everything since
        the last copy of the state and halves the step (as does a step that leads to infinity); after three halvings the run ends with the last finite state.
        On a GPU nobody waits for the numbers of a step: they are looked at before the next copy is made.

        `loss` may be a function that has put its gradients where they belong and returns the value: for work done in pieces.
        `alone`: what descends is this rank's own, and no other rank takes part.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        alone = alone or self._whole is not None
        if isinstance(loss, Tensor):
            optimizer.zero_grad(set_to_none=True)
            if loss.is_cuda or _all(bool(torch.isfinite(loss.detach()).all()), alone):
                loss.backward()
        else:
            optimizer.zero_grad(set_to_none=True)
            loss = loss()
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not alone:
            dist.sum_(gradients)
        total = torch.stack([g.detach().abs().sum() for g in gradients]).sum() if gradients else torch.zeros(())
        if loss.is_cuda and (alone or dist.ranks() == 1):
            optimizer.step()
            bad = ~torch.stack([torch.isfinite(x.detach()).all() for x in (loss.detach().sum() + total, *parameters)]).all()
            self._doubt, self._descends = bad if self._doubt is None else self._doubt | bad, optimizer
            return loss.detach()
        finite = _all(math.isfinite(float(loss.detach().sum()) + float(total)), alone)
        if finite:
            optimizer.step()  # which may itself lead out of the numbers
        if not finite or not all(torch.isfinite(p.detach()).all() for p in parameters):
            self._rewind = optimizer
        return loss.detach()

    def log(self, it: int, **values: Tensor | float) -> None:
        """Keep values for the curve: of a long run, one in every so many steps; nothing of what goes on inside `cached`."""
        if self._rewind is not None or self._aside:
            return
        row = {"step": it, **{k: v.detach() if isinstance(v, Tensor) else float(v) for k, v in values.items()}}
        if any(isinstance(v, Tensor) and v.is_cuda for v in row.values()):
            self._unread.append({k: v.clone() if isinstance(v, Tensor) else v for k, v in row.items()})
        else:
            self.curve = thinned([*self.curve, {k: float(v) for k, v in row.items()}])

    def cached(self, name: str, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What `make` returns, made once per content key (teachers, embeddings, expert trajectories). What it cost to make is
        kept with it and counted, once, in every run that uses it.
        """
        hit = True

        def aside() -> dict[str, Tensor]:
            nonlocal hit
            hit, began, flops = False, time.perf_counter(), self.flops
            self._aside += 1
            try:
                with torch.enable_grad():  # whatever the caller is in the middle of
                    kept = make()
                return {**kept, COST: torch.tensor([time.perf_counter() - began, self.flops - flops], dtype=torch.float64)}
            finally:
                self._aside -= 1

        kept = dict(self._snapshots.cached(name, key, aside))
        seconds, flops = kept.pop(COST, torch.zeros(2)).tolist()
        if hit and (name, key) not in self._paid:
            self._before += seconds
            self.flops += flops
        self._paid.add((name, key))
        return kept

    @property
    def _stop(self) -> int:
        """The signal that this run, or the one it is a unit of, was told to stop by."""
        return self.stop_signal or (self._whole._stop if self._whole is not None else 0)

    def _leave(self) -> None:
        if self._stop:
            raise Interrupted(self._stop, "stopped; what is finished is kept")

    @contextmanager
    def _signals_wait(self) -> Iterator[None]:
        before, self.looping = self.looping, True
        try:
            yield
        finally:
            self.looping = before

    # -- behind them --------------------------------------------------------------------------------------------------

    def __reduce__(self) -> tuple:
        """To a worker travels no more than what names the draws: what it does there it asks of its own run."""
        return Run, (self.seed,), {"device": self.device}

    def _steps_aside(self, n: int, label: str) -> Iterator[int]:
        with self._progress.bar(label, n) as bar:
            for it in range(n):
                yield from self._counted(it, n)
                if it + 1 == n:
                    self._look()
                if self._rewind is not None:
                    raise NotFinite(f"the loss is not finite after step {it} of {label}")
                bar.advance(1)
                if self._stop:
                    raise Interrupted(self._stop, f"stopped at step {it + 1} of {n} of {label}, which begins again")

    def _counted(self, it: int, n: int) -> Iterator[int]:
        """One step; the first of a loop has its operations counted, and there are n like it."""
        if it > 0:
            yield it
            return
        with (first := Flops()):
            yield it
        self.flops += float(first.total) * n

    def _look(self) -> None:
        """Whether all is well since the last look."""
        if self._doubt is not None and bool(self._doubt):
            self._rewind = self._descends
        self._doubt = None

    def _copy(self, it: int) -> State:
        states = [_clone(s.state_dict()) for s in self.saved]
        return {"begun": list(self._begun), "it": it, "saved": states, "curve": list(self.curve), "halvings": self._halvings, "flops": self.flops, "seconds": self.seconds, "notes": list(self.notes), "paid": sorted(self._paid)}

    def _restore(self, state: State) -> int:
        for target, kept in zip(self.saved, state["saved"], strict=True):
            target.load_state_dict(_clone(kept))
        self.curve = list(state["curve"])
        self._halvings, self.flops = state["halvings"], state["flops"]
        return state["it"]

    def _roll_back(self, good: State, optimizer: torch.optim.Optimizer) -> int:
        halvings = self._halvings + 1
        it = self._restore(good)
        if halvings > HALVINGS:
            raise NotFinite(f"the loss is not finite after step {it}, even with the step size halved {HALVINGS} times")
        self._halvings = halvings
        for group in optimizer.param_groups:
            group["lr"] *= 0.5
        good.update(self._copy(it))
        self.notes.append(f"loss not finite: back to step {it}, step size halved to {optimizer.param_groups[0]['lr']:g}")
        return it


def perform(seed: int, device: str | torch.device, snapshots: Snapshots, work: Callable, item: Any, progress: Progress | None = None, whole: Run | None = None) -> Made:
    """A unit, by a run of its own: in the process of `whole`, or in a worker, where it is done whole or begun again."""
    run = Run(seed, device=device, snapshots=snapshots if whole else Aside(snapshots), progress=progress)
    run._whole = whole or Run(seed)
    with torch.enable_grad():
        tensors = {name: t.detach().cpu().contiguous() for name, t in work(run, item).items()}
    return Made(tensors, run.seconds, run.flops, run.curve, list(run.notes))


def _all(fine: bool, alone: bool) -> bool:
    """Whether it is so on all ranks, unless this one is alone in it."""
    return fine if alone else not dist.most(not fine)[0]


def thinned(curve: list[dict[str, float]]) -> list[dict[str, float]]:
    """At most 2,000 rows of it."""
    return curve[::2] if len(curve) > 2000 else curve


def _clone(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {k: _clone(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_clone(v) for v in value)
    return value
