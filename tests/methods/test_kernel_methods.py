"""Methods that learn S by regression in a kernel's space: a step's loss and gradients against the papers' formulas retyped slowly, and laws."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from slow import PRECISIONS, Watched, agree, watch
from torch.func import functional_call, jacrev

from datadistill import nets
from datadistill.data.task import Budget, Task
from datadistill.errors import Resources, UsageError
from datadistill.match import kernel
from datadistill.memory import Pieces
from datadistill.methods import KIP, RCIG, RFAD, FRePo, rcig
from datadistill.methods.regression import Learned
from datadistill.rng import rng
from datadistill.run import Run
from datadistill.synthetic import SyntheticSet
from datadistill.testing import tiny_tasks
from datadistill.training.lamb import LAMB
from datadistill.training.linear import Linear, smooth
from datadistill.training.pool import Pool

TASKS = tiny_tasks()
F64 = torch.float64
precision = pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
both = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
chunks = pytest.mark.parametrize("chunk", [None, 2])


class WatchedAll(Watched):
    """Keeps the gradients of all that is moved, S first."""

    def descend(self, optimizer, loss):
        value = super().descend(optimizer, loss)
        self.gradients = [p.grad.clone() for group in optimizer.param_groups for p in group["params"]]
        return value


def learned_gradient(method, task, seed, dtype, monkeypatch):
    """The gradient by what follows S in the optimiser (y_s) of the method's first step."""
    runs = []

    class Kept(WatchedAll):
        def __init__(self, seed):
            super().__init__(seed)
            runs.append(self)

    monkeypatch.setattr("slow.Watched", Kept)
    first = watch(method, task, seed, dtype, monkeypatch)[0]
    return first, runs[0].gradients[1:]


def start(method, task, dtype, scale=1.0):
    """S as a leaf, y_s, and the real batch of the first step: (x, y_s, x_t, classes of T)."""
    run = Run(3)
    syn = SyntheticSet.init(task, method.init, run.rng("init"), method.form).to(dtype)
    rows = torch.randperm(len(task.train), generator=run.rng("real", 0))[: method.real_batch]
    y = torch.zeros(len(syn), len(task.classes), dtype=F64)
    for i, c in enumerate(syn.y.tolist()):
        for k in task.classes:
            y[i, k] = scale * ((k == c) - 1 / len(task.classes))
    return syn.x.detach().requires_grad_(), y.requires_grad_(), task.train.read(rows).to(dtype), task.train.labels[rows]


def said_of_t(f_s, f_t, y, shift):
    """Ridge regression by the normal equations' dual, one explicit inverse."""
    f_s, f_t = f_s.double(), f_t.double()
    k_ss, k_ts = f_s @ f_s.T, f_t @ f_s.T
    return k_ts @ torch.linalg.inv(k_ss + shift * k_ss.trace() / len(k_ss) * torch.eye(len(k_ss), dtype=F64)) @ y


# -- FRePo --------------------------------------------------------------------------------------------------------------


@precision
@chunks
@both
def test_frepo_is_the_papers_loss(task, dtype, tolerance, chunk, monkeypatch):
    ridge = 1e-3 if dtype is F64 else 1e-2
    method = FRePo(iterations=1, real_batch=10, pool=3, width=4, ridge=ridge, chunk=chunk)
    x, y, x_t, classes = start(method, task, dtype, 1 / math.sqrt(3 / 10))
    k = int(torch.randint(3, (), generator=Run(3).rng("pool", 0)))
    net = nets.build(method.net_for(task.modality), task.spec, Run(3).rng("theta", k, 0), width=4).to(dtype)
    said = said_of_t(net.embed(x), net.embed(x_t), y, ridge)
    loss = torch.zeros((), dtype=F64)
    for i, c in enumerate(classes.tolist()):
        for j in task.classes:
            loss = loss + 0.5 * (said[i, j] - ((j == c) - 1 / 3)) ** 2 / len(classes)
    for row in y:
        first, second = row.sort(descending=True).values[:2]
        loss = loss - torch.minimum(first - second, torch.tensor(1 / 3, dtype=F64)) / len(y)
    by_x, by_y = torch.autograd.grad(loss, [x, y])
    ours, (ours_y,) = learned_gradient(method, task, 3, dtype, monkeypatch)
    agree(ours, (loss.detach(), by_x), tolerance if dtype is F64 else 1e-4)
    torch.testing.assert_close(ours_y, by_y, rtol=1e-7 if dtype is F64 else 1e-3, atol=1e-9 if dtype is F64 else 1e-5)


