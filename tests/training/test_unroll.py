"""The adjoint is the gradient of the unrolled loop: against one big graph, and against finite differences, in float64."""

from __future__ import annotations

import gc

import pytest
import torch
import torch.nn.functional as F

from datadistill import nets
from datadistill.memory import Live, Pieces
from datadistill.rng import rng
from datadistill.spec import Spec
from datadistill.training.unroll import SGD, Adam, Flat, Keep, Loss, unroll

N = 6
SPECS = {
    "convnet": Spec("image", (2, 8, 8), (2, 8, 8), "uint8", ("a", "b", "c"), {}),
    "mlp": Spec("tabular", (5,), (5,), "float32", ("a", "b", "c"), {}),
}
INNER = {"sgd": SGD(), "momentum": SGD(0.9), "adam": Adam()}


class Problem:
    """N steps on six examples in minibatches of four, x, logits of soft labels and the rate (one, or one per step) learned."""

    def __init__(self, family: str, per_step: bool = False):
        spec = SPECS[family]
        net = nets.build(family, spec, rng(0, "theta"), width=4).double()
        self.net, self.theta = Flat(net), Flat.of(net)
        self.x = torch.randn((6, *spec.shape), generator=rng(0, "x"), dtype=torch.float64)
        self.y = torch.randn((6, 3), generator=rng(0, "y"), dtype=torch.float64)
        self.lr = torch.full((N,), 0.1).double() * torch.arange(1, N + 1) / N if per_step else torch.tensor(0.07, dtype=torch.float64)
        self.target = self.theta + 0.1 * torch.randn(len(self.theta), generator=rng(0, "target"), dtype=torch.float64)
        self.calls = 0

    def part(self, theta, i, piece, x, y):
        self.calls += 1
        rows = torch.randperm(6, generator=rng(0, "rows", i))[:4][piece]
        return F.cross_entropy(self.net(theta, x[rows]), y[rows].softmax(1), reduction="sum") / 4

    def whole(self, theta, i, x, y):
        return self.part(theta, i, slice(0, 4), x, y)

    @property
    def loss(self):
        return Loss(lambda i: 4, lambda *args: self.part(*args))

    def leaves(self):
        return [t.clone().requires_grad_() for t in (self.theta, self.lr, self.x, self.y)]

    def adjoint(self, inner, **options):
        theta, lr, x, y = leaves = self.leaves()
        loss = (unroll(self.loss, inner.start(theta), lr, (x, y), N, inner=inner, **options)[0] - self.target).square().sum()
        loss.backward()
        return loss.detach(), [t.grad for t in leaves]

    def unrolled(self, inner):
        """The same as one graph, optimiser and all."""
        theta, lr, x, y = leaves = self.leaves()
        state = inner.start(theta)
        for i in range(N):
            (g,) = torch.autograd.grad(self.whole(state[0], i, x, y), state[0], create_graph=True)
            state = inner.step(state, g, lr[i] if lr.ndim else lr)
        loss = (state[0] - self.target).square().sum()
        loss.backward()
        return loss.detach(), [t.grad for t in leaves]


def close(a, b, tolerance=1e-9):
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()))


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("family", SPECS)
def test_the_adjoint_equals_full_unrolling(family, inner, per_step):
    problem = Problem(family, per_step)
    loss, gradients = problem.adjoint(INNER[inner])
    expected, full = problem.unrolled(INNER[inner])
    assert close(loss, expected)
    for name, mine, theirs in zip(("theta", "lr", "x", "labels"), gradients, full, strict=True):
        assert theirs.abs().max() > 0 and close(mine, theirs), name


