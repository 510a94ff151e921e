"""Decoupled methods: RDED against its description retyped slowly, what each composes, labels by the teacher, and clear refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from datadistill import methods
from datadistill.errors import UsageError
from datadistill.labels import Hard, Soft
from datadistill.run import Run
from datadistill.synthetic.artifact import Artifact
from datadistill.testing import outcome, same, tiny_tasks
from datadistill.training.patches import mosaic

TASKS = tiny_tasks()
TASK = TASKS["image"]
TAUGHT = {"width": 4, "epochs": 2}
RECOVERING = ("sre2l", "cda", "lpld")


def doubts(method, task=TASK) -> torch.Tensor:
    """(N,) the teacher's cross-entropy of each real example."""
    phi = method.phis(task, Run(0))[0]
    with torch.no_grad():
        return F.cross_entropy(phi(task.train.read(torch.arange(len(task.train)))), task.train.labels, reduction="none")


def test_rded_with_whole_crops_keeps_the_real_examples_that_the_teacher_is_surest_of():
    method = methods.get("rded", crop=1.0, crops=1, **TAUGHT)
    syn = method.distill(TASK, Run(0))
    sure = doubts(method)
    for c in TASK.classes:
        own = TASK.train.indices(c)
        best = own[sure[own].argsort(stable=True)][: int(TASK.quota[c])]
        assert torch.equal(syn.stored()[syn.y == c], TASK.train.stored[best])
    assert syn.originals


def test_rded_by_hand():
    """Every example's surest crop, the surest of these, four to a mosaic: with crops made and scored one by one."""
    from datadistill.labels.views import box, look

    method = methods.get("rded", crops=3, factor=2, candidates=5, **TAUGHT)
    syn, phi, run = method.distill(TASK, Run(0)), method.phis(TASK, Run(0))[0], Run(0)
    for c in TASK.classes:
        n = int(TASK.quota[c])
        examples = TASK.train.indices(c)[torch.randperm(int(TASK.train.counts[c]), generator=run.rng("candidates", c))][: max(5, 4 * n)]
        u = torch.rand((len(examples), 3, 4), generator=run.rng("crops", c), dtype=torch.float64)
        found = []
        for i, example in enumerate(examples):
            scored = []
            for j in range(3):
                frame = torch.tensor([box(u[i, j].tolist(), 7 * 7 / (8 * 8))])
                patch = F.avg_pool2d(look(TASK.train.read(example[None]), frame, torch.tensor([False])), 2)
                with torch.no_grad():
                    padded = torch.zeros(1, 1, 8, 8)
                    padded[:, :, 2:6, 2:6] = patch
                    scored.append((float(F.cross_entropy(phi(padded), torch.tensor([c]))), patch))
            scored.sort(key=lambda pair: pair[0])
            found.append(scored)
        ranked = [patch for rank in range(3) for _, patch in sorted((scored[rank] for scored in found), key=lambda pair: pair[0])]
        for j, item in enumerate(syn.x[syn.y == c]):
            quarters = torch.cat([torch.cat([ranked[j][0], ranked[j + n][0]], 2), torch.cat([ranked[j + 2 * n][0], ranked[j + 3 * n][0]], 2)], 1)
            torch.testing.assert_close(item, quarters, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("sides", "f"), [((8, 8), 1), ((8, 8), 2), ((7, 9), 2), ((10, 10), 3)])
def test_a_mosaic_covers_every_place_once(sides, f):
    n = 2
    patches = torch.arange(1, f * f * n + 1).float().view(-1, 1, 1, 1).expand(-1, 1, 3, 3)
    x = mosaic(patches, n, f, (1, *sides))
    assert (x > 0).all()
    for j in range(n):
        assert set(x[j].unique().tolist()) == {float(1 + j + k * n) for k in range(f * f)}


def test_rded_on_large_pictures_is_of_four_pieces():
    """Above 64 pixels a side; told by the field, not by what is returned."""
    assert methods.get("rded").factor is None
    small, large = (methods.get("rded", factor=f, candidates=4, crops=1, **TAUGHT).distill(TASK, Run(0)) for f in (None, 2))
    whole = methods.get("rded", factor=1, candidates=4, crops=1, **TAUGHT).distill(TASK, Run(0))
    assert same(outcome(small), outcome(whole)) and not same(outcome(large), outcome(whole))


