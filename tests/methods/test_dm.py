"""DM against the paper's formula written slowly, and its laws."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from cases import CASES

from datadistill import methods, nets
from datadistill.data.task import Budget, Real, Task
from datadistill.errors import UsageError
from datadistill.methods import DM
from datadistill.methods.matching import Fresh, Matching
from datadistill.modalities import Image
from datadistill.rng import rng
from datadistill.run import Run
from datadistill.synthetic import SyntheticSet
from datadistill.testing import tiny_tasks

MATCHING = [name for name, kind in methods.all_methods().items() if issubclass(kind, Matching)]
LITTLE = {"iterations": 1, "width": 4, "real_batch": 6}


@pytest.fixture(scope="module", params=["image", "tabular"])
def task(request) -> Task:
    """Uneven quotas, labels out of order, one class with fewer examples than the real batch (datadistill.testing)."""
    return tiny_tasks()[request.param]


def paper(task: Task, method: DM, seed: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """(L, dL/dS) of the first iteration: for each class, one at a time, || mean psi(omega_c(T_c)) - mean psi(omega_c(S_c)) ||^2."""
    run = Run(seed)
    syn = SyntheticSet.init(task, "real", run.rng("init"))
    s = syn.x.detach().to(dtype).requires_grad_()
    psi = nets.build(task.modality.nets[0], task.spec, run.rng("theta", 0), width=method.width).to(dtype)
    omega = task.modality.augment(run.rng("omega", 0), len(task.classes))
    loss = torch.zeros((), dtype=dtype)
    for c in task.classes:
        real = task.train.draw(c, method.real_batch, run.rng("real", 0, c)).to(dtype)
        own = s[syn.y == c]
        mean_real = torch.stack([psi.embed(omega(t[None], torch.tensor([c])))[0] for t in real]).sum(0) / len(real)
        mean_syn = torch.stack([psi.embed(omega(x[None], torch.tensor([c])))[0] for x in own]).sum(0) / len(own)
        loss = loss + ((mean_real - mean_syn) ** 2).sum()
    return loss.detach(), torch.autograd.grad(loss, s)[0]


class Watched(Run):
    """Keeps the loss and the gradient instead of stepping; `dtype` makes S, and with it everything, that precise."""

    def descend(self, optimizer, loss):
        self.loss, self.gradient = loss().clone(), optimizer.param_groups[0]["params"][0].grad.clone()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
@pytest.mark.parametrize("chunk", [None, 1, 5])
def test_loss_and_gradient_are_the_papers(task, chunk, dtype, tolerance, monkeypatch):
    method = DM(**LITTLE, chunk=chunk)
    if dtype is torch.float64:
        build, read, init = nets.build, Real.read, SyntheticSet.init
        monkeypatch.setattr(nets, "build", lambda *a, **k: build(*a, **k).double())
        monkeypatch.setattr(Real, "read", lambda self, rows, *device: read(self, rows, *device).double())
        monkeypatch.setattr(SyntheticSet, "init", lambda *a: init(*a).double())
    run = Watched(3)
    method.distill(task, run)
    monkeypatch.undo()
    loss, gradient = paper(task, method, 3, dtype)
    assert float((run.loss - loss).abs()) <= tolerance * float(loss)
    assert float((run.gradient - gradient).norm()) <= tolerance * float(gradient.norm())


@pytest.mark.parametrize("name", MATCHING)
def test_bfloat16_points_where_float32_does(name):
    about, exact = ({**CASES[name][0], "iterations": 1, "width": 16, "precision": precision} for precision in ("bfloat16", "float32"))
    found, expected = (Watched(0) for _ in range(2))
    for settings, run in ((about, found), (exact, expected)):
        methods.get(name, **settings).distill(tiny_tasks()["image"], run)
    assert not torch.equal(found.gradient, expected.gradient)
    assert torch.cosine_similarity(found.gradient.flatten(), expected.gradient.flatten(), dim=0) > 0.98


def test_no_loss_when_s_is_t():
    """Every class's examples are all in S and all in B_T: nothing to match, under any network and augmentation."""
    task = tiny_tasks()["tabular"]
    whole = Task.of(task.train, task.val, Budget(size=len(task.train)))
    run = Watched(0)
    DM(iterations=1, width=8, real_batch=len(task.train)).distill(whole, run)
    assert float(run.loss) < 1e-8 and float(run.gradient.abs().max()) < 1e-5


def test_siamese_the_two_sides_of_a_class_share_their_augmentation():
    """One real example per class, and S the same: there is no loss only if both sides got the same omega."""
    task = tiny_tasks()["image"]
    first = torch.stack([task.train.indices(c)[0] for c in task.classes])
    one = task.train.subset(first)
    run = Watched(5)
    DM(iterations=1, width=4).distill(Task(one, one, torch.ones(len(task.classes), dtype=torch.long)), run)
    assert float(run.loss) < 1e-10


