"""Trajectory matching and truncated backpropagation: each method's first step retyped slowly from its paper, and laws."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from datadistill import methods, nets
from datadistill.errors import UsageError
from datadistill.labels import Soft
from datadistill.match import trajectory
from datadistill.methods.datm import labelled_right
from datadistill.methods.dd import deal
from datadistill.methods.rat_bptt import clipped
from datadistill.methods.trajectories import Average, keep_class_
from datadistill.modalities import Modality
from datadistill.rng import rng
from datadistill.run import Run
from datadistill.synthetic import SyntheticSet
from datadistill.testing import tiny_tasks
from datadistill.training.experts import Experts, Teaching

TASKS = tiny_tasks()
WIDTH = 4
SMALL = {"iterations": 1, "steps": 3, "expert_epochs": 1, "max_start": 2, "experts": 2, "alpha": 0.02, "width": WIDTH}
LOOP = {"iterations": 1, "total": 5, "window": 3, "real_batch": 9, "width": WIDTH, "init": "real", "lr_inner": 0.05}


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def tolerance(request, monkeypatch) -> float:
    """Everything in this precision; how close is close, as a share of the largest entry."""
    if request.param == torch.float64:
        read, build = Modality.read, nets.build
        monkeypatch.setattr(Modality, "read", lambda self, stored: read(self, stored).double())
        monkeypatch.setattr(nets, "build", lambda *args, **sizes: build(*args, **sizes).double())
        return 1e-9
    return 1e-5


class Spy(Run):
    """Keeps what the first step of descent was: loss, gradients, and the examples they were taken at."""

    def descend(self, optimizer, loss):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        before = [p.detach().clone() for p in parameters]
        value = super().descend(optimizer, loss)
        if not hasattr(self, "loss"):
            self.loss, self.before, self.gradients = value, before, [p.grad.clone() for p in parameters]
        return value


def close(a, b, tolerance):
    return a.shape == b.shape and float((a - b).abs().max()) <= tolerance * max(float(b.abs().max()), 1e-30)


# -- the papers, retyped --------------------------------------------------------------------------------------------------


def build(task, *key):
    return nets.build(task.modality.nets[0], task.spec, Run(0).rng(*key), width=WIDTH)


def logits_of(net, params, x):
    return torch.func.functional_call(net, params, (x,))


def expert(task, k, epochs, teaching):
    """An ordinary training loop over an ordinary module; a list of {name: parameter}, one per epoch."""
    net = build(task, "expert", k)
    teaching = replace(teaching, batch=8)  # as there are but 26 examples
    snapshots = [{n: p.detach().clone() for n, p in net.named_parameters()}]
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(task.train), generator=rng(0, "expert", k, "order", epoch))
        for at in range(math.ceil(len(order) / teaching.batch)):
            rows = order[at * teaching.batch : (at + 1) * teaching.batch]
            x = task.modality.augment(rng(0, "expert", k, epoch, at, "omega"), len(rows))(task.train.read(rows), torch.arange(len(rows)))

            def slope(net=net, x=x, rows=rows):
                net.zero_grad()
                F.cross_entropy(net(x), task.train.labels[rows]).backward()
                return [p.grad.clone() for p in net.parameters()]

            g, parameters = slope(), list(net.parameters())
            if teaching.rho:
                g = gsam_by_hand(parameters, g, slope, teaching.rho, teaching.alpha)
            with torch.no_grad():
                for p, d in zip(parameters, g, strict=True):
                    p -= teaching.lr * d
        snapshots.append({n: p.detach().clone() for n, p in net.named_parameters()})
    return snapshots


@torch.no_grad()
def gsam_by_hand(parameters, g, slope, rho, alpha):
    """Equations of GSAM with ASAM's scaling, parameter by parameter."""
    norm = math.sqrt(sum(float((p.abs() * d).square().sum()) for p, d in zip(parameters, g, strict=True)))
    shifts = [rho * p * p * d / norm for p, d in zip(parameters, g, strict=True)]
    for p, shift in zip(parameters, shifts, strict=True):
        p += shift
    with torch.enable_grad():
        worst = slope()
    for p, shift in zip(parameters, shifts, strict=True):
        p -= shift
    inner = sum(float((a * b).sum()) for a, b in zip(g, worst, strict=True))
    square = sum(float(b.square().sum()) for b in worst)
    return [b - alpha * (a - inner / square * b) for a, b in zip(g, worst, strict=True)]


