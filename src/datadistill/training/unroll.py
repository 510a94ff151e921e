"""The inner loop, theta_{i+1} = theta_i - eta g_i with g_i = grad_theta l(theta_i; S), and its exact gradient by a step-wise adjoint.

Unrolling as one graph keeps every activation of every step. The adjoint keeps the states alone and, with
lambda = dL/dtheta_N, goes back one step at a time, the graph of that step being made again:
    s = <g_i, lambda>        dL/dx -= eta ds/dx        dL/deta -= s        lambda -= eta ds/dtheta
which is the same gradient (reverse over reverse), in the memory of one step's graph and of N states: theta, for Adam three times
that. For an optimiser with a state (momentum, Adam) lambda covers the state: its update is differentiated by itself, and only
g_i needs the net. Where a step's examples do not fit at once they go in pieces, of which g_i, which is then kept too, and all
that follows are sums.

TESLA (Cui et al., ICML 2023) leaves out the last term, so that lambda is the same at every step: `hessian=False`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from ..memory import Pieces, out_of_memory

State = tuple[Tensor, ...]
"""theta (P,), and what else the inner optimiser carries from step to step."""


@final
@dataclass(frozen=True)
class Loss:
    """The inner loss of step i: the sum of part(theta, i, piece, *inputs) over slices that cover range(size(i)), its examples.

    Called again for the same i, it must draw the same.
    """

    size: Callable[[int], int]
    part: Callable[..., Tensor]

    def after(self, steps: int) -> Loss:
        """The same loss, from step `steps` on."""
        return Loss(lambda i: self.size(steps + i), lambda theta, i, piece, *inputs: self.part(theta, steps + i, piece, *inputs))


class Flat:
    """A net as a function of its parameters as one vector theta (P,). For nets without batch norm: buffers stay as they are."""

    def __init__(self, net: nn.Module):
        self.net = net.requires_grad_(False)
        self.names = [name for name, _ in net.named_parameters()]
        self.shapes = [p.shape for p in net.parameters()]
        self.sizes = [math.prod(shape) for shape in self.shapes]

    def __len__(self) -> int:
        """P"""
        return sum(self.sizes)

    def __call__(self, theta: Tensor, x: Tensor) -> Tensor:
        """The net's logits with these parameters."""
        parts = [part.view(shape) for part, shape in zip(theta.split(self.sizes), self.shapes, strict=True)]
        return functional_call(self.net, dict(zip(self.names, parts, strict=True)), (x,))

    @staticmethod
    def of(net: nn.Module) -> Tensor:
        """theta (P,), a copy of the net's own parameters."""
        return torch.cat([p.detach().reshape(-1) for p in net.parameters()])


class Optimiser(Protocol):
    """How the inner loop goes one step, as a differentiable function of all that it takes."""

    def start(self, theta: Tensor) -> State: ...
    def step(self, state: Sequence[Tensor], g: Tensor, lr: Tensor) -> State: ...


@final
@dataclass(frozen=True)
class SGD:
    """torch.optim.SGD without weight decay; state (theta,), with momentum (theta, velocity)."""

    momentum: float = 0.0

    def start(self, theta: Tensor) -> State:
        return (theta, torch.zeros_like(theta)) if self.momentum else (theta,)

    def step(self, state: Sequence[Tensor], g: Tensor, lr: Tensor) -> State:
        if not self.momentum:
            return (state[0] - lr * g,)
        velocity = self.momentum * state[1] + g
        return state[0] - lr * velocity, velocity