def test_memory_running_out_gives_the_same_set_and_a_note(task, monkeypatch):
    method = DM(**{**LITTLE, "iterations": 3}, chunk=64)
    expected = method.distill(task, Run(0))
    embed = nets.FAMILIES[task.modality.nets[0]].embed

    def scarce(self, x):
        if len(x) > 7:
            raise torch.OutOfMemoryError("out of memory (injected)")
        return embed(self, x)

    monkeypatch.setattr(nets.FAMILIES[task.modality.nets[0]], "embed", scarce)
    run = Run(0)
    found = method.distill(task, run)
    torch.testing.assert_close(found.x, expected.x, rtol=1e-4, atol=1e-5)
    assert any("out of memory" in note for note in run.notes)


def test_what_it_learns_lies_nearer_the_class_means_than_where_it_began():
    """Without augmentation, through the identity (linear's embedding), DM pulls S onto the means of T."""
    task = tiny_tasks()["tabular"]
    method = DM(iterations=60, net="linear", width=None, augment=False, lr=0.2)

    def gap(syn: SyntheticSet) -> float:
        return sum(float((syn.x.data[syn.y == c].mean(0) - task.train.read(task.train.indices(c)).mean(0)).norm()) for c in task.classes)

    assert gap(method.distill(task, Run(0))) < 0.2 * gap(SyntheticSet.init(task, "real", rng(0, "init")))


def test_a_net_with_batch_norm_is_refused_with_one_that_works():
    task = tiny_tasks()["image"]
    with pytest.raises(UsageError, match="batch norm") as refusal:
        DM(iterations=1, net="resnet").distill(task, Run(0))
    assert "convnet" in refusal.value.expected and "resnet" not in refusal.value.expected
    assert Image(task.spec).nets[0] == "convnet"


@pytest.mark.parametrize("net", ["linear", "mlp"])
def test_a_net_that_the_refusal_names_works_with_the_quick_settings(net):
    """Their width means nothing to a linear model."""
    task = tiny_tasks()["tabular"]
    with pytest.raises(UsageError, match="batch norm") as refusal:
        DM(net="tabresnet").check(task.modality)
    assert net in refusal.value.expected
    syn = replace(DM(net=net).preset("quick", task.modality), iterations=1).distill(task, Run(0))
    assert bool(torch.isfinite(syn.x).all())


def one_step(name: str, **settings) -> Matching:
    """The method of that name, for one step of S."""
    loops = {"iterations", "outer", "inner", "rounds"} & {f.name for f in fields(methods.all_methods()[name])}
    return methods.get(name, **{**CASES[name][0], **dict.fromkeys(loops, 1), **settings})


@pytest.mark.parametrize("ipc", [1, 3])
@pytest.mark.parametrize("kind", ["image", "tabular"])
@pytest.mark.parametrize("name", [name for name in MATCHING if name != "ncfm"])  # which steps after each class
def test_a_first_step_of_adam_is_the_learning_rate_whatever_the_loss_and_the_budget(name, kind, ipc):
    if kind not in methods.all_methods()[name].takes():
        pytest.skip(f"{name} takes no {kind} data")
    tiny = tiny_tasks()[kind]
    task, method = Task.of(tiny.train, tiny.val, Budget(ipc=ipc)), one_step(name, optimizer="adam", lr=0.01, init="real")
    start = SyntheticSet.init(task, "real", rng(0, "init"), method.form_for(task.modality)).x.detach()
    moved = (method.distill(task, Run(0)).x.detach() - start).abs()
    assert float(moved.max()) == pytest.approx(0.01, rel=1e-3)
    if kind == "image":
        assert float((moved > 0.0099).float().mean()) > 0.8  # the others are at the end of their range


@pytest.mark.parametrize(("name", "times"), [("dm", 1), ("idm", 1), ("m3d", 3), ("idc", 0.3)])
def test_a_step_of_plain_descent_grows_with_the_items_of_a_class_where_a_method_says_so(name, times):
    """Three per class: the rate is lr times 3 for M3D, times 3 / 10 for IDC."""
    tiny = tiny_tasks()["tabular"]
    task, method = Task.of(tiny.train, tiny.val, Budget(ipc=3)), one_step(name, optimizer="sgd", momentum=0.0, lr=0.01)
    method.distill(task, watched := Watched(0))
    expected = SyntheticSet.init(task, "real", rng(0, "init")).x.detach() - 0.01 * times * watched.gradient
    task.modality.clamp_(expected)
    torch.testing.assert_close(method.distill(task, Run(0)).x.detach(), expected, rtol=0, atol=1e-6)


def test_a_fresh_network_is_the_one_of_its_name_and_stays_where_it_is():
    task, run, method = tiny_tasks()["image"], Run(0), DM(width=4)
    fresh = Fresh(method, task, run)
    places = [p.data_ptr() for p in fresh.net.parameters()]
    for k in (3, 1, 3):
        drawn = fresh.draw("theta", k)
        assert [p.data_ptr() for p in drawn.parameters()] == places
        for own, named in zip(drawn.parameters(), method.network(task, run, "theta", k).parameters(), strict=True):
            assert torch.equal(own, named)
    other = method.network(task, run, "theta", 8)
    nets.take_(fresh.net, other)
    assert all(torch.equal(a, b) for a, b in zip(fresh.net.parameters(), other.parameters(), strict=True)) and [p.data_ptr() for p in fresh.net.parameters()] == places
