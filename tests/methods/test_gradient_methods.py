"""Gradient matching, method by method: a few steps are what the paper's algorithm, retyped slowly, makes of the same draws."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from slow import PRECISIONS, agree, papers_form, watch

from datadistill import nets
from datadistill.data.task import Task
from datadistill.errors import UsageError
from datadistill.match import gradient
from datadistill.memory import Pieces
from datadistill.methods import DC, DSA, IDC
from datadistill.methods.dc import class_match, match_classes
from datadistill.methods.matching import Batches
from datadistill.modalities import Image
from datadistill.rng import rng
from datadistill.run import Run
from datadistill.synthetic import SyntheticSet
from datadistill.testing import renamed, tiny_tasks

TASKS = tiny_tasks()


def slow_cosine(real, syn):
    """sum over layers and output units of 1 - cos, with the authors' 1e-6; one-dimensional parameters are skipped."""
    total = 0.0
    for gr, gs in zip(real, syn, strict=True):
        if gr.ndim > 1:
            for a, b in zip(gr.flatten(1), gs.flatten(1), strict=True):
                total = total + 1 - (a * b).sum() / (torch.norm(a) * torch.norm(b) + 0.000001)
    return total


def slow_condense(method, task, run):
    """Algorithm 1 of DC with one graph over all classes, for a method without momentum; draws are named as ours are."""
    x = SyntheticSet.init(task, method.init, run.rng("init")).x.detach().clone()
    y = task.labels
    for it in range(method.iterations):
        theta = nets.build(method.net_for(task.modality), task.spec, run.rng("theta", it), width=method.width)
        parameters = list(theta.parameters())
        for t in range(method.outer):
            step = it * method.outer + t
            draw = task.modality.augment(run.rng("omega", step), len(task.classes)) if method.augment else (lambda x, group: x)
            leaf, loss = x.clone().requires_grad_(), 0.0
            for c in task.classes:
                real = task.train.draw(c, method.real_batch, run.rng("real", step, c))
                own = leaf[y == c]
                same = torch.full((len(real),), c), torch.full((len(own),), c)
                target = torch.autograd.grad(F.cross_entropy(theta(draw(real, same[0])), same[0]), parameters)
                source = torch.autograd.grad(F.cross_entropy(theta(draw(own, same[1])), same[1]), parameters, create_graph=True)
                loss = loss + slow_cosine(target, source)
            x = x - method.lr * torch.autograd.grad(loss, leaf)[0]
            task.modality.clamp_(x)
            if t == method.outer - 1:
                break
            for epoch in range(method.inner_epochs):
                for k, rows in enumerate(torch.randperm(len(y), generator=run.rng("inner", step, "order", epoch)).split(method.batch_train)):
                    shown = x[rows]
                    if method.augment:
                        shown = task.modality.augment(run.rng("inner", step, "shown", epoch, k), len(rows))(shown, torch.arange(len(rows)))
                    descent = torch.autograd.grad(F.cross_entropy(theta(shown), y[rows]), parameters)
                    with torch.no_grad():
                        for p, g in zip(parameters, descent, strict=True):
                            p -= method.lr_net * g
    return x


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("kind", [DC, DSA])
def test_dc_and_dsa_are_algorithm_1(kind, task):
    method = kind(iterations=2, outer=2, inner_epochs=2, batch_train=3, width=4, real_batch=5, momentum=0.0, lr=0.5, lr_net=0.1)
    ours = method.distill(task, Run(3)).x.detach()
    torch.testing.assert_close(ours, slow_condense(method, task, Run(3)), atol=1e-5, rtol=1e-5)
    assert (ours - SyntheticSet.init(task, method.init, Run(3).rng("init")).x).abs().max() > 1e-3


