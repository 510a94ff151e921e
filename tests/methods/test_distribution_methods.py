"""Distribution matching, method by method: loss and gradient of a step against the paper's formula retyped slowly, and laws."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from slow import PRECISIONS, Watched, agree, papers_form, watch
from torch import nn

from datadistill import nets
from datadistill.data.task import Task
from datadistill.errors import UsageError
from datadistill.match.statistics import attention, characteristic, characteristic_distance, mmd2
from datadistill.methods import CAFE, IDM, M3D, NCFM, DataDAM
from datadistill.methods.idm import Queue
from datadistill.rng import rng
from datadistill.run import Run
from datadistill.synthetic import SyntheticSet
from datadistill.testing import tiny_tasks
from datadistill.training.teachers import Squeeze, teacher, untrained

TASKS = tiny_tasks()
precision = pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
pieces = pytest.mark.parametrize("chunk", [None, 2])
both = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


class Slow:
    """The same draws as a method's first step: S as a leaf, its examples, batches and augmentations, in this dtype."""

    def __init__(self, method, task, seed, dtype, *omega):
        self.method, self.task, self.run, self.dtype = method, task, Run(seed), dtype
        self.syn = SyntheticSet.init(task, method.init, self.run.rng("init"), method.form_for(task.modality)).to(dtype)
        self.items = self.syn.x
        self.omega = task.modality.augment(self.run.rng(*(omega or ("omega", 0))), len(task.classes)) if method.augment else (lambda x, c: x)

    def net(self, *key):
        return nets.build(self.method.net_for(self.task.modality), self.task.spec, self.run.rng(*key), width=self.method.width).to(self.dtype)

    def classes(self, real_batch, step=0):
        """(class, omega(real examples), omega(synthetic examples)) one class after the other."""
        examples = self.syn.examples()
        for c in self.task.classes:
            real = self.task.train.draw(c, real_batch, self.run.rng("real", step, c)).to(self.dtype)
            own = torch.cat([examples[k * self.syn.each : (k + 1) * self.syn.each] for k in self.syn.where(c).tolist()])
            yield c, self.omega(real, torch.full((len(real),), c)), self.omega(own, torch.full((len(own),), c))

    def result(self, loss):
        return loss.detach(), torch.autograd.grad(loss, self.items)[0]


# -- DataDAM ------------------------------------------------------------------------------------------------------------


@precision
@pieces
def test_datadam_is_the_papers_loss(dtype, tolerance, chunk, monkeypatch):
    task, method = TASKS["image"], DataDAM(iterations=1, width=3, real_batch=5, p=2.0, chunk=chunk)
    slow = Slow(method, task, 3, dtype)
    net = slow.net("theta", 0)

    def layers(x):
        """After each ReLU, and the logits."""
        out = []
        for module in net.features:
            x = module(x)
            if isinstance(module, nn.ReLU):
                out.append(x.clone())
        return out, net.head(x.flatten(1))

    loss = 0.0
    for _, real, own in slow.classes(5):
        (maps_t, logits_t), (maps_s, logits_s) = layers(real), layers(own)
        for a, b in zip(maps_t[:-1], maps_s[:-1], strict=True):
            sides = []
            for maps in (a, b):
                total = torch.zeros(len(maps), *maps.shape[2:], dtype=dtype)
                for channel in range(maps.shape[1]):
                    total = total + maps[:, channel].abs() ** 2
                looks = total.reshape(len(maps), -1)
                sides.append((looks / looks.square().sum(1, keepdim=True).sqrt()).mean(0))
            loss = loss + 100 * (sides[0] - sides[1]).square().sum()
        loss = loss + 100 * 0.01 * (logits_t.mean(0) - logits_s.mean(0)).square().sum()
    agree(watch(method, task, 3, dtype, monkeypatch)[0], slow.result(loss), tolerance)