def test_lamb_is_its_formula_and_moves_a_share_of_the_length():
    p, other = (torch.nn.Parameter(torch.randn(shape, generator=rng(k), dtype=F64)) for k, shape in enumerate(((4, 3), (5,))))
    ours, q, m, v = LAMB([p, other], lr=0.1, steps=4, least=0.1), p.detach().clone(), 0.0, 0.0
    for t in range(4):
        g = torch.randn((4, 3), generator=rng(7, "g", t), dtype=F64)
        p.grad, other.grad = g.clone(), torch.ones(5, dtype=F64)
        lr = 0.1 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * t / 4)))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        u = m / (1 - 0.9 ** (t + 1)) / ((v / (1 - 0.999 ** (t + 1))).sqrt() + 1e-6)
        before, q = q, q - lr * q.norm() / u.norm() * u
        ours.step()
        torch.testing.assert_close(p.detach(), q)
        assert float((q - before).norm()) == pytest.approx(lr * float(before.norm()))


def test_lamb_moves_what_is_zero_and_takes_up_its_state():
    p = torch.nn.Parameter(torch.zeros(3))
    opt = LAMB([p], lr=0.1, steps=10)
    p.grad = torch.ones(3)
    opt.step()
    torch.testing.assert_close(p.detach(), torch.full((3,), -0.1), rtol=1e-3, atol=0)
    q = torch.nn.Parameter(p.detach().clone())
    other = LAMB([q], lr=0.1, steps=10)
    other.load_state_dict(copy.deepcopy(opt.state_dict()))
    for a, o in ((p, opt), (q, other)):
        a.grad = torch.tensor([1.0, -2.0, 0.5])
        o.step()
    assert torch.equal(p, q)


