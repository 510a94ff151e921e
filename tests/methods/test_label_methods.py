"""Methods that leave examples as they are and say more of them than a class."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from slow import PRECISIONS, agree, watch

from datadistill import nets
from datadistill.data.task import Budget, Real, Task
from datadistill.errors import NotFinite, UsageError
from datadistill.match import ridge
from datadistill.memory import Pieces
from datadistill.methods import LabelDistillation, TeacherLabels, label_only, label_teacher
from datadistill.methods.label_teacher import candidates
from datadistill.modalities import Tabular
from datadistill.rng import rng
from datadistill.run import Run
from datadistill.synthetic.set import real_indices
from datadistill.testing import tiny_tasks

TASKS = tiny_tasks()
both = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


@both
def test_teacher_labels_are_what_the_expert_says_of_real_examples(task):
    """An expert trained by torch's SGD for two epochs of the same batches; its softmax, to the 16 bits that are kept."""
    method = TeacherLabels(epochs=9, epoch=2, width=4, batch=8, lr_expert=0.1)
    syn, run = method.distill(task, Run(3)), Run(3)
    expert = nets.build(task.modality.nets[0], task.spec, run.rng("expert", 0), width=4)
    optimizer = torch.optim.SGD(expert.parameters(), lr=0.1, momentum=0.9)
    for epoch in (1, 2):
        for at, rows in enumerate(torch.randperm(len(task.train), generator=run.rng("expert", 0, "order", epoch)).split(8)):
            x = task.modality.augment(run.rng("expert", 0, epoch, at, "omega"), len(rows))(task.train.read(rows), torch.arange(len(rows)))
            optimizer.zero_grad()
            F.cross_entropy(expert(x), task.train.labels[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        said = F.softmax(expert(task.train.read(syn.origin)), 1)
    torch.testing.assert_close(syn.labels.targets(torch.arange(len(syn))), said, atol=2e-3, rtol=0)
    assert torch.equal(syn.y, task.train.labels[syn.origin]) and torch.equal(syn.rows.nan_to_num(-1), task.train.stored[syn.origin].nan_to_num(-1))


@pytest.mark.parametrize("method", [TeacherLabels(epoch=1, width=4, init="representative"), LabelDistillation(iterations=1, width=4, real_batch=8, init="representative")])
def test_labels_may_be_those_of_representative_examples(method):
    """Which the class's clusters name, and a seed does not change: here a class lies at two places, and its items at one each."""
    rows = torch.tensor([[0.0, 0.0]] * 9 + [[9.0, 9.0]] * 9 + [[-5.0, 5.0]] * 9 + [[5.0, -5.0]] * 9)
    labels = torch.arange(2).repeat_interleave(18)
    columns = [{"name": n, "integer": False} for n in "ab"]
    real = Real(rows, labels, Tabular(Tabular.spec_of(rows, columns, ("x", "y"), "label")))
    task = Task(real, real, torch.tensor([2, 2]))
    for seed in range(4):
        syn = method.distill(task, Run(seed))
        assert torch.equal(syn.y, torch.tensor([0, 0, 1, 1]))
        assert (syn.rows[0] != syn.rows[1]).any() and (syn.rows[2] != syn.rows[3]).any()


def test_the_experts_age_is_chosen_on_validation_data(monkeypatch):
    """Whatever age the student scores best with."""
    task = TASKS["tabular"]
    for scores, best in (([0.1, 0.9, 0.3, 0.2, 0.2], 2), ([0.5, 0.4, 0.3, 0.2, 0.6], 6)):
        given = iter(scores)

        def judge(student, examples, labels, given=given, **_):
            assert examples is task.val
            return next(given)

        monkeypatch.setattr(label_teacher, "accuracy", judge)
        run = Run(0)
        chosen = TeacherLabels(epochs=6, steps=1, width=4).distill(task, run)
        fixed = TeacherLabels(epochs=6, epoch=best, width=4).distill(task, Run(0))
        assert torch.equal(chosen.labels.logits, fixed.labels.logits)
        assert any(f"epoch {best}" in note for note in run.notes) and [row["accuracy"] for row in run.curve] == scores


@pytest.mark.parametrize(("epochs", "most", "last"), [(9, 2.5, 2), (9, 0.5, 1), (2, 5.0, 2)])
def test_the_experts_steps_have_an_end(epochs, most, last):
    """As many whole epochs as they hold, or one."""
    task, run = TASKS["tabular"], Run(0)
    per_epoch = -(-len(task.train) // 8)
    TeacherLabels(epochs=epochs, most_steps=int(most * per_epoch), steps=1, width=4, batch=8).distill(task, run)
    assert max(row["epoch"] for row in run.curve) == last


def test_candidates_grow_and_end_at_the_last():
    assert candidates(1) == [1] and candidates(2) == [1, 2] and candidates(6) == [1, 2, 3, 5, 6]
    for last in range(1, 70):
        ages = candidates(last)
        assert ages[0] == 1 and ages[-1] == last and ages == sorted(set(ages))


# -- label distillation -------------------------------------------------------------------------------------------------


def test_ridge_is_scikit_learns():
    sklearn = pytest.importorskip("sklearn.linear_model")
    draw = rng(0)
    features, targets, queries = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((9, 4), (9, 3), (5, 4)))
    expected = sklearn.Ridge(alpha=0.7, fit_intercept=False).fit(features.numpy(), targets.numpy()).predict(queries.numpy())
    torch.testing.assert_close(ridge.predict(queries, features, targets, 0.7), torch.from_numpy(expected))


@both
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("chunk", [3, 99])
def test_label_distillation_is_the_papers_loss(task, dtype, tolerance, chunk, monkeypatch):
    """W by the normal equations in feature space, where ours solves in the space of examples."""
    method = LabelDistillation(iterations=1, width=8, real_batch=10, chunk=chunk, ridge=0.5, smoothing=0.3)
    run = Run(3)
    indices = real_indices(task, run.rng("select"))
    y = task.train.labels[indices]
    theta = nets.build(task.modality.nets[0], task.spec, run.rng("theta", 0), width=8).to(dtype)
    rows = torch.randperm(len(task.train), generator=run.rng("real", 0))[:10]
    real = task.modality.augment(run.rng("omega", 0), 10)(task.train.read(rows).to(dtype), torch.arange(10))
    logits = label_only.smoothed(y, 3, 0.3).to(dtype).requires_grad_()
    torch.testing.assert_close(F.softmax(logits, 1), torch.where(F.one_hot(y, 3).bool(), 0.7, 0.15).to(dtype))
    f, g = theta.embed(task.train.read(indices).to(dtype)).double(), theta.embed(real).double()
    lam = 0.5 * f.square().sum(1).mean()
    w = torch.linalg.inv(f.T @ f + lam * torch.eye(f.shape[1], dtype=torch.float64)) @ f.T @ (F.softmax(logits.double(), 1) - 1 / 3)
    loss = F.cross_entropy(g @ w, task.train.labels[rows])
    monkeypatch.setattr(label_only, "smoothed", lambda y, classes, smoothing, was=label_only.smoothed: was(y, classes, smoothing).to(dtype))
    ours = watch(method, task, 3, dtype, monkeypatch)[0]
    agree(ours, (loss.detach(), torch.autograd.grad(loss, logits)[0]), tolerance if dtype is torch.float64 else 1e-4)


@pytest.mark.parametrize("chunk", [2, 99])
def test_the_features_net_goes_down_the_same_loss_in_any_pieces(chunk):
    """theta's gradient, and those of the labels and of alpha, against one graph over everything."""
    task = TASKS["image"]
    theta = nets.build("convnet", task.spec, rng(0), width=4).double()
    held = label_only.Learned(torch.randn((26, 3), generator=rng(1), dtype=torch.float64))
    x, y = task.train.read(torch.arange(26)).double(), task.train.labels
    value = LabelDistillation()._backward(theta, held, x, x.flip(3), y, Pieces(chunk))
    ours = [p.grad for p in (*theta.features.parameters(), *held.parameters())]
    loss = held.loss(theta.embed(x), theta.embed(x.flip(3)), y, 1.0)
    assert float(value) == pytest.approx(float(loss.detach()))
    for a, b in zip(ours, torch.autograd.grad(loss, [*theta.features.parameters(), *held.parameters()]), strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8)


def test_the_same_example_twice_and_no_ridge_end_in_a_message():
    """K_ss is singular: no number, as the kernel methods have it, which a run knows how to take back."""
    features = torch.ones((2, 3))
    assert ridge.predict(features, features, torch.eye(2), 0.0).isnan().all()
    real = TASKS["tabular"].train
    same = Real(real.stored[:1].expand(len(real), -1).clone(), real.labels, real.modality)
    with pytest.raises(NotFinite):
        LabelDistillation(iterations=2, width=4, ridge=0.0).distill(Task.of(same, same, Budget(ipc=2)), Run(0))


def test_learned_labels_serve_the_real_data_better_than_where_they_began():
    task = TASKS["tabular"]
    run = Run(0)
    LabelDistillation(iterations=200, width=16, augment=False, per_net=1000, lr_net=0.0).distill(task, run)
    assert sum(row["loss"] for row in run.curve[-5:]) < 0.8 * sum(row["loss"] for row in run.curve[:5])


def test_batch_norm_is_refused():
    for method in (LabelDistillation(net="resnet"), TeacherLabels(net="resnet")):
        with pytest.raises(UsageError, match="batch norm"):
            method.check(TASKS["image"].modality)


def test_real_examples_stay_bit_for_bit():
    for task in TASKS.values():
        syn = LabelDistillation(iterations=1, width=4).distill(task, Run(0))
        assert torch.equal(syn.stored().nan_to_num(-1), task.train.stored[syn.origin].nan_to_num(-1)) and isinstance(task.train, Real)