@pytest.mark.parametrize("inner", INNER)
def test_the_adjoint_equals_finite_differences(inner):
    problem = Problem("mlp")

    def value(theta, lr, x, y):
        with torch.no_grad():
            return float((unroll(problem.loss, INNER[inner].start(theta), lr, (x, y), N, inner=INNER[inner])[0] - problem.target).square().sum())

    _, gradients = problem.adjoint(INNER[inner])
    at = [problem.theta, problem.lr, problem.x, problem.y]
    for k, gradient in enumerate(gradients):
        way = torch.randn(at[k].shape, generator=rng(1, k), dtype=torch.float64)
        there, back = ([t + sign * 1e-6 * way if j == k else t for j, t in enumerate(at)] for sign in (1, -1))
        slope = (value(*there) - value(*back)) / 2e-6
        assert float((gradient * way).sum()) == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("inner", INNER)
def test_the_inner_optimisers_are_those_of_torch(inner):
    problem = Problem("mlp")
    theta = problem.theta.clone().requires_grad_()
    theirs = {"sgd": torch.optim.SGD([theta], 0.07), "momentum": torch.optim.SGD([theta], 0.07, 0.9), "adam": torch.optim.Adam([theta], 0.07)}[inner]
    for i in range(N):
        theirs.zero_grad()
        problem.whole(theta, i, problem.x, problem.y).backward()
        theirs.step()
    with torch.no_grad():
        mine = unroll(problem.loss, INNER[inner].start(problem.theta), 0.07, (problem.x, problem.y), N, inner=INNER[inner])[0]
    assert close(mine, theta.detach(), 1e-12)


@pytest.mark.parametrize("inner", INNER)
def test_kept_graphs_change_the_work_and_not_the_result(inner):
    problem, everything = Problem("convnet"), Keep(10**9)
    results, calls = [], []
    for keep in (None, everything, everything, Keep(2.5 * step_bytes())):
        problem.calls = 0
        results.append(problem.adjoint(INNER[inner], keep=keep))
        calls.append(problem.calls)
    assert calls == [2 * N, N + 1, N, 2 * N + 1 - 2]  # done twice; once, and once more to measure; once; all twice but for two
    for loss, gradients in results[1:]:
        assert close(loss, results[0][0])
        assert all(close(a, b) for a, b in zip(gradients, results[0][1], strict=True))


def step_bytes() -> int:
    keep = Keep(1)
    Problem("convnet").adjoint(SGD(), keep=keep)
    return keep.step


def test_a_step_graph_is_measured_by_what_it_holds():
    problem = Problem("convnet")
    activations = 4 * 4 * 8 * 8 * 8  # one map of the first block: examples, channels, side, side, bytes of a float64
    assert 4 * activations < step_bytes() < 40 * activations
    assert problem.adjoint(SGD(), keep=Keep(0))[0] > 0


@pytest.mark.parametrize("inner", INNER)
def test_memory_grows_with_the_steps_by_their_states_alone(inner):
    peaks, problem = [], Problem("convnet")
    for steps in (4, 14):
        with Live() as live:
            state = INNER[inner].start(problem.theta)
            unroll(problem.loss, state, problem.lr, (problem.x.requires_grad_(), problem.y), steps, inner=INNER[inner])[0].sum().backward()
        peaks.append(live.most)
    of_a_state = sum(t.nbytes for t in state)
    assert peaks[1] - peaks[0] < 1.1 * 10 * of_a_state < 10 * step_bytes()


def test_memory_without_end_keeps_every_graph():
    keep = Keep(float("inf"))
    keep.step = 7
    assert keep.first(N) == 0


def test_what_was_measured_is_saved_with_a_run():
    kept, again = Keep(10**9), Keep(10**9)
    Problem("convnet").adjoint(SGD(), keep=kept)
    again.load_state_dict(kept.state_dict())
    problem = Problem("convnet")
    problem.adjoint(SGD(), keep=again)
    assert problem.calls == N  # not measured again


