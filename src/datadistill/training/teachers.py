"""Teachers (the squeeze step): nets trained on T, of which the weights and the batch-norm statistics are what later steps look at.

A teacher is cut into at most BLOCKS blocks of epochs, each one entry of the cache with all that training goes on from, so that
one that is stopped loses at most a block. It is named by all that decides it: the real data (and the validation data, where
they decide when to stop), the seed, the net, the recipe and its number.
"""

from __future__ import annotations

import copy
import hashlib
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from .. import nets, precision, store
from ..data.task import Real
from ..errors import UsageError
from ..memory import Pieces
from ..rates import warmed
from ..replay import sent
from ..run import Run
from .embedding import content_key, narrow
from .fit import accuracy
from .slopes import Slopes

BLOCKS = 8
State = dict[str, Tensor]


@dataclass(frozen=True)
class Squeeze:
    """How a teacher is trained: batches without replacement, a warm-up and a half cosine to zero.

    lr         none: 0.1 for SGD with Nesterov momentum 0.9, 0.001 for AdamW
    ema        decay per step of an average of the weights and statistics, which then is the teacher; 0: none
    patience   stop after so many epochs without a better validation accuracy, and take the best epoch; none: the last epoch
    """

    epochs: int = 60
    batch: int = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float | None = None
    weight_decay: float = 5e-4
    warmup: float = 0.05
    augment: bool = True
    ema: float = 0.0
    patience: int | None = None

    def lr_at(self, step: int, steps: int) -> float:
        """The rate of a step, of so many."""
        peak = self.lr if self.lr is not None else {"sgd": 0.1, "adamw": 0.001}[self.optimizer]
        return warmed(peak, step, steps, self.warmup)


def teacher(real: Real, run: Run, how: Squeeze, *, net: str, width: int | None = None, member: int = 0, val: Real | None = None, start: State | None = None) -> nets.Net:
    """The teacher of that name, trained on T once and kept by `run.cached`; in eval mode, without gradients of its weights.

    member   of several that differ in every draw      val   real examples that decide when to stop, where `how` has patience
    start    weights to begin with, in place of random ones; what they lack is random
    """
    if how.patience is not None and not (val is not None and len(val)):
        raise UsageError("a teacher that stops early, without validation examples", "a validation split", "--val 0.1, or no patience")
    return Teacher(real, run, how, net, width, member, val, start).train()


def untrained(real: Real, run: Run, *, net: str, width: int | None = None, member: int = 0) -> nets.Net:
    """The same teacher before its first step."""
    return narrow(net, real.modality.spec, width, run.rng("teacher", net, member)).to(run.device)


