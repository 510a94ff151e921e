"""The decoupled engine against SRe2L's loss and loop retyped slowly, and its laws: units alone, the schedule, falls back, stages, late comers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from datadistill import nets
from datadistill.data.task import Budget, Task
from datadistill.errors import NotFinite, UsageError
from datadistill.labels import Hard
from datadistill.labels.views import box, look
from datadistill.match import batch_norm
from datadistill.nets.taps import Taps, batch_norms
from datadistill.precision import in_halves
from datadistill.rng import rng
from datadistill.run import Run
from datadistill.synthetic import SyntheticSet
from datadistill.testing import same_bits, tiny_tasks
from datadistill.training.recover import Guide, Recovery, Unit, across, constant, easing, jittered, recover, within
from datadistill.training.statistics import class_moments
from datadistill.training.targets import ByClass, Running

TASK = tiny_tasks()["image"]
HOW = Recovery(steps=5, lr=0.25, weight=0.1, crop=constant(0.5), jitter=2, precision="float32")


def phi(family: str = "resnet", seed: int = 0) -> nets.Net:
    """A teacher whose statistics are not those of a fresh net."""
    net = nets.build(family, TASK.spec, rng(seed, "phi"), width=4)
    for k in range(5):
        net(TASK.train.read(torch.randperm(26, generator=rng(seed, k))[:16]))
    return net.eval().requires_grad_(False)


def noise(y: list[int] | None = None) -> SyntheticSet:
    y = torch.tensor([0, 0, 1, 1, 2, 2] if y is None else y)
    return SyntheticSet(TASK.modality.noise(len(y), rng(0, "noise")), Hard(y, 3), TASK.modality)


def recovered(syn: SyntheticSet, units, how: Recovery = HOW, net: nets.Net | None = None, run: Run | None = None, **more) -> torch.Tensor:
    net = net or phi()
    recover(syn, units, [Guide(net, Running(net))], how, run or Run(0), **more)
    return syn.x.data


# -- the loss -----------------------------------------------------------------------------------------------------------


def test_moments_are_those_of_every_number_of_a_channel():
    h = torch.randn(3, 2, 4, 5, generator=rng(0)) * 2 + 1
    mean, var = batch_norm.moments(h)
    for c in range(2):
        numbers = h[:, c].flatten().double().tolist()
        m = sum(numbers) / len(numbers)
        v = sum((a - m) ** 2 for a in numbers) / len(numbers)
        assert math.isclose(float(mean[c]), m, rel_tol=1e-5) and math.isclose(float(var[c]), v, rel_tol=1e-5)


@pytest.mark.parametrize("shape", [(3, 2, 4, 5), (6, 4)])
def test_the_way_back_through_the_moments_is_that_of_the_formula(shape):
    h = torch.randn(shape, generator=rng(1)).requires_grad_()
    weights = torch.randn(2, shape[1], generator=rng(2))
    axes = [k for k in range(len(shape)) if k != 1]
    (ours,) = torch.autograd.grad((torch.stack(batch_norm.moments(h)) * weights).sum(), h)
    (theirs,) = torch.autograd.grad((torch.stack([h.mean(axes), h.var(axes, correction=0)]) * weights).sum(), h)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def slow_statistics_loss(net: nets.Net, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits, R_BN) by running the net layer by layer: its stem, then its blocks, as written in the paper's letters."""
    total, first = torch.zeros(()), True

    def norm(bn: torch.nn.BatchNorm2d, h: torch.Tensor) -> torch.Tensor:
        nonlocal total, first
        flat = h.permute(1, 0, 2, 3).flatten(1)
        mu = flat.sum(1) / flat.shape[1]
        sigma2 = ((flat - mu[:, None]) ** 2).sum(1) / flat.shape[1]
        term = ((mu - bn.running_mean) ** 2).sum().sqrt() + ((sigma2 - bn.running_var) ** 2).sum().sqrt()
        total = total + (10 if first else 1) * term
        first = False
        shape = (1, -1, 1, 1)
        return (h - bn.running_mean.view(shape)) / (bn.running_var.view(shape) + bn.eps).sqrt() * bn.weight.view(shape) + bn.bias.view(shape)

    conv, _, bn, _, *blocks = net.features
    h = torch.relu(norm(bn, conv(x)))
    for block in blocks:
        inner = torch.relu(norm(block.norm1, block.conv1(h)))
        inner = norm(block.norm2, block.conv2(inner))
        around = h if isinstance(block.shortcut, torch.nn.Identity) else norm(block.shortcut[1], block.shortcut[0](h))
        h = torch.relu(inner + around)
    return net.head(h.mean((2, 3))), total