def test_class_by_class_is_all_at_once():
    """Loss and gradient, in float64, against one graph over all classes."""
    task = TASKS["image"]
    theta = nets.build("convnet", task.spec, rng(0, "theta"), width=4).double()
    x, y = task.modality.noise(7, rng(0, "x")).double(), task.labels
    omega = task.modality.augment(rng(0, "omega"), 3)
    real = [(c, task.train.pick(c, 5, rng(0, "real", c))) for c in task.classes]

    def losses(x, c):
        return F.cross_entropy(theta(omega(x.double(), c)), c, reduction="sum")

    value, pull = match_classes(class_match(lambda _: losses, gradient.weights(theta), task, Run(0), Pieces(2)), real, None, x, y, task)
    leaf, total, parameters = x.clone().requires_grad_(), 0.0, list(theta.parameters())
    for c, indices in real:
        target = torch.autograd.grad(losses(task.train.read(indices), task.train.labels[indices]) / 5, parameters)
        source = torch.autograd.grad(losses(leaf[y == c], y[y == c]) / (y == c).sum(), parameters, create_graph=True)
        total = total + gradient.distance([g for g in target if g.ndim > 1], [g for g in source if g.ndim > 1])
    torch.testing.assert_close(value, total.detach(), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(pull, torch.autograd.grad(total, leaf)[0], atol=1e-9, rtol=1e-9)


def test_the_order_of_classes_does_not_matter():
    """With the head's rows renamed as the classes are, loss and gradient are the same."""
    task = TASKS["image"]
    other = renamed(task)
    theta = nets.build("convnet", task.spec, rng(0, "theta"), width=4)
    turned = nets.build("convnet", task.spec, rng(0, "theta"), width=4)
    with torch.no_grad():
        turned.head.weight.copy_(theta.head.weight.roll(1, 0)), turned.head.bias.copy_(theta.head.bias.roll(1, 0))

    def match(task, theta, x):
        real = [(c, task.train.indices(c)) for c in task.classes]  # whole classes: no draw
        one = class_match(lambda _: lambda x, c: F.cross_entropy(theta(x), c, reduction="sum"), gradient.weights(theta), task, Run(0), Pieces(99))
        return match_classes(one, real, None, x, task.labels, task)

    x = task.modality.noise(7, rng(0, "x"))
    here, there = match(task, theta, x), match(other, turned, x.roll(1, 0))  # quota 4, 2, 1 becomes 1, 4, 2
    torch.testing.assert_close(here[0], there[0], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(here[1], there[1].roll(-1, 0), atol=1e-5, rtol=1e-4)


def test_nothing_moves_where_s_is_t():
    """All of T as S and as each batch: D is as good as zero (the 1e-6 in it is what is left), and S stays."""
    task = TASKS["image"]
    whole = Task(task.train, task.val, task.train.counts.clone())
    method = DC(iterations=1, outer=1, width=4, real_batch=999, momentum=0.0, init="real", lr=1.0)
    syn = method.distill(whole, run := Run(0))
    start = SyntheticSet.init(whole, "real", Run(0).rng("init")).x
    assert run.curve[-1]["loss"] < 1e-2 and (syn.x - start).abs().max() < 1e-2


def test_loops_are_the_authors_and_fit_any_budget():
    task = TASKS["image"]
    at = {n: DC().loops(Task(task.train, task.val, torch.tensor([n, 1, 1]))) for n in (1, 7, 10, 15, 50, 500)}
    assert at == {1: (1, 1), 7: (1, 1), 10: (10, 50), 15: (10, 50), 50: (50, 10), 500: (50, 10)}
    assert DC(outer=3, inner_epochs=0).loops(task) == (3, 0)


def test_the_real_batch_is_representative():
    """DREAM: k-means in the net's features, the example nearest to each centre; the same until it is found again."""
    task, run = TASKS["image"], Run(0)
    theta = nets.build("convnet", task.spec, rng(0, "theta"), width=4)
    batches = Batches(task, run, 5, "representative", every=3)
    first = batches.draw(0, theta, Pieces(99))
    assert [(c, len(rows)) for c, rows in first] == [(0, 5), (1, 5), (2, 5)]
    for c, rows in first:
        assert len(rows.unique()) == 5 and bool((task.train.labels[rows] == c).all())
    elsewhere = nets.build("convnet", task.spec, rng(1, "theta"), width=4)
    for step in (1, 2):
        assert all(torch.equal(a[1], b[1]) for a, b in zip(first, batches.draw(step, elsewhere, Pieces(99)), strict=True))
    assert any(not torch.equal(a[1], b[1]) for a, b in zip(first, batches.draw(3, elsewhere, Pieces(99)), strict=True))
    with torch.no_grad():  # they stand for the class better than chance does: the mean distance to the nearest of them is smaller
        features = theta.embed(task.train.read(task.train.indices(0)))

        def spread(rows):
            return torch.cdist(features, theta.embed(task.train.read(rows))).min(1).values.mean().item()

        chance = [spread(task.train.pick(0, 5, rng(k))) for k in range(20)]
    assert spread(first[0][1]) < sum(chance) / len(chance)


def test_a_net_with_batch_norm_is_refused():
    with pytest.raises(UsageError, match="batch norm"):
        DC(net="resnet").check(TASKS["image"].modality)
    with pytest.raises(UsageError, match="grid|multiform"):
        replace(DC(), form="multiform:2").check(TASKS["tabular"].modality)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("distance", ["mse", "l1"])
def test_idc_is_the_papers_loss(task, dtype, tolerance, distance, monkeypatch):
    """Gradients of all weights but the head's and no biases, of the examples in each item's grid; then the net is trained on T."""
    method = IDC(iterations=1, inner=1, width=3, real_batch=5, distance=distance, form=papers_form(task), net_examples=6, chunk=3)
    run = Run(3)
    syn = SyntheticSet.init(task, "real", run.rng("init"), papers_form(task)).to(dtype)
    theta = nets.build(task.modality.nets[0], task.spec, run.rng("theta", 0), width=3).to(dtype)
    omega = task.modality.augment(run.rng("omega", 0), len(task.classes))
    loss, named = 0.0, dict(theta.named_parameters())
    y = syn.y.repeat_interleave(syn.each)
    for c in task.classes:
        real = task.train.draw(c, 5, run.rng("real", 0, c)).to(dtype)
        own = syn.examples()[y == c]
        sides = []
        for x in (real, own):
            c_ = torch.full((len(x),), c)
            sides.append(torch.autograd.grad(F.cross_entropy(theta(omega(x, c_)), c_), list(named.values()), create_graph=True))
        for name, a, b in zip(named, *sides, strict=True):
            if a.ndim == 1 or name.startswith("head"):
                continue
            loss = loss + ((a.detach() - b).abs().sum() if distance == "l1" else (a.detach() - b).pow(2).sum())
    agree(watch(method, task, 3, dtype, monkeypatch)[0], (loss.detach(), torch.autograd.grad(loss, syn.x)[0]), tolerance)


def test_idcs_net_is_trained_on_t_as_torch_does(monkeypatch):
    """Two steps of the method: the second matches in the net that SGD made of two batches of T; a fresh one comes after `inner`."""
    task, run = TASKS["tabular"], Run(0)
    method = IDC(iterations=2, inner=2, width=3, real_batch=5, net_examples=7, net_batch=4, augment=False, form="pixels", sampling="representative")
    seen = []
    monkeypatch.setattr(Batches, "draw", lambda self, step, net, pieces: seen.append([p.detach().clone() for p in net.parameters()]) or [])
    method.distill(task, run)
    theta = nets.build("mlp", task.spec, run.rng("theta", 0), width=3)
    optimizer = torch.optim.SGD(theta.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    for rows in torch.randperm(len(task.train), generator=run.rng("net", 0))[:7].split(4):
        optimizer.zero_grad()
        F.cross_entropy(theta(task.train.read(rows)), task.train.labels[rows]).backward()
        optimizer.step()
    afresh = nets.build("mlp", task.spec, run.rng("theta", 1), width=3)
    for ours, theirs in ((seen[1], theta), (seen[2], afresh)):
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, theirs.parameters(), strict=True))


@pytest.mark.parametrize(("side", "form"), [(8, "pixels"), (28, "multiform:2")])
def test_small_pictures_are_not_cut_into_grids(side, form):
    pixels = torch.zeros((2, 1, side, 32), dtype=torch.uint8)
    assert IDC().form_for(Image(Image.spec_of(pixels, ("a", "b"), mode="L"))) == form
    assert replace(IDC(), form="multiform:2").form_for(TASKS["image"].modality) == "multiform:2"
