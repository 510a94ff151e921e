"""The inner loop, theta_{i+1} = theta_i - eta g_i with g_i = grad_theta l(theta_i; S), and its exact gradient by a step-wise adjoint.

Unrolling as one graph keeps every activation of every step. The adjoint keeps the parameters alone and, with
lambda = dL/dtheta_N, goes back one step at a time, the graph of that step being made again:
    s = <g_i, lambda>        dL/dx -= eta ds/dx        dL/deta -= s        lambda -= eta ds/dtheta
which is the same gradient (reverse over reverse), in the memory of one step whatever their number. For an optimiser with a
state (momentum, Adam) lambda covers the state: its update is differentiated by itself, and only g_i needs the net.

TESLA (Cui et al., ICML 2023) leaves out the last term, so that lambda is the same at every step: `hessian=False`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from ..memory import out_of_memory

State = tuple[Tensor, ...]
"""theta (P,), and what else the inner optimiser carries from step to step."""

Loss = Callable[..., Tensor]
"""l(theta, i, *inputs): the inner loss (a scalar) of step i; called again for the same i, it must draw the same."""


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
        return steps - min(steps, int(self.limit // self.step)) if self.step else steps

    def state_dict(self) -> dict[str, float]:
        return {"limit": self.limit, "step": self.step}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.limit, self.step = state["limit"], int(state["step"])

    def nothing(self) -> None:
        self.limit = 0
        self.notes.append("out of memory: the graphs of inner steps are made again instead of kept, results unchanged")


def unroll(loss: Loss, state: State, lr: Tensor | float, inputs: Sequence[Tensor], steps: int, *, inner: Optimiser = SGD(),
           keep: Keep | None = None, hessian: bool = True, best: Callable[[Tensor], Tensor] | None = None) -> State:  # fmt: skip
    """The state after `steps` inner steps on loss(theta, i, *inputs), differentiable in `state`, `lr` and `inputs`.

    lr       one rate, or (steps,) one per step
    keep     step graphs that may be kept instead of made again; the result is the same but for rounding
    hessian  False: TESLA's gradient, which takes every g_i as if theta_i did not depend on S
    best     return, of the states after 1..steps, the one whose theta has the least best(theta): the automatic step of ATT
    """
    rates = torch.as_tensor(lr, dtype=state[0].dtype, device=state[0].device)
    plan = _Plan(loss, steps, inner, keep or Keep(0), hessian, best, len(state))
    if not torch.is_grad_enabled():
        return plan.forward(state, rates, inputs, None)[-1]
    return _Adjoint.apply(plan, rates, *state, *inputs)


@dataclass(frozen=True)
class _Plan:
    loss: Loss
    steps: int
    inner: Optimiser
    keep: Keep
    hessian: bool
    best: Callable[[Tensor], Tensor] | None
    n_state: int

    def gradient(self, theta: Tensor, i: int, inputs: Sequence[Tensor], graph: bool) -> tuple[Tensor, list[Tensor], Tensor]:
        """(theta, inputs, g_i): g_i as a function of the other two if `graph`."""
        with torch.enable_grad():
            theta = theta.detach().requires_grad_()
            leaves = [x.detach().requires_grad_(graph and x.is_floating_point()) for x in inputs]
            (g,) = torch.autograd.grad(self.loss(theta, i, *leaves), theta, create_graph=graph)
        return theta, leaves, g

    def kept(self, theta: Tensor, i: int, inputs: Sequence[Tensor], graphs: dict[int, Any]) -> Tensor | None:
        """g_i, its graph kept in `graphs`; None where there is no room for it."""
        try:
            if self.keep.limit and not self.keep.step:
                self.keep.measure(lambda: self.gradient(theta, i, inputs, True), [theta, *inputs])
            if i < self.keep.first(self.steps):
                return None
            graphs[i] = self.gradient(theta, i, inputs, True)
            return graphs[i][2]
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            graphs.clear()
            self.keep.nothing()
            return None

    def forward(self, state: State, lr: Tensor, inputs: Sequence[Tensor], graphs: dict[int, Any] | None) -> list[State]:
        """The states after 0..n steps; step graphs for the way back are put into `graphs`."""
        states = [tuple(s.detach() for s in state)]
        nearest, least = 0, torch.inf
        for i in range(self.steps):
            g = None if graphs is None else self.kept(states[i][0], i, inputs, graphs)
            if g is None:
                g = self.gradient(states[i][0], i, inputs, False)[2]
            with torch.no_grad():
                states.append(self.inner.step(states[i], g.detach(), lr[i] if lr.ndim else lr))
                if self.best is not None and not (distance := float(self.best(states[-1][0]))) >= least:
                    nearest, least = i + 1, distance
        return states if self.best is None else states[: nearest + 1]


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx, plan: _Plan, lr: Tensor, *tensors: Tensor) -> State:
        ctx.plan, ctx.graphs = plan, {}
        ctx.save_for_backward(lr, *tensors[plan.n_state :])
        states = plan.forward(tensors[: plan.n_state], lr, tensors[plan.n_state :], ctx.graphs)
        ctx.states = states[:-1]
        return tuple(s.clone() for s in states[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx, *cotangents: Tensor | None):
        plan, graphs = ctx.plan, ctx.graphs
        lr, *inputs = ctx.saved_tensors
        lam = [torch.zeros_like(s) if c is None else c for c, s in zip(cotangents, ctx.states[0] if ctx.states else cotangents, strict=True)]
        d_lr = torch.zeros_like(lr)
        d_inputs = [torch.zeros_like(x) if x.is_floating_point() else None for x in inputs]
        for i in graphs.keys() - range(len(ctx.states)):
            del graphs[i]  # of steps after the best one
        for i in reversed(range(len(ctx.states))):
            theta, leaves, g = graphs.pop(i, None) or plan.gradient(ctx.states[i][0], i, inputs, True)
            lam, gamma, d = _back(plan.inner, ctx.states[i], g.detach(), lr[i] if lr.ndim else lr, lam)
            (d_lr[i] if lr.ndim else d_lr).add_(d)
            of = [x for x in leaves if x.requires_grad]
            parts = list(torch.autograd.grad(g, of + [theta] * plan.hessian, gamma, allow_unused=True))
            if plan.hessian and (chain := parts.pop()) is not None:
                lam[0] = lam[0] + chain
            for x, total in zip(leaves, d_inputs, strict=True):
                if x.requires_grad and (part := parts.pop(0)) is not None:
                    total.add_(part)
        return None, d_lr, *lam, *d_inputs


def _back(inner: Optimiser, state: State, g: Tensor, lr: Tensor, lam: list[Tensor]) -> tuple[list[Tensor], Tensor, Tensor]:
    """The optimiser's own step, backwards: cotangents of (the state before, g, lr) from `lam`, those of the state after."""
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in (*state, g, lr)]
        after = [(new, c) for new, c in zip(inner.step(leaves[:-2], *leaves[-2:]), lam, strict=True) if new.requires_grad]
    *before, gamma, d_lr = torch.autograd.grad([a for a, _ in after], leaves, [c for _, c in after], allow_unused=True, materialize_grads=True)
    return before, gamma, d_lr