def drawn_segment(task, length, starts, teaching):
    """(theta*_t, theta*_{t+length}) as named by the first iteration."""
    draw = rng(0, "segment", 0, 0)
    k = int(torch.randint(SMALL["experts"], (), generator=draw))
    t = starts[int(torch.randint(len(starts), (), generator=draw))]
    path = expert(task, k, t + length, teaching)
    return path[t], path[t + length]


def rows_of(n, batch, i, *key):
    order = torch.randperm(n, generator=rng(0, "batch", *key, i // math.ceil(n / batch)))
    return order if batch >= n else order.split(batch)[i % math.ceil(n / batch)]


def student(task, net, start, x, y, alpha, steps, *, batch=None, augment=True, soft=False, detach=False, key=(0, 0)):
    """MTT's inner loop as one graph: [theta^_0, ..., theta^_N] and, for TESLA, the gradients g_i."""
    params, path, slopes = start, [start], []
    for i in range(steps):
        rows = torch.arange(len(y)) if batch is None or batch >= len(y) else rows_of(len(y), batch, i, *key)
        shown = x[rows]
        if augment:
            shown = task.modality.augment(rng(0, "omega", *key, i), len(rows))(shown, torch.arange(len(rows)))
        at = {n: p.detach() for n, p in params.items()} if detach else params
        at = {n: p if p.requires_grad else p.clone().requires_grad_() for n, p in at.items()}
        target = F.softmax(y[rows], 1) if soft else y[rows]
        g = dict(zip(at, torch.autograd.grad(F.cross_entropy(logits_of(net, at, shown), target), list(at.values()), create_graph=True), strict=True))
        params = {n: at[n] - alpha * g[n] for n in at}
        path.append(params)
        slopes.append(g)
    return path, slopes


def squares(a, b):
    return sum((a[n] - b[n]).square().sum() for n in a)


def first_step(name, kind, case, task=None):
    task = task or TASKS[kind]
    run = Spy(0)
    syn = methods.get(name, **case).distill(task, run)
    return task, run, syn


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize(("name", "batch"), [("mtt", None), ("mtt", 3), ("ftd", None), ("att", None), ("tesla", None)])
def test_the_first_step_is_the_papers(name, batch, kind, tolerance):
    task, run, _ = first_step(name, kind, {**SMALL, "batch": batch})
    teaching = Teaching(rho=0.01, alpha=0.3) if name == "ftd" else Teaching()
    start, target = drawn_segment(task, 1, range(2), teaching)
    x, log_alpha = (t.clone().requires_grad_() for t in run.before)
    assert float(log_alpha.detach().exp()) == pytest.approx(0.02)
    alpha = log_alpha.exp().to(x.dtype)
    path, slopes = student(task, build(task, "expert", 0), start, x, task.labels, alpha, 3, batch=batch, detach=name == "tesla")
    apart = squares(start, target)
    if name == "tesla":  # the published formula: [beta (theta* - theta_0) + beta^2 G]^T g_i, and the constant that makes it L
        beta, G = alpha, {n: sum(g[n] for g in slopes) for n in start}
        L = (2 * beta * sum(((target[n] - start[n]) * G[n]).sum() for n in start) + beta**2 * sum(G[n].square().sum() for n in start) + apart) / apart
    elif name == "att":
        L = min((squares(at, target) for at in path[1:]), key=lambda value: value.item()) / apart
    else:
        L = squares(path[-1], target) / apart
    L.backward()
    assert close(run.loss, L.detach(), tolerance * 10)
    loose = 100 if name == "tesla" else 1  # its formula is a small difference of large numbers
    assert close(run.gradients[0], x.grad, tolerance * loose)
    assert close(run.gradients[1], log_alpha.grad.clamp(-5, 5), max(tolerance * 10 * loose, 1e-6))  # the rate is float32


@pytest.mark.parametrize("kind", TASKS)
def test_datm_is_mtt_with_a_window_and_learned_soft_labels(kind, tolerance):
    task, run, syn = first_step("datm", kind, {**SMALL, "max_start": 3, "min_start": 1, "first_max_start": 2, "expansion_end": 10, "threshold": 1e9})
    x, labels, log_alpha = (t.clone().requires_grad_() for t in run.before)
    start, target = drawn_segment(task, 1, range(1, 2), Teaching(rho=0.01, alpha=0.3))
    path, _ = student(task, build(task, "expert", 0), start, x, labels, log_alpha.exp().to(x.dtype), 3, soft=True)
    L = squares(path[-1], target) / squares(start, target)
    L.backward()
    assert close(run.loss, L.detach(), tolerance * 10)
    for mine, leaf in zip(run.gradients, (x, labels, log_alpha), strict=True):
        assert close(mine, leaf.grad, max(tolerance * 10, 1e-6 * (leaf is log_alpha)))
    assert isinstance(syn.labels, Soft) and torch.equal(syn.y, task.labels)


def test_examples_that_an_item_of_datm_gives_share_its_label():
    task, run, syn = first_step("datm", "image", {**SMALL, "threshold": 1e9, "form": "multiform:2"})
    items, labels, log_alpha = (t.clone().requires_grad_() for t in run.before)
    grid = SyntheticSet.init(task, "real", Run(0).rng("init"), "multiform:2")
    grid.x.data = items.detach()
    start, target = drawn_segment(task, 1, range(2), Teaching(rho=0.01, alpha=0.3))
    path, _ = student(task, build(task, "expert", 0), start, grid.examples(), labels.repeat_interleave(4, 0), log_alpha.exp(), 3, soft=True)
    (squares(path[-1], target) / squares(start, target)).backward()
    for mine, leaf in zip(run.gradients, (grid.x, labels, log_alpha), strict=True):
        assert close(mine, leaf.grad, 1e-4)
    assert isinstance(syn.labels, Soft) and torch.equal(syn.y, task.labels) and len(syn.examples()) == 4 * len(syn.y)


@pytest.mark.parametrize("kind", TASKS)
def test_dd_is_the_real_loss_after_a_few_steps_at_learned_rates(kind, tolerance):
    case = {"iterations": 1, "parts": 2, "epochs": 2, "real_batch": 7, "width": WIDTH, "eta": 0.1}
    task, run, syn = first_step("dd", kind, case)
    x, log_eta = (t.clone().requires_grad_() for t in run.before)
    net = build(task, "theta", 0, 0)
    params = dict(net.named_parameters())
    first_then_second = [[0, 2, 4, 6], [1, 3, 5]]  # of 4, 2 and 1 items, dealt out class by class
    for i in range(4):
        rows = first_then_second[i % 2]
        g = torch.autograd.grad(F.cross_entropy(logits_of(net, params, x[rows]), task.labels[rows]), list(params.values()), create_graph=True)
        params = {n: p - log_eta[i].exp() * d for (n, p), d in zip(params.items(), g, strict=True)}
    real = torch.randperm(len(task.train), generator=rng(0, "real", 0, 0))[:7]
    L = F.cross_entropy(logits_of(net, params, task.train.read(real)), task.train.labels[real])
    L.backward()
    assert close(run.loss, L.detach(), tolerance)
    assert close(run.gradients[0], x.grad, tolerance * 10) and close(run.gradients[1], log_eta.grad, max(tolerance * 10, 1e-6))
    assert syn.recipe.steps == 4 and syn.recipe.lr == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("kind", TASKS)
def test_rat_bptt_goes_back_through_a_window_of_adam(kind, tolerance):
    task, run, _ = first_step("rat-bptt", kind, LOOP)
    (x,) = (t.clone().requires_grad_() for t in run.before)
    net = build(task, "theta", 0, 0)
    first = int(torch.randint(5 - 3 + 1, (), generator=rng(0, "window", 0, 0)))
    params = {n: p.detach().clone().requires_grad_() for n, p in net.named_parameters()}
    m, v = ({n: torch.zeros_like(p) for n, p in params.items()} for _ in range(2))
    for i in range(first + 3):
        shown = task.modality.augment(rng(0, "omega", 0, 0, i), len(x))(x if i >= first else x.detach(), torch.arange(len(x)))
        slopes = torch.autograd.grad(F.cross_entropy(logits_of(net, params, shown), task.labels), list(params.values()), create_graph=i >= first)
        for (n, p), g in zip(list(params.items()), slopes, strict=True):
            m[n], v[n] = 0.9 * m[n] + 0.1 * g, 0.999 * v[n] + 0.001 * g**2
            root = torch.where(v[n] == 0, v[n], (torch.where(v[n] == 0, 1.0, v[n]) / (1 - 0.999 ** (i + 1))).sqrt())
            params[n] = p - 0.05 * (m[n] / (1 - 0.9 ** (i + 1))) / (root + 1e-8)
        if i < first:
            params = {n: p.detach().requires_grad_() for n, p in params.items()}
    real = torch.randperm(len(task.train), generator=rng(0, "real", 0, 0))[:9]
    shown = task.modality.augment(rng(0, "real omega", "real", 0, 0), 9)(task.train.read(real), torch.arange(9))
    L = F.cross_entropy(logits_of(net, params, shown), task.train.labels[real])
    L.backward()
    assert close(run.loss, L.detach(), tolerance * 10)
    assert close(run.gradients[0], x.grad, tolerance * 1000)  # Adam divides by the root of a square: noise of the last bits is magnified


# -- laws -----------------------------------------------------------------------------------------------------------------


def test_trained_on_all_of_t_as_the_expert_was_the_student_arrives(monkeypatch):
    """S = T, whole batches, the expert's rate and number of steps: the loss is zero."""
    task = TASKS["tabular"]
    whole = replace(task, quota=task.train.counts.clone())
    case = {"iterations": 1, "steps": 3, "expert_epochs": 3, "max_start": 2, "experts": 2, "width": WIDTH, "augment": False, "alpha": 0.01}
    run = Spy(0)
    plain = Experts.__init__

    def whole_batches(self, *args, **more):
        plain(self, *args, **{**more, "teaching": Teaching(augment=False)})
        self.teaching, self.per_epoch = replace(self.teaching, batch=26), 1

    monkeypatch.setattr(Experts, "__init__", whole_batches)
    methods.get("mtt", **case).distill(whole, run)
    assert float(run.loss) < 1e-9
    assert float(run.gradients[0].abs().max()) < 1e-3


def test_the_distance_is_zero_at_the_target_and_one_at_the_start():
    a, b = torch.randn(9, generator=rng(0, "a")), torch.randn(9, generator=rng(0, "b"))
    assert float(trajectory.distance(b, a, b)) == 0 and float(trajectory.distance(a, a, b)) == 1
    assert torch.isfinite(trajectory.distance(a, b, b))  # an expert that stands still


@pytest.mark.parametrize(("examples", "experts"), [(26, 8), (12_500, 8), (20_000, 5), (50_000, 2), (60_000, 2)])
def test_small_data_have_more_experts(examples, experts, monkeypatch):
    asked = []
    monkeypatch.setattr(Experts, "prepare", lambda self, epochs: asked.append(self.count))
    small = TASKS["tabular"]
    real = small.train.subset(torch.arange(examples) % len(small.train))
    methods.get("mtt", experts="auto").expert_pool(replace(small, train=real), Run(0))
    assert asked == [experts]


def cosine(a, b):
    return float(F.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def test_tesla_takes_another_way_than_mtt_to_the_same_loss():
    """The same loss, and a gradient that is not MTT's: apart the further the student goes, and the same at one step."""
    apart = []
    for steps, epochs in ((1, 1), (4, 1), (4, 4)):
        case = {**SMALL, "steps": steps, "expert_epochs": epochs, "alpha": 0.01 * epochs, "augment": False, "max_start": 1}
        runs = [first_step(name, "image", case)[1] for name in ("mtt", "tesla")]
        assert close(runs[0].loss, runs[1].loss, 1e-4)
        apart.append(1 - cosine(runs[0].gradients[0], runs[1].gradients[0]))
    assert apart[0] < 1e-6 < apart[1] < apart[2]


def test_att_never_ends_further_off_than_any_fixed_number_of_steps():
    case = {**SMALL, "alpha": 0.1, "expert_epochs": 1, "max_start": 1}
    fixed = [first_step("mtt", "image", {**case, "steps": n})[1] for n in (1, 2, 3, 4)]
    automatic = first_step("att", "image", {**case, "steps": 4})[1]
    assert float(automatic.loss) == pytest.approx(min(float(run.loss) for run in fixed), rel=1e-6)


def test_a_flat_step_is_sam_where_alpha_is_zero_and_leaves_no_orthogonal_part_where_it_is_one():
    w, g = torch.randn(5, generator=rng(0, "w")), torch.randn(5, generator=rng(0, "g"))
    seen = []

    def at(p):
        seen.append(p)
        return p * torch.arange(5.0)

    sam = trajectory.gsam(w, g, at, 0.1, 0.0)
    assert torch.equal(sam, seen[0] * torch.arange(5.0))
    assert float(((seen[0] - w) / w.abs()).norm()) == pytest.approx(0.1, rel=1e-5)  # the radius, in units of |w|
    full = trajectory.gsam(w, g, at, 0.1, 1.0)
    orthogonal = g - (g @ sam) / (sam @ sam) * sam
    assert torch.allclose(full, sam - orthogonal, atol=1e-6)


def test_the_window_of_datm_grows_and_stays():
    bounds = [trajectory.window(it, 2, 10, 20, 1000) for it in (0, 499, 500, 999, 1000, 5000)]
    assert bounds == [range(2, 10), range(2, 14), range(2, 15), range(2, 19), range(2, 20), range(2, 20)]
    assert trajectory.window(0, 7, 3, 3, 0) == range(7, 8)  # never empty


def test_datm_begins_with_examples_that_an_expert_labels_right():
    task, run = TASKS["image"], Run(0)
    experts = Experts(task.train, run, net="convnet", width=WIDTH, count=3, teaching=Teaching(lr=0.1))
    experts.prepare(4)
    rows = labelled_right(experts, task, run, 4)
    assert torch.equal(task.train.labels[rows], task.labels) and len(rows.unique()) == len(rows)
    right = torch.stack([experts.net(experts.at(k, 4), task.train.read(torch.arange(len(task.train)))).argmax(1) == task.train.labels for k in range(3)])
    for c in task.classes:
        mine, possible = rows[task.labels == c], task.train.indices(c)
        assert int(right[:, mine].any(0).sum()) == min(len(mine), int(right[:, possible].any(0).sum()))


def test_a_segment_above_the_threshold_teaches_nothing():
    _, run, _ = first_step("datm", "image", {**SMALL, "threshold": 0.0})
    assert float(run.loss) > 0 and all(float(g.abs().max()) == 0 for g in run.gradients)


def test_a_learned_label_keeps_its_class():
    logits = 20 * torch.randn((50, 7), generator=rng(0, "logits"))
    y = torch.arange(50) % 7
    kept = keep_class_(logits.clone(), y)
    assert torch.equal(Soft(kept).hard, y)
    right = logits.argmax(1) == y
    others = torch.ones_like(logits).scatter_(1, y[:, None], 0.0).bool()
    assert torch.equal(kept[others], logits[others]) and 0 < int(right.sum()) < 50


def test_labels_of_datm_stand_for_their_class_after_every_step():
    """At a rate that throws them about: so what students were taught last is what is stored."""

    class Watched(Run):
        def steps(self, n, *state, **settings):
            if len(state) > 1:  # not the loop that chooses a step size
                self.items, self.L = state[:2]
            return super().steps(n, *state, **settings)

        def log(self, it, **values):
            assert torch.equal(self.L["logits"].argmax(1), self.items.y)

    run = Watched(0)
    syn = methods.get("datm", **{**SMALL, "iterations": 4, "lr_labels": 30.0, "threshold": 1e9}).distill(TASKS["image"], run)
    assert torch.equal(syn.labels.logits, run.L["logits"].detach().half()) and torch.equal(syn.labels.hard, syn.y)


def test_selmatch_keeps_the_hard_part_of_its_window_as_it_is():
    task = TASKS["image"]
    method = methods.get("selmatch", **{**SMALL, "iterations": 3, "distilled": 0.5, "left_out": 0.5, "forgetting_epochs": 1})
    syn = method.distill(task, Run(0))
    rows, fixed = method.windows(task, Run(0))
    assert fixed.tolist() == [True, True, False, False, True, False, False]  # half of 4, 2 and 1 items, and one at least is distilled
    same = (syn.stored() == task.train.stored[rows]).flatten(1).all(1)
    assert torch.equal(same, fixed) and syn.originals
    scores = method.difficulty(task, Run(0))
    for c in task.classes:
        n, own = int(task.quota[c]), scores[task.train.indices(c)].sort(descending=True).values
        assert scores[rows[task.labels == c]].tolist() == own[int(0.5 * n) :][:n].tolist()
    assert not methods.get("selmatch", forgetting_epochs=0).windows(task, Run(0))[1].any(), "few items all move, however few examples there are"


def test_dealing_out_leaves_no_part_empty():
    y = torch.tensor([0, 0, 0, 1, 2, 2])
    assert [p.tolist() for p in deal(y, 2)] == [[0, 2, 3, 4], [1, 5]]
    assert [p.tolist() for p in deal(y, 10)] == [[0, 3, 4], [1, 5], [2]]


def test_the_moving_average_is_the_mean_of_a_constant_and_lags_behind_a_jump():
    syn = SyntheticSet.init(TASKS["image"], "real", rng(0, "init"))
    mean, was = Average(syn, 0.9), syn.x.detach().clone()
    mean.update(syn)
    assert torch.allclose(mean.kept[0], was)
    syn.x.data += 1
    for t in range(2, 60):
        mean.update(syn)
        share = 1 - min(0.9, (1 + t) / (10 + t))
        was = was + share * (syn.x.detach() - was)
    assert torch.allclose(mean.kept[0], was, atol=1e-5)
    mean.give(syn)
    assert torch.equal(syn.x, mean.kept[0])


def test_what_ftd_gives_is_the_average_of_where_it_has_been():
    task, case = TASKS["image"], {**SMALL, "lr": 0.1}
    path = [methods.get("ftd", **{**case, "iterations": n, "decay": 0.0}).distill(task, Run(0)).x.detach() for n in (1, 2, 3)]
    mean = SyntheticSet.init(task, "real", Run(0).rng("init")).x.detach()
    for t, x in enumerate(path, 1):
        decay = min(0.9, (1 + t) / (10 + t))
        mean = decay * mean + (1 - decay) * x
    syn = methods.get("ftd", **{**case, "iterations": 3, "decay": 0.9}).distill(task, Run(0))
    assert torch.allclose(syn.x, mean, atol=1e-5) and not torch.allclose(syn.x, path[-1], atol=1e-2)


@pytest.mark.parametrize(("iterations", "halvings"), [(1, 0), (15, 7), (19, 9), (20, 9)])
def test_dds_rate_falls_by_half_after_every_tenth_of_the_run(iterations, halvings):
    rates = []

    class Rates(Run):
        def descend(self, optimizer, loss):
            rates.append(optimizer.param_groups[0]["lr"])
            return super().descend(optimizer, loss)

    methods.get("dd", iterations=iterations, lr=1.0, parts=1, epochs=1, real_batch=2, width=2).distill(TASKS["tabular"], Rates(0))
    assert rates[0] == 1 and rates[-1] == 0.5**halvings


def test_dds_cosine_goes_on_from_a_rate_that_was_halved():
    """Its step 1 of 4, whose loss is infinite at first, is done again with half the rate, and so are the others."""
    rates = []

    class Rates(Run):
        def descend(self, optimizer, loss):
            rates.append(optimizer.param_groups[0]["lr"])
            return super().descend(optimizer, loss if len(rates) != 2 else lambda: loss() * math.inf)

    methods.get("dd", iterations=4, schedule="cosine", lr=1.0, parts=1, epochs=1, real_batch=2, width=2).distill(TASKS["tabular"], Rates(0))
    first, *rest = (math.cos(math.pi * it / 8) ** 2 for it in range(4))
    assert rates == pytest.approx([first, rest[0], *(rate / 2 for rate in rest)])


def test_gradients_are_cut_at_a_multiple_of_their_mean_norm():
    p = nn.Parameter(torch.zeros(2))
    optimizer = clipped(torch.optim.SGD([p], lr=1.0), 2.0, 0.9)
    mean = None
    for size in (1.0, 1.0, 100.0, 1.0):
        before = p.detach().clone()
        p.grad = torch.tensor([0.6, 0.8]) * size
        optimizer.step()
        mean = size if mean is None else 0.9 * mean + 0.1 * size
        assert float((p.detach() - before).norm()) == pytest.approx(min(size, 2 * mean), rel=1e-5)
    again = clipped(torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=1.0), 2.0, 0.9)
    again.load_state_dict(optimizer.state_dict())
    assert again.param_groups[0]["mean norm"] == pytest.approx(mean)


def test_at_bptt_places_its_window_where_the_gradient_is_large():
    norms = torch.full((100,), 1.0)
    norms[30] = 50.0  # all of the softmax, and the largest change but for the fall after it
    assert trajectory.truncation(norms, 1, 40, 10, 0.5) == (30, int(40 - 10 + 20 * 98 / 100))
    assert trajectory.truncation(norms, 3, 40, 10, 0.5) == (100 - 30 - 30, 30)  # mirrored
    norms[30], norms[95] = 1.0, 50.0
    start, size = trajectory.truncation(norms, 1, 40, 10, 0.5)
    assert start + size == 100  # moved back to fit
    for u in (0.0, 0.37, 0.999):
        start, size = trajectory.truncation(norms, 2, 40, 10, u)
        assert size == 50 and start == int(u * 51)


def test_at_bptt_goes_on_to_the_next_stage_when_accuracy_stands_still():
    from datadistill.methods.at_bptt import Stage

    def numbers(*accuracies):  # 3 epochs of less than 1.5 points, and from the last of these 3 (2.5, rounded up) of less than 1
        stage = Stage(20)
        for accuracy in accuracies:
            stage.saw(accuracy - 0.01)
            stage.saw(accuracy + 0.01)
            stage.ends_epoch()
            yield int(stage.number)

    assert list(numbers(0.1, 0.2, 0.21, 0.25, 0.255, 0.26, 0.262, 0.28, 0.281, 0.2815, 0.282, 0.283)) == [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3]
    assert list(numbers(0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1)) == [1, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("name", ["mtt", "datm", "dd"])
def test_a_learned_rate_stays_positive_and_nothing_becomes_nan_however_wild_the_settings(name, kind):
    wild = {"dd": {"width": WIDTH, "lr": 100.0, "real_batch": 8, "epochs": 3}}.get(name, {**SMALL, "optimizer": "sgd", "lr_alpha": 10.0, "alpha": 5.0, "lr": 1e4})
    task = replace(TASKS[kind], quota=torch.ones_like(TASKS[kind].quota))
    syn = methods.get(name, **{**wild, "iterations": 4}).distill(task, Run(0))
    assert torch.isfinite(syn.x).all() and math.isfinite(syn.recipe.lr) and syn.recipe.lr > 0


@pytest.mark.parametrize("name", ["mtt", "tesla", "ftd", "att", "datm", "selmatch", "dd", "rat-bptt", "at-bptt"])
def test_what_makes_no_sense_is_refused(name):
    for kind in TASKS:
        with pytest.raises(UsageError, match="batch norm"):
            methods.get(name, net={"image": "resnet", "tabular": "tabresnet"}[kind]).check(TASKS[kind].modality)
        with pytest.raises(UsageError, match="iterations"):
            methods.get(name, iterations=0).check(TASKS[kind].modality)


def test_datm_cannot_start_after_the_last_start():
    with pytest.raises(UsageError, match="min_start=5, max_start=5"):
        methods.get("datm", min_start=5, max_start=5).check(TASKS["image"].modality)
    methods.get("datm", min_start=5, max_start=6).check(TASKS["image"].modality)
    methods.get("datm", min_start=5).check(TASKS["image"].modality)


def test_the_first_step_size_is_the_one_that_brings_students_nearest():
    task, run = TASKS["image"], Run(0)
    method = methods.get("mtt", **{**SMALL, "alpha": None})
    best = 0.01 * 2**3
    alpha = method.rate(run, lambda key, rate: (rate - best).abs() if key[1] else torch.tensor(math.nan) if rate > 0.1 else rate * 0)
    assert float(alpha().detach()) == pytest.approx(best)
    syn = method.distill(task, Run(0))
    assert 0.009 < syn.recipe.lr < 0.17
    still = method.rate(run, lambda key, rate: rate)  # where students had better stand still, they learn something from S all the same
    assert float(still().detach()) == pytest.approx(0.01)
    assert float(methods.get("mtt", alpha=0.003).rate(run, None)().detach()) == pytest.approx(0.003)


def test_settings_follow_the_budget_unless_they_are_given():
    task = TASKS["image"]

    def of(ipc: int, per_class: int = 5000):
        return replace(task, train=range(3 * per_class), quota=torch.full((3,), ipc))

    loops = {ipc: methods.get("mtt").loops(of(ipc)) for ipc in (1, 9, 10, 49, 50, 999)}
    assert loops == {1: (50, 2, 2), 9: (50, 2, 2), 10: (30, 2, 20), 49: (30, 2, 20), 50: (30, 2, 40), 999: (30, 2, 40)}
    assert methods.get("mtt", steps=7, max_start=3).loops(of(1)) == (7, 2, 3)
    assert methods.get("mtt", lr_expert=0.02).loops(of(10)) == (30, 1, 10), "an epoch at twice the rate is worth two"
    assert methods.get("mtt", lr_expert=0.1).loops(of(10)) == (30, 1, 2) and methods.get("mtt", lr_expert=9.0).loops(of(10)) == (30, 1, 1)
    assert methods.get("datm", lr_expert=0.1).window(of(500)) == (4, 6, 0)
    assert [methods.get("datm", iterations=n).window(of(10)) for n in (10_000, 100)] == [(0, 10, 1000), (0, 10, 10)], "it grows for a tenth of the run"
    assert methods.get("datm").window(of(500)) == (40, 60, 0)
    for name in ("mtt", "datm", "selmatch"):
        method = methods.get(name)
        assert method.loops(of(1, 500)) == method.loops(of(10)) and method.loops(of(50, 500)) == method.loops(of(500)), "as large a share"
        assert method.loops(of(10, 50_000)) == method.loops(of(10)), "never earlier than the ipc has it"