def test_running_out_of_memory_while_keeping_changes_nothing_else():
    problem, keep = Problem("mlp"), Keep(10**9)
    loss, gradients = problem.adjoint(SGD())
    full = problem.part

    def small(theta, i, piece, x, y):
        if x.requires_grad and i >= 2 and keep.limit:
            raise MemoryError
        return full(theta, i, piece, x, y)

    problem.part = small
    again, same = problem.adjoint(SGD(), keep=keep)
    assert close(loss, again, 1e-12) and all(close(a, b, 1e-12) for a, b in zip(gradients, same, strict=True))
    assert len(keep.notes) == 1 and "memory" in keep.notes[0]


def test_going_on_from_a_state_is_the_same_as_never_having_stopped():
    problem = Problem("mlp")
    args = (problem.lr, (problem.x, problem.y))
    with torch.no_grad():
        half = unroll(problem.loss, Adam().start(problem.theta), *args, 3, inner=Adam())
        rest = unroll(problem.loss.after(3), half, *args, N - 3, inner=Adam())
        whole = unroll(problem.loss, Adam().start(problem.theta), *args, N, inner=Adam())
    assert all(torch.equal(a, b) for a, b in zip(rest, whole, strict=True))


def test_the_best_state_is_returned_and_differentiated_as_if_the_loop_had_ended_there():
    problem = Problem("mlp")
    with torch.no_grad():
        path = [unroll(problem.loss, (problem.theta,), problem.lr, (problem.x, problem.y), n)[0] for n in range(1, N + 1)]
    x = problem.x.clone().requires_grad_()
    (best,) = unroll(problem.loss, (problem.theta,), problem.lr, (x, problem.y), N, best=lambda theta: (theta - path[2]).norm(), keep=Keep(10**9))
    assert torch.equal(best, path[2])
    best.sum().backward()
    y = problem.x.clone().requires_grad_()
    unroll(problem.loss, (problem.theta,), problem.lr, (y, problem.y), 3)[0].sum().backward()
    assert close(x.grad, y.grad, 1e-14)


def test_a_dead_parameter_makes_no_nan_through_adam():
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)  # no gradient at all, so that v stays zero
    loss = Loss(lambda i: 1, lambda theta, i, piece, x: (theta * x).sum() * 0 + (theta[0] - 1) ** 2 * x.sum().exp())
    (theta, *_) = unroll(loss, Adam().start(torch.zeros(3, dtype=torch.float64)), 0.1, (x,), 3, inner=Adam())
    theta.sum().backward()
    assert torch.isfinite(theta).all() and torch.isfinite(x.grad).all()


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("family", SPECS)
def test_pieces_change_nothing_but_the_memory(family, inner):
    problem = Problem(family)
    loss, gradients = problem.adjoint(INNER[inner])
    for limit in (3, 1):
        again, same = problem.adjoint(INNER[inner], pieces=Pieces(limit), keep=Keep(10**9))
        assert close(again, loss) and all(close(a, b) for a, b in zip(same, gradients, strict=True))


@pytest.mark.parametrize("where", ["there", "back"])
def test_a_step_that_does_not_fit_is_done_in_halves(where):
    problem, pieces = Problem("mlp"), Pieces(10)
    loss, gradients = problem.adjoint(Adam())
    full = problem.part

    def small(theta, i, piece, x, y):
        if piece.stop - piece.start > 2 and x.requires_grad == (where == "back"):
            raise MemoryError
        return full(theta, i, piece, x, y)

    problem.part = small
    again, same = problem.adjoint(Adam(), pieces=pieces)
    assert pieces.limit == 2 and len(pieces.notes) == 1
    assert close(again, loss) and all(close(a, b) for a, b in zip(same, gradients, strict=True))


def test_nothing_stays_behind():
    """No graph outlives its use, kept or not: reference cycles through hooks would hold a step's memory for ever."""
    problem = Problem("convnet")
    counts = []
    for _ in range(3):
        problem.adjoint(SGD(), keep=Keep(10**9))
        gc.collect()
        counts.append(sum(type(o) is torch.Tensor for o in gc.get_objects()))
    assert counts[2] == counts[1]