@both
@pytest.mark.parametrize("limit", [2, 99])
def test_a_network_of_the_pool_is_trained_as_torch_trains_it(task, limit):
    """torch's Adam on 1/2 mean || f(x) - y ||^2; the others stay; a renewed one is fresh, of another generation."""

    def make(k, born):
        return nets.build(task.modality.nets[0], task.spec, rng(0, "theta", k, born), width=4).double()

    pool, alone = Pool(make, 3, 0.01, lambda k: 5 * k), make(1, 0)
    x, y = task.train.read(torch.arange(9)).double(), torch.randn((9, 3), generator=rng(1), dtype=F64)
    before, optimizer = pool.theta.clone(), torch.optim.Adam(alone.parameters(), lr=0.01)
    for _ in range(3):
        pool.fit(1, x, y, Pieces(limit))
        optimizer.zero_grad()
        (0.5 * (alone(x) - y).square().sum(1)).mean().backward()
        optimizer.step()
    for a, b in zip(pool.load(1).parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
    assert torch.equal(pool.theta[[0, 2]], before[[0, 2]]) and pool.age.tolist() == [0, 8, 10]
    pool.renew(1)
    assert pool.age.tolist() == [0, 0, 10] and not pool.m[1].any()
    assert torch.equal(torch.cat([p.reshape(-1) for p in make(1, 1).parameters()]), pool.theta[1]) and not torch.equal(pool.theta[1], before[1])


def test_networks_of_the_pool_are_renewed_when_they_have_had_their_steps(monkeypatch):
    ages = []
    monkeypatch.setattr(Pool, "renew", lambda self, k, was=Pool.renew: (ages.append(int(self.age[k])), was(self, k)))
    FRePo(iterations=9, real_batch=5, pool=2, max_updates=3, width=4).distill(TASKS["tabular"], Run(0))
    assert ages and all(age == 3 for age in ages)


# -- RFAD ---------------------------------------------------------------------------------------------------------------


@precision
@chunks
@both
def test_rfad_is_the_papers_loss(task, dtype, tolerance, chunk, monkeypatch):
    method = RFAD(iterations=1, real_batch=10, nets=3, width=4, chunk=chunk)
    x, y, x_t, classes = start(method, task, dtype)
    psis = [nets.build(method.net_for(task.modality), task.spec, Run(3).rng("theta", 0, k), width=4).to(dtype) for k in range(3)]
    k_ss, k_ts = (sum(psi.embed(a).double() @ psi.embed(x).double().T for psi in psis) / 3 for a in (x, x_t))
    said = k_ts @ torch.linalg.inv(k_ss + 5e-3 * k_ss.trace() / len(x) * torch.eye(len(x), dtype=F64)) @ y
    tau = torch.ones((), dtype=F64, requires_grad=True)
    loss = sum(torch.logsumexp(tau * row, 0) - tau * row[c] for row, c in zip(said, classes.tolist(), strict=True)) / len(classes)
    by_x, by_y, by_tau = torch.autograd.grad(loss, [x, y, tau])
    ours, (ours_y, ours_tau) = learned_gradient(method, task, 3, dtype, monkeypatch)
    agree(ours, (loss.detach(), by_x), tolerance if dtype is F64 else 1e-4)
    torch.testing.assert_close(ours_y, by_y, rtol=1e-7 if dtype is F64 else 1e-3, atol=1e-9 if dtype is F64 else 1e-5)
    torch.testing.assert_close(ours_tau, by_tau, rtol=1e-7 if dtype is F64 else 1e-3, atol=1e-9 if dtype is F64 else 1e-5)


# -- KIP ----------------------------------------------------------------------------------------------------------------


def slow_ntk(a, b, depth):
    """Of two examples, number by number; for an example with itself the angle is zero."""
    a, b = a.double().flatten(), b.double().flatten()

    def first(u, v):
        return 2 * (u * v).mean() + 0.01

    aa, bb, ab = first(a, a), first(b, b), first(a, b)
    ntk = ab
    for _ in range(depth):
        size = (aa * bb).sqrt()
        cosine = ab / size
        angle = torch.zeros((), dtype=F64) if float(1 - cosine.detach()) < 1e-12 else torch.acos(cosine)
        ab = size / math.pi * (angle.sin() + (math.pi - angle) * cosine) + 0.01
        ntk = ab + (math.pi - angle) / math.pi * ntk
        aa, bb = aa + 0.01, bb + 0.01
    return ntk


@precision
@both
@pytest.mark.parametrize("memory", [1.0, 3e-5])
def test_kip_is_the_papers_loss(task, dtype, tolerance, memory, monkeypatch):
    method = KIP(iterations=1, real_batch=6, depth=2, learn_labels=True, init="noise", memory=memory)
    x, y, x_t, classes = start(method, task, dtype)
    k_ss, k_ts = (torch.stack([torch.stack([slow_ntk(a, b, 2) for b in x]) for a in rows]) for rows in (x, x_t))
    said = k_ts @ torch.linalg.inv(k_ss + 1e-6 * k_ss.trace() / len(x) * torch.eye(len(x), dtype=F64)) @ y
    loss = sum(0.5 * (row[j] - ((j == c) - 1 / 3)) ** 2 for row, c in zip(said, classes.tolist(), strict=True) for j in task.classes) / len(classes)
    by_x, by_y = torch.autograd.grad(loss, [x, y])
    ours, (ours_y,) = learned_gradient(method, task, 3, dtype, monkeypatch)
    agree(ours, (loss.detach(), by_x), tolerance)
    torch.testing.assert_close(ours_y, by_y, rtol=1e-7, atol=1e-9)


def test_kip_refuses_what_does_not_fit_in_memory_and_what_is_no_grid():
    task = TASKS["image"]
    with pytest.raises(Resources, match=r"MiB.*\n.*memory=0.001") as refused:
        KIP(iterations=1, kernel="conv", memory=0.001).distill(task, Run(0))
    assert "kernel=fc" in refused.value.fix
    with pytest.raises(Resources, match=r"takes \d.* KiB") as refused:
        KIP(iterations=1, memory=1e-9).distill(task, Run(0))
    KIP(iterations=1, memory=float(refused.value.fix.removeprefix("--set memory="))).distill(task, Run(0))  # the fix is one
    with pytest.raises(UsageError, match="kernel=fc"):
        KIP(kernel="conv").check(TASKS["tabular"].modality)
    with pytest.raises(UsageError, match="depth=3"):
        KIP(iterations=1, kernel="conv", depth=4).distill(task, Run(0))


def test_kips_labels_stay_the_classes_unless_they_are_learned():
    task = TASKS["tabular"]
    assert set(KIP(iterations=2, real_batch=9).distill(task, Run(0)).labels.tensors()) == {"labels"}
    assert set(KIP(iterations=2, real_batch=9, learn_labels=True).distill(task, Run(0)).labels.tensors()) == {"labels", "values"}


# -- RCIG ---------------------------------------------------------------------------------------------------------------


def case(task, beta):
    """A linearised net in double precision, S, its labels, and half of T."""
    net = smooth(nets.build(task.modality.nets[0], task.spec, rng(0, "theta"), width=3), beta).double().requires_grad_(False)
    x = task.train.read(torch.arange(5)).double() + 0.1 * torch.randn((5, *task.spec.shape), generator=rng(1), dtype=F64)
    learned = Learned(kernel.centred(task.train.labels[:5], 3) + 0.1 * torch.randn((5, 3), generator=rng(2), dtype=F64))
    return net, x, learned


def jacobian(net, x):
    """(features, J (n, classes, P)) by all parameters but the head's weights, one by one."""
    theta = {k: p.detach() for k, p in net.named_parameters() if k != "head.weight"}
    parts = jacrev(lambda theta: functional_call(net, {**theta, "head.weight": net.head.weight}, (x,)))(theta)
    return net.embed(x), torch.cat([part.flatten(2) for part in parts.values()], 2)


@both
@pytest.mark.parametrize("limit", [2, 99])
def test_linear_is_the_jacobian(task, limit):
    net, x, _ = case(task, 0.0)
    features, j = jacobian(net, x)
    linear = Linear(net, Pieces(limit))
    delta, other = (torch.randn(j.shape[2], generator=rng(k), dtype=F64) for k in (3, 4))
    ours = linear.values(x, delta, other)
    for a, b in zip(ours, (features, j @ delta, j @ other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    pull = torch.randn((5, 3), generator=rng(5), dtype=F64)
    torch.testing.assert_close(linear.back(x, pull), torch.einsum("nc,ncp->p", pull, j), rtol=1e-9, atol=1e-11)


@both
@pytest.mark.parametrize("limit", [3, 99])
def test_rcigs_gradient_is_that_of_the_outer_loss_at_the_inner_minimum(task, limit, monkeypatch):
    """By finite differences of S, of y_s and of tau, the inner problem being solved densely; nothing cut."""
    monkeypatch.setattr(rcig, "no_longer", lambda implicit, direct: implicit)
    method = RCIG(real_batch=12, inner=60, ridge=0.02)
    net, x, learned = case(task, 3.0)
    rows = torch.arange(8, 20)
    real = task.train.read(rows).double()
    monkeypatch.setattr(type(task.train), "read", lambda self, which, device="cpu": real[which - 8])
    f_t, j_t = jacobian(net, real)

    def outer(x, y, log_tau):
        f_s, j_s = jacobian(net, x)
        inverse = torch.linalg.inv(f_s @ f_s.T + 0.02 * 5 * torch.eye(5, dtype=F64))
        flat = j_s.flatten(0, 1)
        big = torch.kron(inverse.contiguous(), torch.eye(3, dtype=F64))
        delta = torch.linalg.solve(torch.eye(flat.shape[1], dtype=F64) + flat.T @ big @ flat, flat.T @ big @ y.reshape(-1))
        said = j_t @ delta + f_t @ f_s.T @ inverse @ (y - j_s @ delta)
        loss = torch.nn.functional.cross_entropy(math.exp(log_tau) * said, task.train.labels[rows])
        top = y.sort(1, descending=True).values
        return float(loss - (top[:, 0] - top[:, 1]).clamp(max=1 / 6).mean())

    with torch.no_grad():
        learned.log_tau.fill_(0.3)
    value, by_x, by_y, by_tau = method.gradient(Linear(net, Pieces(limit)), x, learned, 1, task, Run(0), rows, len(rows), Pieces(limit))
    y = learned.y.detach()
    assert float(value) == pytest.approx(outer(x, y, 0.3), rel=1e-8)
    h = 1e-5
    for k in range(3):
        along = torch.randn(x.shape, generator=rng(10 + k), dtype=F64)
        slope = (outer(x + h * along, y, 0.3) - outer(x - h * along, y, 0.3)) / (2 * h)
        assert float((by_x * along).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-8)
        along = torch.randn(y.shape, generator=rng(20 + k), dtype=F64)
        slope = (outer(x, y + h * along, 0.3) - outer(x, y - h * along, 0.3)) / (2 * h)
        assert float((by_y * along).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-8)
    assert float(by_tau) == pytest.approx((outer(x, y, 0.3 + h) - outer(x, y, 0.3 - h)) / (2 * h), rel=1e-6)


def test_the_implicit_part_is_never_longer_than_the_direct_one():
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])
    assert torch.equal(rcig.no_longer(b, a), b)
    torch.testing.assert_close(rcig.no_longer(a, b), a * 2 / 5)
    assert not rcig.no_longer(torch.zeros(2), a).any()


def test_smooth_replaces_relu_and_comes_near_it():
    task = TASKS["image"]
    net, sharp = (nets.build("convnet", task.spec, rng(0), width=4) for _ in range(2))
    x = task.train.read(torch.arange(4))
    assert torch.equal(smooth(net, 0.0)(x), sharp(x))
    rounded = smooth(net, 60.0)
    assert not any(isinstance(m, torch.nn.ReLU) for m in rounded.modules())
    assert 0 < float((rounded(x) - sharp(x)).detach().abs().max()) < 0.05


# -- all of them --------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "method",
    [
        FRePo(iterations=25, lr=0.02, real_batch=26, pool=2, width=8),
        RFAD(iterations=25, lr=0.05, real_batch=26, nets=2, width=8),
        KIP(iterations=25, lr=0.05, real_batch=26),
        RCIG(iterations=8, lr=0.1, real_batch=26, pool=1, max_updates=99, steps=1, lr_net=0.0, inner=3, width=3),
    ],
    ids=lambda method: method.name,
)
def test_regression_on_s_gets_better(task, method):
    one, run = Task.of(task.train, task.val, Budget(ipc=1)), Run(0)
    method.distill(one, run)
    losses = [row["loss"] for row in run.curve]
    assert sum(losses[-4:]) < sum(losses[:4]) - 0.05


