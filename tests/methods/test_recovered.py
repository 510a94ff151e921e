"""What FADRM, DELT, DWA, G-VBSM and EDC add to the engine, each against its formula retyped slowly or worked out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from datadistill import methods, nets
from datadistill.data.task import Real, Task
from datadistill.match import batch_norm
from datadistill.methods.decoupled import Started
from datadistill.methods.delt import DELT
from datadistill.methods.dwa import push
from datadistill.methods.gvbsm import sameness
from datadistill.modalities import Image
from datadistill.nets.taps import Taps, batch_norms, convolutions_and_norms
from datadistill.rng import rng
from datadistill.run import Run
from datadistill.testing import tiny_tasks
from datadistill.training.statistics import by_patch, measured
from datadistill.training.targets import Running, Smoothed

TASK = tiny_tasks()["image"]
TAUGHT = {"width": 4, "epochs": 2, "labels": "hard"}
STILL = {**TAUGHT, "lr": 0.0, "crop": 1.0, "jitter": 0}


@pytest.fixture(scope="module")
def phi() -> nets.Net:
    return methods.get("sre2l", **TAUGHT).phis(TASK, Run(0))[0]


def inputs(net: nets.Net, layers: list[torch.nn.Module], x: torch.Tensor) -> list[torch.Tensor]:
    """What flows into these layers."""
    with (taps := Taps(layers, lambda module, h: h)):
        net(x)
    return taps.seen


def moments(h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """By channel, one at a time."""
    channels = [h[:, c].flatten() for c in range(h.shape[1])]
    means = [c.sum() / len(c) for c in channels]
    return torch.stack(means), torch.stack([((c - m) ** 2).sum() / len(c) for c, m in zip(channels, means, strict=True)])


def squares(h: torch.Tensor, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """By square of side x side positions, over examples and channels, one at a time; sides that do not fit are enlarged."""
    sides = [math.ceil(n / side) * side for n in h.shape[2:]]
    h = F.interpolate(h, sides, mode="bilinear", align_corners=False) if sides != list(h.shape[2:]) else h
    parts = [h[:, :, i : i + side, j : j + side].flatten() for i in range(0, sides[0], side) for j in range(0, sides[1], side)]
    return torch.stack([p.mean() for p in parts]), torch.stack([p.var(correction=0) for p in parts])


def norm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return ((a - b) ** 2).sum().sqrt()


# -- FADRM --------------------------------------------------------------------------------------------------------------


def undecided(c: int, phi: nets.Net, n: int) -> list[int]:
    """The n examples of class c whose cross-entropy lies in the middle: the middle one, the one below it, the one above it, and so on."""
    own = TASK.train.indices(c)
    with torch.no_grad():
        order = own[F.cross_entropy(phi(TASK.train.read(own)), torch.full_like(own, c), reduction="none").argsort(stable=True)].tolist()
    middle = len(order) // 2
    ranks = sorted(range(len(order)), key=lambda k: (abs(k - middle), k > middle))
    return [order[k] for k in ranks[:n]]


def test_fadrm_mixes_the_start_in_between_stages():
    """Without steps: small stage, large stage, small, large, the start mixed in before all but the first."""
    whole = methods.get("delt", iterations=8, rounds=2, **STILL).distill(TASK, Run(0)).x.data  # real examples, unmoved
    settings = {"iterations": 8, "smaller": 0.5, "alpha": 0.7, "factor": 1, "candidates": 1000, **STILL}
    found = methods.get("fadrm", **settings)
    patches = methods.get("fadrm", **{**settings, "stages": 1}).distill(TASK, Run(0)).x.data
    assert patches.shape == whole.shape

    def small(x):
        return F.interpolate(x, (4, 4), mode="bilinear", align_corners=False)

    def large(x):
        return F.interpolate(x, (8, 8), mode="bilinear", align_corners=False)

    x = small(patches)
    x = 0.7 * large(x) + 0.3 * patches
    x = 0.7 * small(x) + 0.3 * small(patches)
    x = 0.7 * large(x) + 0.3 * patches
    torch.testing.assert_close(found.distill(TASK, Run(0)).x.data, x)


def test_fadrm_plus_shows_several_teachers_in_turn(monkeypatch):
    shown, embed = [], nets.ResNet.embed
    monkeypatch.setattr(nets.ResNet, "embed", lambda self, x: (x.requires_grad and shown.append(id(self)), embed(self, x))[1])
    methods.get("fadrm", iterations=4, candidates=3, net="resnet+resnet", **TAUGHT).distill(TASK, Run(0))
    per_unit = [shown[k : k + 4] for k in range(0, len(shown), 4)]
    assert len(set(shown)) == 2 and all(unit == [unit[0], unit[1]] * 2 and unit[0] != unit[1] for unit in per_unit)


# -- DELT -----------------------------------------------------------------------------------------------------------------


def test_delt_begins_with_the_examples_about_the_median(phi):
    syn = methods.get("delt", iterations=2, rounds=1, **STILL).distill(TASK, Run(0))
    for c in TASK.classes:
        chosen = undecided(c, phi, int(TASK.quota[c]))
        torch.testing.assert_close(syn.x.data[syn.y == c], TASK.train.read(torch.tensor(chosen)))


def test_delt_rounds_by_hand():
    """Twelve steps in four rounds of three: ten items are 3 + 3 + 2 + 2; two items the first two rounds; one is moved all along."""
    y = torch.tensor([1] * 2 + [0] * 10 + [2])
    units = DELT(iterations=12, rounds=4, batch=8).units(y)
    assert [y[u.items].tolist() for u in units] == [[0] * 8, [0, 0, 1, 1, 2]]
    assert [u.joins.tolist() for u in units] == [[0, 0, 0, 3, 3, 3, 6, 6], [9, 9, 0, 3, 0]]


def test_delt_moves_an_item_for_as_many_steps_as_its_rounds_say(monkeypatch):
    """A batch may hold late comers alone; they wait, and none is moved longer than its round."""
    from datadistill.data.task import Budget, Task

    task = Task.of(TASK.train, TASK.val, Budget(ipc=dict(zip(TASK.spec.classes, (4, 1, 1), strict=True))))
    method = methods.get("delt", iterations=8, rounds=4, batch=2, crop=1.0, **TAUGHT)
    held, descend = [], Run.descend
    monkeypatch.setattr(Run, "descend", lambda run, optimizer, loss: (held.append(optimizer.x.data.clone()), descend(run, optimizer, loss))[1])
    method.distill(task, Run(0))
    units = [u.joins.tolist() for u in method.units(task.labels)]
    assert units == [[0, 2], [4, 6], [0, 0]]
    steps = [8, 8 - 4, 8]  # the second batch begins when its first item joins
    at = 0
    for joins, n in zip(units, steps, strict=True):
        seen = held[at : at + n]
        at += n
        for k, join in enumerate(joins):
            still = sum(torch.equal(x[k], seen[0][k]) for x in seen) - 1  # before its first move an item is as it began
            assert still == join - (8 - n)
    assert at == len(held)


# -- DWA ------------------------------------------------------------------------------------------------------------------


def test_dwas_push_is_so_many_normalised_ascents(phi):
    import copy

    net, (x, y) = copy.deepcopy(phi), (TASK.train.read(torch.arange(6)), TASK.train.labels[:6])
    buffers = {name: b.clone() for name, b in phi.named_buffers()}
    push(net, phi, x, y, steps=3, rho=0.06)
    theta = {name: p.clone().requires_grad_() for name, p in phi.named_parameters()}
    for _ in range(3):
        loss = F.cross_entropy(torch.func.functional_call(phi, theta, x), y)
        grads = torch.autograd.grad(loss, list(theta.values()))
        length = math.sqrt(sum(float((g.double() ** 2).sum()) for g in grads))
        theta = {name: (p + 0.02 * g / length).detach().requires_grad_() for (name, p), g in zip(theta.items(), grads, strict=True)}
    for name, p in net.named_parameters():
        torch.testing.assert_close(p, theta[name], rtol=1e-4, atol=1e-6)
    moved = math.sqrt(sum(float(((a - b) ** 2).sum()) for a, b in zip(net.parameters(), phi.parameters(), strict=True)))
    assert 0 < moved <= 0.06 + 1e-6
    assert F.cross_entropy(net(x), y) > F.cross_entropy(phi(x), y)
    assert all(torch.equal(b, buffers[name]) for name, b in net.named_buffers()) and not any(p.requires_grad for p in net.parameters())
    again = [p.clone() for p in net.parameters()]
    push(net, phi, x, y, steps=3, rho=0.06)  # every batch begins from the teacher as it was trained
    assert all(torch.equal(a, b) for a, b in zip(again, net.parameters(), strict=True))


def test_dwas_weight_on_variances_by_hand(phi):
    x = torch.randn(5, 1, 8, 8, generator=rng(0))
    target = Running(phi, first=10.0, var_weight=11.0)
    with target.taps:
        phi(x)
    expected = torch.zeros(())
    for k, (bn, h) in enumerate(zip(batch_norms(phi), inputs(phi, batch_norms(phi), x), strict=True)):
        mean, var = moments(h)
        expected = expected + (10 if k == 0 else 1) * (norm(mean, bn.running_mean) + 11 * norm(var, bn.running_var))
    torch.testing.assert_close(target.loss(torch.zeros(5)), expected, rtol=1e-4, atol=1e-5)


# -- G-VBSM and EDC ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [2, 4, 3])
def test_statistics_of_squares_by_hand(side):
    h = torch.randn(3, 2, 8, 8, generator=rng(1)).requires_grad_()
    own = batch_norm.patch_moments(h, side)
    mean, var = squares(h, side)
    torch.testing.assert_close(own.mean, mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(own.var, var, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("share", "alpha"), [(0.0, 0.8), (0.5, 0.8), (0.5, 0.0)])
def test_the_loss_of_gvbsm_and_edc_by_hand_over_two_steps(phi, share, alpha):
    side, layers = 4, convolutions_and_norms(phi)
    overall, by_class = measured(phi, layers, TASK.train, Run(0), side)
    target = Smoothed(layers, by_patch(side), overall, by_class, share, alpha, first=10.0)

    def kinds(x):
        return [[moments(h)] if isinstance(layer, torch.nn.BatchNorm2d) else [moments(h), squares(h, side)] for layer, h in zip(layers, inputs(phi, layers, x), strict=True)]

    everything = kinds(TASK.train.read(torch.arange(len(TASK.train))))
    classes = [kinds(TASK.train.read(TASK.train.indices(c))) for c in TASK.classes]
    y, followed = torch.tensor([0, 0, 2]), None
    for step in range(2):
        x = torch.randn(3, 1, 8, 8, generator=rng(2, step)).requires_grad_()
        now = kinds(x)
        value = [[[t.detach() for t in m] for m in layer] for layer in now]
        followed = value if followed is None else [[[alpha * b + (1 - alpha) * v for b, v in zip(bs, vs, strict=True)] for bs, vs in zip(bl, vl, strict=True)] for bl, vl in zip(followed, value, strict=True)]
        expected = torch.zeros(())
        for k, layer in enumerate(now):
            for kind, (mean, var) in enumerate(layer):
                own = [followed[k][kind][j] + t - t.detach() for j, t in enumerate((mean, var))]  # the average's value, the batch's slope
                of_all = sum(norm(a, b.detach()) for a, b in zip(own, everything[k][kind], strict=True))
                of_batch = [torch.stack([classes[c][k][kind][j] for c in y.tolist()]).mean(0).detach() for j in range(2)]
                expected = expected + (10 if k == 0 else 1) * ((1 - share) * of_all + share * sum(norm(a, b) for a, b in zip(own, of_batch, strict=True)))
        with target.taps:
            phi(x)
        loss = target.loss(y)
        torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(*(torch.autograd.grad(value, x)[0] for value in (loss, expected)), rtol=2e-2, atol=1e-3)


def test_sameness_by_hand():
    """Two of one class, three of another, one alone: Gram matrices, their eigenvalues, KL of softened against plain."""
    x, y = torch.randn(6, 1, 4, 4, generator=rng(3)).double(), torch.tensor([1, 0, 0, 1, 0, 2])
    expected = 0.0
    for c in (0, 1):
        flat = x[y == c].flatten(1).numpy()
        values = np.linalg.eigvalsh(flat @ flat.T)

        def softmax(v):
            e = np.exp(v - v.max())
            return e / e.sum()

        p, q = softmax(values / 4.0), softmax(values)
        expected += float((p * (np.log(p) - np.log(q))).sum())
    assert float(sameness(x, y, 4.0)) == pytest.approx(expected, rel=1e-6)
    assert float(sameness(x[5:], y[5:], 4.0)) == 0


def test_down_the_slope_items_of_a_class_become_less_alike():
    """What the term is for: the largest eigenvalue's share of all falls, that is, items no longer point one way."""
    x = (0.3 * torch.randn(1, 1, 4, 4, generator=rng(4)) + 0.1 * torch.randn(4, 1, 4, 4, generator=rng(5))).requires_grad_()
    y = torch.zeros(4, dtype=torch.long)

    def largest(x):
        values = torch.linalg.eigvalsh(x.flatten(1) @ x.flatten(1).T)
        return float(values[-1] / values.sum())

    (g,) = torch.autograd.grad(sameness(x, y, 4.0), x)
    assert largest((x - 0.05 * g / g.norm()).detach()) < largest(x.detach()) - 1e-4


