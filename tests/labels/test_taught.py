"""Teachers as labels: what they say of the views that are shown, their bytes, damage; and LPQLD's labels and loss."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from datadistill import labels, methods, nets
from datadistill.errors import BadInput, UsageError
from datadistill.labels import Objective, Taught, Views, record
from datadistill.match import labels as losses
from datadistill.modalities import Image
from datadistill.rng import rng
from datadistill.run import Run
from datadistill.synthetic import SyntheticSet
from datadistill.synthetic.artifact import Artifact
from datadistill.testing import same, same_bits, tiny_tasks
from datadistill.training import Schedule, fit
from datadistill.training.relabel import Relabel, relabel
from datadistill.training.weights import Through

TASK = tiny_tasks()["image"]
ROWS = torch.arange(7)


def phi(seed: int = 0, family: str = "resnet") -> nets.Net:
    net = nets.build(family, TASK.spec, rng(seed, "phi"), width=4)
    for k in range(3):
        net(TASK.train.read(torch.randperm(26, generator=rng(seed, k))[:16]))
    return net.eval().requires_grad_(False)


def taught(*teachers: nets.Net, objective: str = "kl") -> tuple[Taught, SyntheticSet]:
    syn = SyntheticSet.init(TASK, "real", rng(0))
    syn.labels = relabel(syn, list(teachers), Relabel("teacher", objective=Objective(objective)), Run(3))
    return syn.labels, syn


def test_a_taught_student_sees_new_views_and_what_the_teachers_say_of_them(monkeypatch):
    first, second = phi(0), phi(1, "vgg")
    kept, syn = taught(first, second, objective="mse_ce")
    examples, shown, asked = Artifact.of(syn, {}), [], []
    embed, loss = nets.ConvNet.embed, Taught.loss
    monkeypatch.setattr(nets.ConvNet, "embed", lambda self, x: (shown.append(x.detach().clone()), embed(self, x))[1])
    monkeypatch.setattr(Taught, "loss", lambda self, logits, *more, at: (asked.append(more), loss(self, logits, *more, at=at))[1])
    fit(nets.build("convnet", TASK.spec, rng(0), width=4), examples, kept, Schedule(steps=3, batch=7, augment=True), 0)
    views = Views(3, crop=7 * 7 / (8 * 8))
    for step in range(3):
        rows = torch.randperm(7, generator=rng(0, "order", step))
        x = views.of(examples.read, rows, torch.full_like(rows, step), 7)
        assert same_bits(shown[step], x)
        torch.testing.assert_close(asked[step][0], (first(x) + second(x)) / 2, rtol=5e-3, atol=5e-3)  # weights are kept as float16
        drawn = views.draw(rows, torch.full_like(rows, step), 7, (8, 8))
        h = torch.zeros(7, 3)
        for k in range(7):
            h[k, syn.y[rows[k]]] += drawn.share[k]
            h[k, syn.y[drawn.partner[k]]] += 1 - drawn.share[k]
        torch.testing.assert_close(asked[step][1], h)
    assert not same_bits(shown[0].sort(0).values, shown[1].sort(0).values)


def test_stored_and_read_again_it_says_the_same_and_its_bytes_are_those_of_the_file(tmp_path):
    kept, syn = taught(phi())
    loaded = Artifact.load(Artifact.of(syn, {}).save(tmp_path / "set"))
    assert isinstance(loaded.labels, Taught) and same(loaded.labels.tensors(), kept.tensors())
    x = TASK.train.read(ROWS)
    assert same_bits(loaded.labels.ask_about(x, ROWS)[0], kept.ask_about(x, ROWS)[0])
    file = (tmp_path / "set" / "labels.safetensors").read_bytes()
    held = sum(t.numel() * t.element_size() for t in kept.tensors().values())
    assert len(file) - 8 - int.from_bytes(file[:8], "little") == held == loaded.bytes - syn.stored().numel()
    weights = sum(t.numel() for t in phi().state_dict().values() if t.is_floating_point())
    assert 2 * weights < held < 2 * weights + 1000


def test_weights_that_float16_cannot_hold_are_kept_whole():
    net = phi()
    bn = next(m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d))
    bn.running_var[0] = 1e6
    state = taught(net)[0].states[0]
    wide = [name for name, t in state.items() if t.dtype == torch.float32]
    assert len(wide) == 1 and wide[0].endswith("running_var") and float(state[wide[0]][0]) == 1e6


def test_the_teacher_itself_is_not_changed():
    net = phi()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    kept, _ = taught(net)
    kept.ask_about(TASK.train.read(ROWS), ROWS)
    assert same(before, net.state_dict())


def test_a_teacher_of_data_scaled_otherwise_is_refused():
    other = Image(Image.spec_of(TASK.train.stored // 2, TASK.spec.classes, mode="L"))
    with pytest.raises(UsageError, match="scaled otherwise"):
        taught(Through(phi(), other, TASK.modality))


def test_damaged_teachers_are_refused_and_nothing_is_made_of_their_size():
    tensors = taught(phi())[0].tensors()
    about = json.loads(tensors["about"].numpy().tobytes())
    restore = lambda family, size, state: nets.restore(TASK.spec, family, size, state)  # noqa: E731
    assert same(labels.of(tensors, 3, restore).tensors(), tensors)
    text = lambda **more: torch.frombuffer(bytearray(json.dumps({**about, **more}).encode()), dtype=torch.uint8)  # noqa: E731
    odd = [[["resnet", {"width": 4096}]], [["nonsense", {}]], [["resnet", {"width": -1}]], [["resnet", {"depth": 3}]], [], None, "x", [["resnet", {"width": 4}]] * 2, [["resnet", {"width": 5}]]]
    wrong = [{**tensors, "about": text(teachers=value)} for value in odd]
    wrong += [{**tensors, "about": text(**{key: value})} for key in ("views", "sides", "objective", "format", "classes") for value in (None, -1, "x", [], {"a": 1})]
    name = next(n for n in tensors if n.endswith("head.weight"))
    wrong += [{k: v for k, v in tensors.items() if k != name}, {**tensors, name: tensors[name][:-1]}, {**tensors, "teacher9/x": torch.zeros(1)}, {**tensors, "labels": torch.tensor([9] * 7, dtype=torch.uint8)}]
    for damaged in wrong:
        with pytest.raises(BadInput):
            labels.of(damaged, 3, restore)


@pytest.mark.parametrize("name", ["random-labelled", "sre2l"])
def test_methods_can_send_their_teacher_along(name):
    settings = {"width": 4, "epochs": 1, "labels": "teacher", **({"iterations": 2} if name == "sre2l" else {})}
    method = methods.get(name, **settings)
    syn = method.distill(TASK, Run(0))
    net = method.phis(TASK, Run(0))[0]
    x = TASK.modality.read(syn.stored())
    torch.testing.assert_close(syn.labels.ask_about(x, ROWS)[0], net(x), rtol=5e-3, atol=5e-3)
    assert torch.equal(syn.labels.targets(ROWS), TASK.labels)


@pytest.mark.parametrize("kind", ["hard", "soft", "views", "teacher"])
def test_random_real_examples_take_every_kind_of_label(kind):
    syn = methods.get("random-labelled", width=4, epochs=1, labels=kind, label_epochs=2).distill(TASK, Run(0))
    plain = methods.get("random").distill(TASK, Run(0))
    assert torch.equal(syn.stored(), plain.stored()) and torch.equal(syn.y, plain.y) and syn.originals


# -- labels by many together (BSSL) -------------------------------------------------------------------------------------------


def test_labels_by_the_batchs_own_statistics_by_hand():
    net, syn = phi(), SyntheticSet.init(TASK, "real", rng(0))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    found = relabel(syn, [net], Relabel("soft", together=4), Run(3))
    x = TASK.modality.read(syn.stored())
    parts = torch.randperm(7, generator=Run(3).rng("together", 0)).tensor_split(2)
    for rows in parts:
        train = phi()
        train.train()
        torch.testing.assert_close(found.logits[rows].float(), train(x[rows]), rtol=2e-3, atol=2e-3)
    assert not torch.allclose(found.logits.float(), net(x), atol=1e-2)
    assert same(before, net.state_dict()) and not any(m.training for m in net.modules())


# -- LPQLD --------------------------------------------------------------------------------------------------------------------


def test_the_largest_alone_are_kept_and_the_rest_has_probability_zero(tmp_path):
    logits = 3 * torch.randn((4, 6, 9), generator=rng(0))
    store = record(torch.arange(6) % 9, logits, Views(0), (8, 8), Objective("lpqld"))
    for k in (1, 3, 9):
        kept = store.compressed(f"mr{k}")
        for epoch in range(4):
            was, got = store.logits(torch.arange(6), epoch), kept.logits(torch.arange(6), epoch)
            for a, b in zip(was, got, strict=True):
                top = a.argsort(descending=True)[:k]
                assert torch.equal(b[top], a[top]) and int((b > -torch.inf).sum()) == k
            torch.testing.assert_close(kept.targets(torch.arange(6), epoch).sum(1), torch.ones(6))
        assert same(labels.of(kept.tensors(), 9).tensors(), kept.tensors())
    views = 4 * 6
    whole, small = (s.bytes - len(s.tensors()["about"]) for s in (store, store.compressed("mr3")))
    assert whole == 2 * 9 * views + 6 and small == 3 * (2 + 1) * views + 6
    for to in ("mr3,int8", "mr3,codes4"):
        with pytest.raises(UsageError, match="give up"):
            store.compressed(to)
    with pytest.raises(UsageError, match="gift"):
        record(torch.arange(6) % 9, logits, Views(0), (8, 8), Objective("gift")).compressed("mr3")


@pytest.mark.parametrize(("at", "t"), [(0.0, 20.0), (0.09, 20.0), (0.1, 14.0), (0.35, 20 * 0.7**3), (0.99, 2.0)])
def test_lpqlds_loss_by_hand(at, t):
    logits, z = (2 * torch.randn(4, 5, generator=rng(k), dtype=torch.float64) for k in (0, 1))
    z[:, 3:] = -torch.inf

    def softmax(row, t):
        parts = [math.exp(v / t) for v in row]
        return [p / sum(parts) for p in parts]

    expected = []
    for a, b in zip(logits.tolist(), z.tolist(), strict=True):
        student, teacher = softmax(a, 1.0), softmax(b[:3], t)
        expected.append(sum(q * (math.log(q) - math.log(p)) for p, q in zip(student, teacher, strict=False)))
    torch.testing.assert_close(losses.lpqld(logits, z, at), torch.tensor(expected, dtype=torch.float64))
    x = logits.clone().requires_grad_()
    losses.lpqld(x, z, at).sum().backward()
    torch.testing.assert_close(x.grad, F.softmax(logits, 1) - F.softmax(z / t, 1))


def test_there_is_no_other_file(tmp_path):
    """A set with its teacher is a folder of safetensors, JSON and pictures like any other."""
    _, syn = taught(phi())
    Artifact.of(syn, {}).save(tmp_path / "set")
    assert {p.suffix for p in Path(tmp_path / "set").iterdir() if p.is_file()} <= {".safetensors", ".json", ".md", ".html", ".lock"}