def test_batch_norm_is_refused_and_so_is_nothing_to_do():
    for method in (FRePo, RFAD, RCIG):
        with pytest.raises(UsageError, match="batch norm"):
            method(net="resnet").check(TASKS["image"].modality)
    for method in (FRePo(pool=0), RFAD(nets=0), KIP(depth=0), RCIG(inner=0), FRePo(real_batch=0)):
        with pytest.raises(UsageError, match="at least 1"):
            method.check(TASKS["image"].modality)


@pytest.mark.parametrize("method", [FRePo(), RFAD(), KIP(), RCIG()], ids=lambda method: method.name)
def test_a_device_without_double_precision_is_refused(method):
    with pytest.raises(UsageError, match="--device cpu"):
        method.distill(TASKS["image"], Run(0, device="mps"))


def test_what_is_stored_are_the_learned_outputs():
    """Least squares to a few values that are no distribution: students are asked for these."""
    task = TASKS["image"]
    syn = FRePo(iterations=3, lr=0.3, real_batch=9, pool=1, width=4).distill(task, Run(0))
    asked = syn.example_labels().ask(torch.arange(len(syn)))[0]
    assert asked.shape == (7, 3) and not torch.allclose(asked.sum(1), torch.ones(7), atol=0.1)
    assert torch.equal(syn.y, task.labels)
    grid = replace(FRePo(iterations=1, real_batch=9, pool=1, width=4), form="multiform:2").distill(task, Run(0))
    assert grid.example_labels().ask(torch.tensor([0, 3, 4]))[0].shape == (3, 3)
    assert torch.equal(grid.example_labels().ask(torch.tensor([3]))[0], grid.labels.ask(torch.tensor([0]))[0])