def test_the_statistics_loss_by_hand_is_that_of_the_taps():
    net, x = phi(), torch.randn(6, 1, 8, 8, generator=rng(3)).requires_grad_()
    target = Running(net)
    with target.taps:
        logits = net(x)
    loss = target.loss(torch.zeros(6, dtype=torch.long))
    slow_logits, slow_loss = slow_statistics_loss(net, x)
    torch.testing.assert_close(logits, slow_logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss, slow_loss, rtol=1e-4, atol=0)
    for ours, theirs in zip(torch.autograd.grad(loss, x), torch.autograd.grad(slow_loss, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert len(target.taps.layers) == len(batch_norms(net)) == 9


def test_statistics_that_are_met_cost_nothing_and_have_no_slope():
    h = torch.randn(4, 3, 2, 2, generator=rng(0)).requires_grad_()
    own = batch_norm.moments(h)
    loss = batch_norm.loss([own], [batch_norm.Moments(own.mean.detach(), own.var.detach())])
    loss.backward()
    assert float(loss.detach()) == 0 and torch.equal(h.grad, torch.zeros_like(h))


# -- the loop -----------------------------------------------------------------------------------------------------------


def slow_view(x: torch.Tensor, u: list[float], least: float, jitter: int) -> torch.Tensor:
    """One picture (channels, height, width): cropped, enlarged pixel by pixel, mirrored, rolled."""
    channels, h, w = x.shape
    top, left, height, width = box(u[:4], max(least, 7 * 7 / (h * w)))
    rows = []
    for i in range(h):
        for j in range(w):
            y, at = (top + height * (i + 0.5) / h) * h - 0.5, (left + width * (j + 0.5) / w) * w - 0.5
            y, at = min(max(y, 0), h - 1), min(max(at, 0), w - 1)
            y0, x0 = int(y), int(at)
            y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
            a, b = y - y0, at - x0
            rows.append((1 - a) * (1 - b) * x[:, y0, x0] + (1 - a) * b * x[:, y0, x1] + a * (1 - b) * x[:, y1, x0] + a * b * x[:, y1, x1])
    out = torch.stack(rows, 1).view(channels, h, w)
    if u[4] < 0.5:
        out = torch.flip(out, [2])
    return torch.roll(out, (int(u[5] * (jitter + 1)), int(u[6] * (jitter + 1))), (1, 2))


def test_the_engine_is_sre2l_retyped():
    """Every step: views by hand, the loss by hand, Adam by hand, the cosine, the clamp; the last iterate."""
    net, syn = phi(), noise([0, 1, 2])
    x, y = syn.x.data.clone(), syn.y
    m, v = torch.zeros_like(x), torch.zeros_like(x)
    low, high = ((edge - torch.tensor(TASK.spec.facts["mean"])) / torch.tensor(TASK.spec.facts["deviation"]) for edge in (0.0, 1.0))
    for s in range(HOW.steps):
        u = torch.rand((3, 7), generator=Run(0).rng("recover", "item", 0, 0, s), dtype=torch.float64).tolist()
        leaf = x.clone().requires_grad_()
        logits, statistics = slow_statistics_loss(net, torch.stack([slow_view(leaf[k], u[k], 0.5, 2) for k in range(3)]))
        loss = F.cross_entropy(logits, y) + 0.1 * statistics
        (g,) = torch.autograd.grad(loss, leaf)
        lr = 0.25 * (1 + math.cos(math.pi * s / HOW.steps)) / 2
        m, v = 0.5 * m + 0.5 * g, 0.9 * v + 0.1 * g * g
        x = x - lr * (m / (1 - 0.5 ** (s + 1))) / ((v / (1 - 0.9 ** (s + 1))).sqrt() + 1e-8)
        x = torch.minimum(torch.maximum(x, low), high)
    torch.testing.assert_close(recovered(syn, across(y), net=net), x, rtol=2e-3, atol=2e-3)


def test_crops_by_linear_maps_are_those_of_views():
    """`jittered` and `labels.views.look` are two ways to one crop, flip and roll."""
    x = torch.randn((9, 3, 12, 16), generator=rng(1)).requires_grad_()
    u = torch.rand((9, 7), generator=rng(3), dtype=torch.float64)
    boxes = torch.tensor([box(own[:4], 0.08) for own in u.tolist()]).float()
    ours, theirs = jittered(x, 0.08, 5, True, rng(3)), look(x, boxes, u[:, 4] < 0.5, roll=(u[:, 5:] * 6).long())
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    w = torch.randn(ours.shape, generator=rng(4))
    torch.testing.assert_close(*(torch.autograd.grad((view * w).sum(), x)[0] for view in (ours, theirs)), rtol=1e-4, atol=1e-4)


def test_in_bfloat16_the_loss_is_the_same_to_its_precision_and_statistics_are_of_float32():
    net, x, y = phi(), torch.randn(6, 1, 8, 8, generator=rng(3)).requires_grad_(), torch.tensor([0, 1, 2] * 2)
    guide = Guide(net, Running(net))
    whole = guide.loss(x, y, 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        half = guide.loss(x, y, 1.0)
    assert all(m.mean.dtype == m.var.dtype == torch.float32 for m in guide.target.taps.seen) and half.dtype == torch.float32
    torch.testing.assert_close(half, whole, rtol=0.02, atol=0)
    a, b = (torch.autograd.grad(loss, x)[0].flatten() for loss in (whole, half))
    assert float(F.cosine_similarity(a, b, dim=0)) > 0.99
    assert in_halves("bfloat16", torch.device("cpu")) and not in_halves("float32", torch.device("cuda")) and in_halves("auto", torch.device("cuda"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(3, 2, 4, 5), (1, 3, 1, 1), (40, 16, 8, 8)])
def test_moments_are_the_same_in_every_layout(shape, layout, dtype):
    h = (torch.randn(shape, generator=rng(7)) * 2 + 1).to(dtype).contiguous(memory_format=layout).requires_grad_()
    own, wide = batch_norm.moments(h), h.detach().double()
    torch.testing.assert_close(own.mean.double(), wide.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(own.var.double(), wide.var((0, 2, 3), correction=0), rtol=1e-4, atol=1e-5)
    g = torch.randn(2, shape[1], generator=rng(8))
    (slope,) = torch.autograd.grad((torch.stack(own) * g).sum(), h)
    n, at = wide.numel() // shape[1], (1, -1, 1, 1)
    expected = (g[0].view(at) + 2 * g[1].view(at) * (wide - wide.mean((0, 2, 3)).view(at))) / n
    torch.testing.assert_close(slope.double(), expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-5)


def test_recovery_makes_the_teacher_sure_and_the_statistics_right():
    net, syn = phi(), noise()
    target = Running(net)

    def judged() -> tuple[float, float]:
        with torch.no_grad(), target.taps:
            logits = net(syn.x)
        return float(F.cross_entropy(logits, syn.y)), float(target.loss(syn.y))

    before = judged()
    recovered(syn, across(syn.y), replace(HOW, steps=40, crop=constant(1.0), jitter=0), net)
    after = judged()
    assert after[0] < before[0] and after[1] < 0.7 * before[1]


@pytest.mark.parametrize("compose", [across, within])
def test_a_unit_comes_to_the_same_without_its_neighbours(compose):
    syn = noise()
    start = syn.x.data.clone()
    units = compose(syn.y, 2)
    assert len(units) > 2
    together = recovered(syn, units).clone()
    assert not torch.isclose(together, start).all((1, 2, 3)).any()
    for unit in units:
        alone = noise()
        recovered(alone, [unit])
        assert same_bits(alone.x.data[unit.items], together[unit.items])
        others = ~torch.isin(torch.arange(len(start)), unit.items)
        assert same_bits(alone.x.data[others], start[others])


def test_every_item_is_in_one_unit_and_units_are_what_they_say():
    y = torch.tensor([2, 0, 1, 0, 2, 0])
    for units in (across(y, 2), within(y, 2)):
        assert torch.cat([u.items for u in units]).sort().values.tolist() == list(range(6))
        assert len({u.name for u in units}) == len(units) and all(len(u.items) <= 2 for u in units)
    assert [y[u.items].tolist() for u in across(y)] == [[0, 1, 2], [0, 2], [0]]
    assert [y[u.items].tolist() for u in within(y)] == [[0, 0, 0], [1], [2, 2]]


def test_crops_ease_from_whole_to_small():
    crop = easing(0.08, 0.5)
    assert crop(0) == 1 and math.isclose(crop(0.25), 0.54) and crop(0.5) == crop(0.9) == 0.08
    assert [round(easing()(t / 4), 4) for t in range(4)] == [round(0.08 + 0.92 * (1 + math.cos(math.pi * t / 4)) / 2, 4) for t in range(4)]


def test_late_comers_do_not_move_before_they_join():
    syn = noise()
    start = syn.x.data.clone()
    unit = Unit(("late",), torch.arange(6), torch.tensor([0, 0, 0, 0, 3, 99]))
    result = recovered(syn, [unit])
    moved = ~torch.isclose(result, start).all((1, 2, 3))
    assert moved.tolist() == [True, True, True, True, True, False]


def test_stages_have_their_sizes_and_mix_the_start_in():
    seen, net = [], phi()
    embed = net.embed
    net.embed = lambda x: (seen.append(tuple(x.shape[2:])), embed(x))[1]
    syn = noise([0, 1, 2])
    start = syn.x.data.clone()
    still = replace(HOW, steps=4, stages=(0.5, 1.0), residual=0.5, lr=0.0, crop=constant(1.0), jitter=0)
    result = recovered(syn, across(syn.y), still, net)
    assert seen == [(4, 4)] * 2 + [(8, 8)] * 2
    there_and_back = F.interpolate(F.interpolate(start, (4, 4), mode="bilinear"), (8, 8), mode="bilinear")
    torch.testing.assert_close(result, 0.5 * there_and_back + 0.5 * start)


def test_teachers_are_shown_in_turn():
    first, second = phi(seed=0), phi(seed=1)
    turns: list[int] = []
    for k, net in enumerate((first, second)):
        net.embed = lambda x, k=k, embed=net.embed: (turns.append(k), embed(x))[1]
    syn = noise([0, 1, 2])
    recover(syn, across(syn.y), [Guide(net, Running(net)) for net in (first, second)], HOW, Run(0))
    assert turns == [0, 1, 0, 1, 0]


def test_the_teacher_is_as_it_was():
    net = phi()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    recovered(noise(), across(noise().y), net=net)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not net.training and all(p.grad is None for p in net.parameters()) and not any(m._forward_pre_hooks for m in net.modules())


def test_a_loss_that_is_not_finite_falls_back_and_halves_the_step():
    class Breaks(Running):
        times = 1

        def loss(self, y):
            self.steps = getattr(self, "steps", 0) + 1
            bad = self.steps == 4 or self.times > 9
            return super().loss(y) * (float("nan") if bad else 1)

    net, run, syn = phi(), Run(0), noise([0, 1, 2])
    recover(syn, across(syn.y), [Guide(net, Breaks(net))], HOW, run)
    assert torch.isfinite(syn.x).all() and len(run.notes) == 1 and "halved" in run.notes[0]
    full, half = noise([0, 1, 2]), noise([0, 1, 2])
    assert not torch.allclose(syn.x, recovered(full, across(full.y)))
    recovered(half, across(half.y), replace(HOW, lr=HOW.lr / 2))
    assert not torch.allclose(syn.x, half.x)
    target = Breaks(net)
    target.times = 10
    with pytest.raises(NotFinite):
        recover(noise(), across(noise().y), [Guide(net, target)], HOW, Run(0))


def test_a_teacher_without_batch_norm_is_refused():
    net = nets.build("convnet", TASK.spec, rng(0), width=4)
    with pytest.raises(UsageError, match="no batch norm") as refusal:
        Running(net)
    assert "resnet" in refusal.value.expected
    with pytest.raises(UsageError, match="no batch norm"):
        class_moments(net, TASK.train, Run(0))


# -- statistics by class ------------------------------------------------------------------------------------------------


def test_statistics_by_class_are_those_of_the_class_alone():
    net = phi()
    found = class_moments(net, TASK.train, Run(0))
    for c in range(3):
        taps = Taps(batch_norms(net), lambda module, h: batch_norm.moments(h))
        with torch.no_grad(), taps:
            net(TASK.train.read(TASK.train.indices(c)))
        for ours, theirs in zip(found, taps.seen, strict=True):
            torch.testing.assert_close(ours.mean[c], theirs.mean, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(ours.var[c], theirs.var, rtol=1e-4, atol=1e-5)


def test_a_class_is_measured_against_itself():
    net = phi()
    by_class = class_moments(net, TASK.train, Run(0))
    target = ByClass(net, by_class)

    def distance(batch: torch.Tensor, c: int) -> float:
        with torch.no_grad(), target.taps:
            net(TASK.train.read(batch))
        return float(target.loss(torch.full((len(batch),), c)))

    for c in range(3):
        own = [distance(TASK.train.indices(c), other) for other in range(3)]
        assert own[c] < 1e-3 and own[c] == min(own)


def test_views_of_whole_examples_are_the_examples():
    x = TASK.train.read(torch.arange(5))
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 5)
    assert same_bits(look(x, whole, torch.zeros(5, dtype=torch.bool)), x)
    assert same_bits(look(x, whole, torch.ones(5, dtype=torch.bool)), x.flip(3))


def test_uneven_budgets_leave_nobody_out():
    task = Task.of(TASK.train, TASK.val, Budget(ipc=dict(zip(TASK.spec.classes, (5, 1, 2), strict=True))))
    syn = SyntheticSet.init(task, "noise", rng(0))
    start = syn.x.data.clone()
    assert not torch.isclose(recovered(syn, across(syn.y)), start).all((1, 2, 3)).any()