class Teacher:
    """One teacher in the making; see `teacher`."""

    def __init__(self, real: Real, run: Run, how: Squeeze, family: str, width: int | None, member: int, val: Real | None, start: State | None = None):
        self.real, self.run, self.how, self.member, self.val = real, run, how, member, val
        self.family, self.width = family, width
        self.net = untrained(real, run, net=family, width=width, member=member)
        self.start = {} if start is None else {"start": hashlib.sha256(store.to_bytes(start)).hexdigest()}
        if start is not None:
            self.net.load_state_dict(self.net.state_dict() | start)
        self.size = min(how.batch, len(real))
        self.per_epoch = max(1, len(real) // self.size)
        self.block = -(-how.epochs // BLOCKS)
        self.shuffled, self.order = -1, torch.empty(0, dtype=torch.long)

    def train(self) -> nets.Net:
        """Through the blocks, or as many as early stopping needs; then the weights that were wanted."""
        state: State | None = None
        for k in range(-(-self.how.epochs // max(1, self.block))):
            state = self.run.cached("teacher", self._key(k), lambda k=k, state=state: self._block(k, state))
            if "stopped" in state:
                break
        if state is not None:
            self.net.load_state_dict(part(state, "best") or part(state, "ema") or part(state, "net"))
        return self.net.to(self.run.device).eval().requires_grad_(False)

    def _key(self, block: int) -> str:
        val = self.val.fingerprint if self.how.patience is not None else None
        return content_key(self.real, self.run, net=[self.family, self.width], squeeze=asdict(self.how), member=self.member, val=val, block=block, **self.start)

    def _block(self, block: int, before: State | None) -> State:
        """Train on from `before` for a block's epochs; everything that the next block and the end need, on the CPU."""
        net, how, run = self.net, self.how, self.run
        if before is not None:
            net.load_state_dict(part(before, "net"))
        net.requires_grad_(True)
        parameters = list(net.parameters())
        optimizer = self._optimizer(parameters)
        average = copy.deepcopy(net).requires_grad_(False) if how.ema else None
        best, score = {}, [-1.0, 0.0]  # weights, (their accuracy, epochs since)
        if before is not None:
            _restore(optimizer, parameters, part(before, "optimizer"))
            best, score = part(before, "best"), before["score"].tolist() if "score" in before else score
            if average is not None:
                average.load_state_dict(part(before, "ema"))
        first, last = block * self.block, min((block + 1) * self.block, how.epochs)
        slopes = Slopes(net, Pieces(self.size, "batch of the teacher", run.notes), run.device, computing=partial(precision.training, run.device))
        stopped = False
        for step in run.steps((last - first) * self.per_epoch, label=f"training the teacher, epochs {first + 1} to {last} of {how.epochs}"):
            epoch, at = first + step // self.per_epoch, step % self.per_epoch
            if stopped:
                continue
            optimizer.param_groups[0]["lr"] = how.lr_at(epoch * self.per_epoch + at, how.epochs * self.per_epoch)
            net.train()
            self._step(slopes, optimizer, epoch, at)
            if average is not None:
                _follow(average, net, how.ema)
            if at == self.per_epoch - 1 and how.patience is not None and self.val is not None:
                judged = net if average is None else average
                reached = accuracy(judged, self.val, self.val.labels, device=run.device)
                if reached > score[0]:
                    best, score = {k: v.clone() for k, v in judged.state_dict().items()}, [reached, 0.0]
                else:
                    score[1] += 1
                stopped = score[1] >= how.patience
        state = {f"net/{k}": v for k, v in net.state_dict().items()}
        state |= {f"optimizer/{k}": v for k, v in _saved(optimizer, parameters).items()}
        state |= {f"ema/{k}": v for k, v in average.state_dict().items()} if average is not None else {}
        state |= {f"best/{k}": v for k, v in best.items()}
        state |= {"score": torch.tensor(score, dtype=torch.float64)} if how.patience is not None else {}
        state |= {"stopped": torch.ones(1)} if stopped else {}
        return {k: v.detach().clone().cpu() for k, v in state.items()}

    def _optimizer(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        if self.how.optimizer == "adamw":
            return torch.optim.AdamW(parameters, weight_decay=self.how.weight_decay)
        return torch.optim.SGD(parameters, momentum=0.9, nesterov=True, weight_decay=self.how.weight_decay)

    def _step(self, slopes: Slopes, optimizer: torch.optim.Optimizer, epoch: int, at: int) -> None:
        run, key = self.run, ("teacher", self.family, self.member)
        if self.shuffled != epoch:
            self.order, self.shuffled = torch.randperm(len(self.real), generator=run.rng(*key, "order", epoch)), epoch
        rows = self.order[at * self.size : (at + 1) * self.size]
        self.real.expect(self.order[(at + 1) * self.size : (at + 2) * self.size])
        omega = self.real.modality.augment(run.rng(*key, "omega", epoch, at), len(rows)) if self.how.augment else None
        slopes.step(optimizer, self.real.read(rows, run.device), omega, sent(self.real.labels[rows], run.device))


def part(state: State, name: str) -> State:
    """What a state holds under a name."""
    return {k.removeprefix(f"{name}/"): v for k, v in state.items() if k.startswith(f"{name}/")}


def _saved(optimizer: torch.optim.Optimizer, parameters: list[Tensor]) -> State:
    return {f"{k}/{name}": v for k, p in enumerate(parameters) for name, v in optimizer.state[p].items() if isinstance(v, Tensor)}


def _restore(optimizer: torch.optim.Optimizer, parameters: list[Tensor], saved: State) -> None:
    for k, p in enumerate(parameters):
        state = part(saved, str(k))
        optimizer.state[p] = {name: v.clone() if name == "step" else v.clone().to(p.device) for name, v in state.items()}


@torch.no_grad()
def _follow(average: torch.nn.Module, net: torch.nn.Module, decay: float) -> None:
    """average <- decay average + (1 - decay) net, of weights and statistics; what is counted is copied."""
    for a, b in zip(average.state_dict().values(), net.state_dict().values(), strict=True):
        if a.is_floating_point():
            a.lerp_(b, 1 - decay)
        else:
            a.copy_(b)