def test_attention_is_of_length_one_and_blind_to_channels():
    maps = torch.randn((3, 4, 5, 5), generator=rng(0), dtype=torch.float64)
    torch.testing.assert_close(attention(maps, 4).norm(dim=1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(attention(maps, 1), attention(-7 * maps[:, [2, 0, 3, 1]], 1))


def test_datadam_refuses_what_has_no_positions():
    for method, task in ((DataDAM(), TASKS["tabular"]), (DataDAM(net="mlp"), TASKS["image"])):
        with pytest.raises(UsageError, match=r"positions|grid"):
            method.check(task.modality)


# -- CAFE ---------------------------------------------------------------------------------------------------------------


@precision
@pieces
@both
def test_cafe_is_the_papers_loss(task, dtype, tolerance, chunk, monkeypatch):
    method = CAFE(iterations=1, rounds=1, width=3, real_batch=5, chunk=chunk, augment=True, init="real", beta=0.5)
    slow = Slow(method, task, 3, dtype, "omega", 0, 0)
    net = slow.net("theta", 0)

    def layers(x):
        out = []
        x = x.flatten(1) if isinstance(net, nets.FAMILIES["mlp"]) else x
        for module in net.features:
            x = module(x)
            if isinstance(module, nn.ReLU):
                out.append(x.clone())
        return out, x.flatten(1)

    loss, real_features, labels, centres = 0.0, [], [], []
    for c, real, own in slow.classes(5):
        (said_t, last_t), (said_s, last_s) = layers(real), layers(own)
        for k, (a, b) in enumerate(zip(said_t, said_s, strict=True)):
            loss = loss + (1.0 if k == len(said_t) - 1 else 0.1) * (a.mean(0) - b.mean(0)).square().sum()
        loss = loss + 2 * (last_t.mean(0) - last_s.mean(0)).square().sum()
        real_features.append(last_t.detach())
        labels += [c] * len(real)
        centres.append(last_s.mean(0))
    scores = torch.cat(real_features) @ torch.stack(centres).T
    for row, c in zip(scores, labels, strict=True):
        loss = loss - 0.5 * (row[c] - torch.logsumexp(row, 0))
    agree(watch(method, task, 3, dtype, monkeypatch)[0], slow.result(loss), tolerance)


def test_cafes_rounds_end_when_the_net_stands_still(monkeypatch):
    """At most `rounds`; with a range that is always small, after ten; with one that is never small, after all of them."""
    task, counted = TASKS["tabular"], []
    for lambda_1, rounds, expected in ((9.0, 15, 10), (0.0, 12, 12), (9.0, 3, 3)):
        run = Watched(0)
        CAFE(iterations=1, rounds=rounds, width=3, real_batch=3, lambda_1=lambda_1, lambda_2=0.0, batch_train=9).distill(task, run)
        counted.append((len(run.seen), expected))
    assert all(found == expected for found, expected in counted), counted


@pytest.mark.parametrize("iterations", [1, 3, 5, 8, 20])
def test_cafes_step_is_halved_three_times_however_short_the_run(iterations):
    """As the authors do it: by one half for each of the three points that an iteration has come to, also where two of them are one."""

    class Rates(Run):
        def descend(self, optimizer, loss):
            rates.append(optimizer.param_groups[0]["lr"])
            return super().descend(optimizer, loss)

    rates = []
    CAFE(iterations=iterations, rounds=1, width=3, real_batch=3, lr=1.0).distill(TASKS["tabular"], Rates(0))
    assert rates == [0.5 ** sum(it >= round(at * iterations) for at in (0.6, 0.8, 0.9)) for it in range(iterations)]


# -- IDM ----------------------------------------------------------------------------------------------------------------


@precision
@pieces
@both
def test_idm_is_the_papers_loss(task, dtype, tolerance, chunk, monkeypatch):
    """With the accuracy of the chosen net put to a half: means of features, and cross-entropy by half of lambda times 100."""
    method = IDM(iterations=1, width=3, real_batch=5, chunk=chunk, form=papers_form(task), queue=4, net_steps=1, ce_weight=0.02)
    slow = Slow(method, task, 3, dtype)
    fresh_nets = [slow.net("theta", "start", k) for k in range(3)] + [slow.net("theta", 0)]
    net = fresh_nets[int(torch.randperm(4, generator=slow.run.rng("draw", 0))[0])]
    loss = 0.0
    for c, real, own in slow.classes(5):
        loss = loss + (net.embed(real).mean(0) - net.embed(own).mean(0)).square().sum()
        loss = loss + 0.02 * 50.0 * F.cross_entropy(net(own), torch.full((len(own),), c))
    load = Queue.load
    monkeypatch.setattr(Queue, "load", lambda self, net, k: load(self, net, k) * 0 + 0.5)
    agree(watch(method, task, 3, dtype, monkeypatch)[0], slow.result(loss), tolerance)


def test_the_queue_trains_as_torch_does_and_forgets_the_oldest():
    task, run = TASKS["tabular"], Run(0)
    made = [nets.build("mlp", task.spec, rng(k), width=4) for k in range(4)]
    queue, scratch = Queue(made[0], 3), nets.build("mlp", task.spec, rng(9), width=4)
    for net in made[:3]:
        queue.push(net)
    real = [(task.train.read(rows), task.train.labels[rows]) for rows in torch.arange(24).split(8)]
    from datadistill.memory import Pieces

    queue.train(scratch, 1, real, 0.1, Pieces(3))
    queue.train(scratch, 1, real, 0.1, Pieces(100))
    optimizer, right = torch.optim.SGD(made[1].parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4), []
    for x, y in real + real:
        optimizer.zero_grad()
        logits = made[1](x)
        F.cross_entropy(logits, y).backward()
        optimizer.step()
        right.append(float((logits.argmax(1) == y).float().mean()))
    accuracy = queue.load(scratch, 1)
    assert accuracy == pytest.approx(sum(right[3:]) / 3)
    for ours, theirs in zip(scratch.parameters(), made[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    queue.push(made[3])  # in the place of the first
    queue.load(scratch, 0)
    assert torch.equal(next(scratch.parameters()), next(made[3].parameters())) and queue.choose(9, rng(0)) and len(queue.choose(9, rng(0))) == 3
    assert run.notes == []


# -- M3D ----------------------------------------------------------------------------------------------------------------


def slow_mmd2(x, y, scales):
    """|| mean k(x, .) - mean k(y, .) ||^2, one pair at a time."""
    both = torch.cat([x, y])
    n = len(both)
    width = sum(float((both[i] - both[j]).detach().square().sum()) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))

    def k(a, b):
        return sum(torch.exp(-(a - b).square().sum() / (width * 2.0**s)) for s in range(-(scales // 2), scales - scales // 2))

    def mean(us, vs):
        return sum(k(u, v) for u in us for v in vs) / (len(us) * len(vs))

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


@precision
@pieces
@both
def test_m3d_is_the_papers_loss(task, dtype, tolerance, chunk, monkeypatch):
    method = M3D(iterations=1, width=3, real_batch=5, chunk=chunk, form=papers_form(task))
    slow = Slow(method, task, 3, dtype)
    net = slow.net("theta", 0)
    loss = sum(slow_mmd2(net.embed(real), net.embed(own), 5) for _, real, own in slow.classes(5))
    agree(watch(method, task, 3, dtype, monkeypatch)[0], slow.result(loss), tolerance)


def test_mmd_is_a_distance_between_distributions():
    x = torch.randn((40, 3), generator=rng(0), dtype=torch.float64)
    assert abs(float(mmd2(x, x))) < 1e-12 and abs(float(mmd2(x, x.flip(0)))) < 1e-12
    wide = x.mean(0) + 3 * (x - x.mean(0))  # the same mean, which is all that DM sees
    assert float(mmd2(x, wide)) > 0.05
    assert float(mmd2(x, wide)) == pytest.approx(float(mmd2(wide, x)))
    y = torch.randn((30, 3), generator=rng(1), dtype=torch.float64)
    assert 0 <= float(mmd2(x, y)) < float(mmd2(x, y + 1))
    assert bool(torch.isfinite(torch.autograd.functional.jacobian(lambda a: mmd2(x[:1], a), x[:1])).all())  # all points the same


# -- NCFM ---------------------------------------------------------------------------------------------------------------


@precision
@pieces
@both
def test_ncfm_is_the_papers_loss(task, dtype, tolerance, chunk, monkeypatch):
    """Matching with complex numbers, and the calibration after it."""
    method = NCFM(iterations=1, width=8, real_batch=5, chunk=chunk, form=papers_form(task), nets_trained=2, epochs=1, frequencies=7, alpha=0.3, calibration=0.7)
    slow = Slow(method, task, 3, dtype)
    draw = slow.run.rng("draw", 0)
    member = int(torch.randint(2, (), generator=draw))
    l = torch.rand((), generator=draw).to(dtype)  # noqa: E741
    which = {"net": method.net_for(task.modality), "width": 8, "member": member}
    with monkeypatch.context() as patch:
        if dtype is torch.float64:
            build, read = nets.build, type(task.train).read
            patch.setattr(nets, "build", lambda *a, **k: build(*a, **k).double())
            patch.setattr(type(task.train), "read", lambda self, rows, *device: read(self, rows, *device).double())
        before = untrained(task.train, slow.run, **which)
        after = teacher(task.train, slow.run, Squeeze(1, lr=0.01), **which)
    net = slow.net("any")
    with torch.no_grad():
        for p, a, b in zip(net.parameters(), before.parameters(), after.parameters(), strict=True):
            p.copy_(l * a + (1 - l) * b)
    t = torch.randn((7, net.head.in_features), generator=draw).to(dtype)

    def cf(x):
        f = net.embed(x).double()  # as it is written, the formula loses digits under the root
        f = f / f.norm(dim=1, keepdim=True)
        return torch.exp(1j * (f @ t.double().T)).mean(0)

    loss = 0.0
    for _, real, own in slow.classes(5):
        F_, G = cf(real), cf(own)
        apart = 0.3 * (F_.abs() - G.abs()) ** 2 + 0.7 * 2 * (F_.abs() * G.abs() - (F_ * G.conj()).real)
        loss = loss + 300 * torch.sqrt(apart).mean()
    matched, calibrated = watch(method, task, 3, dtype, monkeypatch)
    agree(matched, slow.result(loss), 3e-5 if dtype is torch.float32 else 2e-8)  # ours adds 1e-12 under the roots

    other = Slow(method, task, 3, dtype, "omega", 0, "calibrate")
    loss = sum(0.7 * F.cross_entropy(after(own), torch.full((len(own),), c)) for c, _, own in other.classes(5))
    agree(calibrated, other.result(loss), tolerance)


def test_ncfm_calibrates_in_the_precision_that_is_asked_for():
    seen = []
    for precision in ("float32", "bfloat16"):
        NCFM(iterations=1, width=8, real_batch=5, nets_trained=1, epochs=1, frequencies=7, precision=precision).distill(TASKS["image"], run := Watched(0))
        seen.append(run.seen[1][1].flatten())
    assert not torch.equal(*seen) and torch.cosine_similarity(*seen, dim=0) > 0.98


def test_the_characteristic_distance_is_zero_for_equal_samples_alone():
    x = torch.randn((30, 4), generator=rng(0), dtype=torch.float64)
    t = torch.randn((50, 4), generator=rng(1), dtype=torch.float64)

    def apart(a, b, alpha=0.5):
        return float(characteristic_distance(characteristic(a, t), characteristic(b, t), alpha))

    assert apart(x, x.flip(0)) < 1e-5 and apart(x, x.repeat(2, 1)) < 1e-5
    wide = x.mean(0) + 1.5 * (x - x.mean(0))
    assert apart(x, wide) > 0.01 and apart(x, x + 0.3) > 0.01
    (fr, fi), (gr, gi) = characteristic(x, t), characteristic(wide, t)
    assert apart(x, wide) == pytest.approx(float((torch.complex(fr - gr, fi - gi).abs() / math.sqrt(2)).mean()), rel=1e-6)
    assert apart(x, x + 0.3, alpha=1.0) < 1e-5 < apart(x, x + 0.3, alpha=0.0)  # a shift is all in the phase


# -- all of them --------------------------------------------------------------------------------------------------------

SMALL = {"iterations": 1, "width": 3, "real_batch": 5, "augment": False}
METHODS = [DataDAM(**SMALL), CAFE(**SMALL, rounds=1, init="real", beta=0.0), IDM(**SMALL, queue=4, net_steps=0), M3D(**SMALL),
           NCFM(**SMALL, nets_trained=1, epochs=1, frequencies=9, calibration=0.0)]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_nothing_to_match_where_s_is_t(method, monkeypatch):
    """Every example of every class in S and in B_T."""
    task = TASKS["image"]
    whole = Task(task.train, task.val, task.train.counts.clone())
    method = replace(method, form="pixels", real_batch=999)
    (loss, gradient), *_ = watch(method, whole, 0, torch.float64, monkeypatch)
    start = watch(replace(method, init="noise"), whole, 0, torch.float64, monkeypatch)[0]
    assert 0 <= float(loss) < 1e-3 < float(start[0])
    assert float(gradient.norm()) < 1e-3 * float(start[1].norm())


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_the_form_goes_with_every_method(method, monkeypatch):
    """The gradient by a grid of examples is that by the examples, taken back through the enlargement."""
    task = TASKS["image"]
    (loss, by_items), *_ = watch(replace(method, form="multiform:2"), task, 1, torch.float64, monkeypatch)
    syn = SyntheticSet.init(task, method.init, Run(1).rng("init"), "multiform:2").double()
    assert by_items.shape == syn.x.shape and float(loss) > 0 and bool((by_items.flatten(1).abs().sum(1) > 0).all())