@final
@dataclass(frozen=True)
class Adam:
    """torch.optim.Adam; state (theta, m, v, t). Where v is zero its root has derivative zero, as the limit of no gradient at all."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def start(self, theta: Tensor) -> State:
        return theta, torch.zeros_like(theta), torch.zeros_like(theta), theta.new_zeros(())

    def step(self, state: Sequence[Tensor], g: Tensor, lr: Tensor) -> State:
        theta, m, v, t = state
        b1, b2 = self.betas
        t = t.detach() + 1
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        some = v > 0
        root = torch.where(some, v, 1).sqrt() * some / (1 - b2**t).sqrt()
        return theta - lr / (1 - b1**t) * m / (root + self.eps), m, v, t


@final
class Keep(torch.autograd.graph.saved_tensors_hooks):
    """How many bytes of step graphs may be kept instead of made again; what one step's graph holds is measured on the first.

    Kept are the last steps, which the way back needs first. When memory runs out nothing is kept any more, and `notes` says so.
    What is kept decides the last bits of g (torch uses other kernels where a graph is wanted), so a run saves it with its state.
    """

    def __init__(self, limit: float, notes: list[str] | None = None):
        self.limit, self.step = limit, 0
        self.notes = [] if notes is None else notes
        self._seen: set[int] = set()
        super().__init__(self._pack, lambda t: t)

    def _pack(self, t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.step += storage.nbytes()
        return t.detach()  # a saved output that still knew its graph would keep it alive for ever

    def measure(self, graph: Callable[[], Any], own: Sequence[Tensor]) -> None:
        """Count what the graph that is made and dropped here holds, `own` tensors left out."""
        self._seen = {t.untyped_storage().data_ptr() for t in own}
        with self:
            graph()
        self._seen.clear()
        self.step = max(self.step, 1)

    def first(self, steps: int) -> int:
        """The first of `steps` steps whose graph is kept."""
        return steps - int(min(steps, self.limit / self.step)) if self.step else steps

    def state_dict(self) -> dict[str, float]:
        return {"limit": self.limit, "step": self.step}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.limit, self.step = state["limit"], int(state["step"])

    def nothing(self) -> None:
        self.limit = 0
        self.notes.append("out of memory: the graphs of inner steps are made again instead of kept, results unchanged")


def unroll(loss: Loss, state: State, lr: Tensor | float, inputs: Sequence[Tensor], steps: int, *, inner: Optimiser = SGD(), pieces: Pieces | None = None,
           keep: Keep | None = None, hessian: bool = True, best: Callable[[Tensor], Tensor] | None = None) -> State:  # fmt: skip
    """The state after `steps` inner steps, differentiable in `state`, `lr` and the loss's `inputs`.

    lr       one rate, or (steps,) one per step
    pieces   how many examples go through the net at once, less where memory runs out; none: all of a step, unless it runs out
    keep     step graphs that may be kept instead of made again; the result is the same but for rounding
    hessian  False: TESLA's gradient, which takes every g_i as if theta_i did not depend on S
    best     return, of the states after 1..steps, the one whose theta has the least best(theta): the automatic step of ATT
    """
    rates = torch.as_tensor(lr, dtype=state[0].dtype, device=state[0].device)
    plan = _Plan(loss, steps, inner, pieces or Pieces(sys.maxsize), keep or Keep(0), hessian, best, len(state))
    if not torch.is_grad_enabled():
        return plan.forward(state, rates, inputs, None)[0][-1]
    return _Adjoint.apply(plan, rates, *state, *inputs)


Graph = tuple[Tensor, list[Tensor], Tensor]
"""(theta, inputs, g_i as a function of the other two)"""


@dataclass(frozen=True)
class _Plan:
    loss: Loss
    steps: int
    inner: Optimiser
    pieces: Pieces
    keep: Keep
    hessian: bool
    best: Callable[[Tensor], Tensor] | None
    n_state: int

    def graph(self, theta: Tensor, i: int, piece: slice, inputs: Sequence[Tensor]) -> Graph:
        """This piece's part of g_i."""
        with torch.enable_grad():
            theta = theta.detach().requires_grad_()
            leaves = [x.detach().requires_grad_(x.is_floating_point()) for x in inputs]
            (g,) = torch.autograd.grad(self.loss.part(theta, i, piece, *leaves), theta, create_graph=True)
        return theta, leaves, g

    def gradient(self, theta: Tensor, i: int, inputs: Sequence[Tensor]) -> Tensor:
        """g_i"""
        inputs = [x.detach() for x in inputs]

        def part(piece: slice) -> Tensor:
            with torch.enable_grad():
                leaf = theta.detach().requires_grad_()
                return torch.autograd.grad(self.loss.part(leaf, i, piece, *inputs), leaf)[0]

        return _sum(self.pieces.map(self.loss.size(i), part))

    def whole(self, theta: Tensor, i: int, inputs: Sequence[Tensor]) -> Graph | None:
        """The graph of all of g_i, where that is one piece; None where it does not fit."""
        n = self.loss.size(i)
        try:
            return self.graph(theta, i, slice(0, n), inputs) if n <= self.pieces.limit else None
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            return None

    def kept(self, theta: Tensor, i: int, inputs: Sequence[Tensor], graphs: dict[int, Graph]) -> Tensor | None:
        """g_i, its graph kept in `graphs`; None where there is no room for it."""
        if not self.keep.limit or self.loss.size(i) > self.pieces.limit:
            return None
        if not self.keep.step:
            self.keep.measure(lambda: self.whole(theta, i, inputs), [theta, *inputs])
        if i < self.keep.first(self.steps):
            return None
        if (graph := self.whole(theta, i, inputs)) is None:
            graphs.clear()
            self.keep.nothing()
            return None
        graphs[i] = graph
        return graph[2].detach()

    def forward(self, state: State, lr: Tensor, inputs: Sequence[Tensor], graphs: dict[int, Graph] | None) -> tuple[list[State], list[Tensor | None]]:
        """The states after 0..n steps, and those g_i that took several pieces; step graphs for the way back are put into `graphs`."""
        states: list[State] = [tuple(s.detach() for s in state)]
        slopes: list[Tensor | None] = []
        nearest, least = 0, torch.inf
        for i in range(self.steps):
            g = None if graphs is None else self.kept(states[i][0], i, inputs, graphs)
            g = self.gradient(states[i][0], i, inputs) if g is None else g
            with torch.no_grad():
                states.append(self.inner.step(states[i], g, lr[i] if lr.ndim else lr))
                if self.best is not None and (distance := float(self.best(states[-1][0]))) < least:
                    nearest, least = i + 1, distance
            slopes.append(g if self.loss.size(i) > self.pieces.limit else None)
            if graphs is None and self.best is None:
                states[i], slopes[i] = (), None  # nobody goes back
        return (states, slopes) if self.best is None else (states[: nearest + 1], slopes)

    def backward(self, theta: Tensor, i: int, inputs: Sequence[Tensor], gamma: Tensor, kept: Graph | None) -> list[Tensor | None]:
        """The derivative of <g_i, gamma> by each input, and by theta (none for TESLA)."""

        def part(piece: slice) -> list[Tensor | None]:
            leaf, leaves, g = kept or self.graph(theta, i, piece, inputs)
            of = [*leaves, leaf] if self.hessian else leaves
            found = iter(torch.autograd.grad(g, [t for t in of if t.requires_grad], gamma, allow_unused=True))
            return [next(found) if t.requires_grad else None for t in of] + [None] * (not self.hessian)

        return [_sum([p for p in parts if p is not None]) for parts in zip(*self.pieces.map(self.loss.size(i), part), strict=True)]


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx, plan: _Plan, lr: Tensor, *tensors: Tensor) -> State:
        ctx.plan, ctx.graphs = plan, {}
        ctx.save_for_backward(lr, *tensors[plan.n_state :])
        states, ctx.slopes = plan.forward(tensors[: plan.n_state], lr, tensors[plan.n_state :], ctx.graphs)
        ctx.states = states[:-1]
        return tuple(s.clone() for s in states[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx, *lam: Tensor):
        plan, (lr, *inputs) = ctx.plan, ctx.saved_tensors
        d_lr, d_inputs = torch.zeros_like(lr), [torch.zeros_like(x) if x.is_floating_point() else None for x in inputs]
        for i in ctx.graphs.keys() - range(len(ctx.states)):
            del ctx.graphs[i]  # of steps after the best one
        for i in reversed(range(len(ctx.states))):
            theta, g, kept = ctx.states[i][0], ctx.slopes[i], ctx.graphs.pop(i, None)
            if g is None:
                kept = kept or plan.whole(theta, i, inputs)
                g = plan.gradient(theta, i, inputs) if kept is None else kept[2].detach()
            (*before, gamma), d = _back(plan.inner, ctx.states[i], g, lr[i] if lr.ndim else lr, lam)
            (d_lr[i] if lr.ndim else d_lr).add_(d)
            *parts, chain = plan.backward(theta, i, inputs, gamma, kept)
            lam = (before[0] if chain is None else before[0] + chain, *before[1:])
            for total, part in zip(d_inputs, parts, strict=True):
                if part is not None:
                    total.add_(part)
        return None, d_lr, *lam, *d_inputs


def _back(inner: Optimiser, state: State, g: Tensor, lr: Tensor, lam: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """The optimiser's own step, backwards, from `lam`, the cotangents of the state after: those of the state before and of g; that of lr."""
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in (*state, g, lr)]
        after = [(new, c) for new, c in zip(inner.step(leaves[:-2], *leaves[-2:]), lam, strict=True) if new.requires_grad]
    *before, d_lr = torch.autograd.grad([a for a, _ in after], leaves, [c for _, c in after], allow_unused=True, materialize_grads=True)
    return before, d_lr


def _sum(parts: list[Tensor]) -> Tensor | None:
    """Of the parts that pieces gave; None of none."""
    return sum(parts[1:], parts[0]) if parts else None