def test_edc_begins_with_real_examples():
    syn = methods.get("edc", iterations=2, net="resnet", **{**STILL, "crop": 1.0}).distill(TASK, Run(0))
    real = TASK.train.read(torch.arange(len(TASK.train)))
    for item, c in zip(syn.x.data, syn.y.tolist(), strict=True):
        own = real[TASK.train.indices(c)]
        assert (own - item).flatten(1).abs().amax(1).min() < 1e-6


@pytest.mark.parametrize(("side", "jitter"), [(8, 1), (16, 2), (28, 4), (32, 4), (64, 4), (128, 32)])
def test_small_pictures_are_rolled_by_few_pixels(side, jitter):
    task = SimpleNamespace(spec=SimpleNamespace(shape=(3, side, side // 2), facts={}))
    assert methods.get("sre2l").recovery(task).jitter == jitter
    assert methods.get("sre2l", jitter=0).recovery(task).jitter == 0


# -- what items begin as ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(name for name, method in methods.all_methods().items() if issubclass(method, Started)))
def test_items_begin_as_noise_or_as_examples(name):
    """Unmoved, items are examples of T, or are none of them."""
    real = {x.numpy().tobytes() for x in TASK.train.read(torch.arange(len(TASK.train)))}
    papers, quick, all_of_them = methods.get(name).preset("paper"), methods.get(name).preset("quick"), len(TASK.labels)
    assert papers.init == ("real" if name in ("dwa", "edc") else "noise") and quick.init == "representative"
    begun = [(papers, all_of_them if name in ("dwa", "edc") else 0), (quick, all_of_them), (quick.with_settings({"init": "noise"}), 0), (quick.with_settings({"init": "real"}), all_of_them)]
    for method, expected in begun:
        items = method.with_settings({**STILL, "iterations": 2}).distill(TASK, Run(0)).x.data
        assert sum(x.numpy().tobytes() in real for x in items) == expected


@pytest.mark.parametrize(("side", "init", "whole"), [(64, "real", True), (72, "real", False), (72, "representative", True)])
def test_edc_makes_mosaics_of_large_pictures_where_nothing_else_is_asked_for(side, init, whole):
    stored = F.interpolate(TASK.train.read(torch.arange(len(TASK.train))), side).mul(40).add(128).clamp(0, 255).to(torch.uint8)
    real = Real(stored, TASK.train.labels, Image(Image.spec_of(stored, TASK.spec.classes, mode="other")))
    syn = methods.get("edc", iterations=1, net="resnet", init=init, **STILL).distill(Task(real, real, TASK.quota), Run(0))
    examples = {x.numpy().tobytes() for x in real.read(torch.arange(len(real)))}
    assert {x.numpy().tobytes() in examples for x in syn.x.data} == {whole}