@pytest.mark.parametrize("name", ["rded", *RECOVERING])
def test_soft_labels_are_the_teachers_logits_of_what_is_stored(name):
    settings = TAUGHT if name == "rded" else {**TAUGHT, "iterations": 2}
    method = methods.get(name, **settings)
    syn = method.distill(TASK, Run(0))
    assert isinstance(syn.labels, Soft) and torch.equal(syn.y, TASK.labels)
    logits = method.phis(TASK, Run(0))[0](TASK.modality.read(syn.stored()))
    torch.testing.assert_close(syn.labels.logits.float(), logits, rtol=2e-3, atol=2e-3)
    hard = methods.get(name, labels="hard", **settings).distill(TASK, Run(0))
    assert isinstance(hard.labels, Hard) and torch.equal(hard.stored(), syn.stored())
    classes, n = 3, len(syn)
    assert Artifact.of(syn, {}).bytes - Artifact.of(hard, {}).bytes == n * classes * 2


@pytest.mark.parametrize("name", ["rded", *RECOVERING])
def test_tables_are_refused(name):
    with pytest.raises(UsageError, match="tabular") as refusal:
        methods.get(name).check(TASKS["tabular"].modality)
    assert "image" in refusal.value.expected


@pytest.mark.parametrize("name", RECOVERING)
def test_a_teacher_without_batch_norm_is_refused_before_any_work(name):
    method = methods.get(name, net="convnet")
    with pytest.raises(UsageError, match="convnet.*no batch norm") as refusal:
        method.check(TASK.modality)
    assert "resnet" in refusal.value.expected and "--set net=" in refusal.value.fix
    with pytest.raises(UsageError):
        method.distill(TASK, Run(0))
    methods.get("rded", net="convnet").check(TASK.modality)


def test_cda_is_sre2l_but_for_its_crops():
    settings = {**TAUGHT, "iterations": 3, "lr": 0.1, "r": 0.1, "crop": 1.0}
    assert same(*(outcome(methods.get(name, **settings).distill(TASK, Run(0))) for name in ("sre2l", "cda")))
    settings["crop"] = 0.08
    assert not same(*(outcome(methods.get(name, **settings).distill(TASK, Run(0))) for name in ("sre2l", "cda")))


def test_the_teacher_is_trained_once_for_all_methods():
    from datadistill.testing import Recorder

    snapshots = Recorder()
    for name in ("sre2l", "rded", "cda"):
        methods.get(name, **TAUGHT, **({} if name == "rded" else {"iterations": 1})).distill(TASK, Run(0, snapshots=snapshots))
        snapshots.state = None
    assert [name for name, _ in snapshots.cache] == ["teacher", "teacher"]  # its two epochs


def test_a_net_that_may_not_see_mirrored_pictures_does_not():
    from dataclasses import replace

    from datadistill.data.task import Real, Task
    from datadistill.modalities import Image

    facts = {**TASK.spec.facts, "flip": False}
    modality = Image(replace(TASK.spec, facts=facts))
    task = Task(Real(TASK.train.stored, TASK.train.labels, modality), TASK.val, TASK.quota)
    method = methods.get("sre2l", iterations=1, **TAUGHT)
    assert method.recovery(TASK).flip and not method.recovery(task).flip


@pytest.mark.parametrize(("kind", "size"), [("hard", 700), ("soft", 700), ("views", 1900), ("teacher", 12_000)])
def test_a_budget_of_bytes_counts_labels(kind, size):
    """All that is stored of samples and labels stays within it, and one item more would not fit (but for what the text about views leaves)."""
    from datadistill.data.task import Budget, Task, item_bytes

    method = methods.get("random-labelled", labels=kind, label_epochs=3, **TAUGHT)
    each, whole = method.label_bytes(TASK.train)
    task = Task.of(TASK.train, TASK.val, Budget(bytes=size), (each, whole))
    syn = method.distill(task, Run(0))
    held = Artifact.of(syn, {}).bytes
    assert size - (each + item_bytes(TASK.train)) - (1024 if whole else 0) < held <= size
    with pytest.raises(UsageError, match="0 items") as refusal:
        Task.of(TASK.train, TASK.val, Budget(bytes=10), (each, whole))
    least = int(refusal.value.fix.split()[-1])
    assert Task.of(TASK.train, TASK.val, Budget(bytes=least), (each, whole)).quota.tolist() == [1, 1, 1]
