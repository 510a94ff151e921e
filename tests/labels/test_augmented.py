"""The store of labels by example and epoch: replay, pruning, codecs, bytes, what a student is shown, and damage."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from datadistill import labels, nets, store
from datadistill.errors import BadInput, UsageError
from datadistill.labels import Augmented, Objective, Replay, Soft, Views, record
from datadistill.labels.compress import CODECS, named
from datadistill.rng import rng
from datadistill.run import Run
from datadistill.synthetic import SyntheticSet
from datadistill.synthetic.artifact import Artifact
from datadistill.testing import same, same_bits, tiny_tasks
from datadistill.training import Schedule, fit
from datadistill.training.relabel import Relabel, relabel

TASK = tiny_tasks()["image"]
N, EPOCHS, CLASSES = 7, 6, 3


class Seen(nn.Module):
    """A teacher that says something of its own about each picture, and keeps what it was shown."""

    def __init__(self):
        super().__init__()
        self.shown: list[torch.Tensor] = []

    def forward(self, x):
        self.shown.append(x.clone())
        return torch.stack([x.mean((1, 2, 3)), x.amax((1, 2, 3)), x[:, 0, 3, 4]], 1)


def syn() -> SyntheticSet:
    return SyntheticSet.init(TASK, "real", rng(0))


def written(how: Relabel | None = None) -> tuple[Augmented, Seen, SyntheticSet]:
    teacher, made = Seen(), syn()
    found = relabel(made, [teacher], how or Relabel("views", EPOCHS), Run(3))
    return found, teacher, made


def drawn(n: int = N, epochs: int = EPOCHS, classes: int = CLASSES, seed: int = 0, **more) -> Augmented:
    logits = 3 * torch.randn((epochs, n, classes), generator=rng(seed, "logits"))
    return record(torch.arange(n) % classes, logits, Views(seed), (8, 8), **more)


def everything(store: Augmented) -> torch.Tensor:
    return torch.stack([store.logits(torch.arange(len(store)), epoch) for epoch in range(store.kept)])


# -- replay -------------------------------------------------------------------------------------------------------------


def test_what_is_replayed_is_what_the_teacher_saw_and_said():
    store, teacher, made = written()
    examples = Artifact.of(made, {})
    assert len(teacher.shown) == EPOCHS  # seven examples are one chunk
    for epoch, shown in enumerate(list(teacher.shown)):
        for size in (1, 3, 7):
            for rows in torch.randperm(N, generator=rng(size)).split(size):
                assert same_bits(store.show(examples.read, rows, epoch), shown[rows])
                assert same_bits(store.logits(rows, epoch).half(), teacher(shown[rows]).half())
    assert torch.equal(store.hard, made.y)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 4])
def test_a_replay_is_the_same_bits_from_any_number_of_workers(workers):
    store, teacher, made = written()
    seen = list(teacher.shown)
    replay = Replay(Artifact.of(made, {}), store)
    for epoch, size in ((0, 2), (4, 5)):
        replay.set_epoch(epoch)
        loader = torch.utils.data.DataLoader(replay, batch_size=size, num_workers=workers)
        x, y = (torch.cat(parts) for parts in zip(*loader, strict=True))
        assert same_bits(x, seen[epoch]) and same_bits(y, store.targets(torch.arange(N), epoch))
    assert same_bits(replay[3][0], seen[4][3])


def test_a_longer_training_begins_again():
    store = drawn()
    assert torch.equal(store.logits(torch.arange(N), EPOCHS + 2), store.logits(torch.arange(N), 2))
    assert torch.equal(store.drawn(torch.arange(N), EPOCHS + 2).box, store.drawn(torch.arange(N), 2).box)


def test_targets_are_distributions():
    for to in ("fp16", "top2", "int8", "codes4"):
        torch.testing.assert_close(drawn().compressed(to).targets(torch.arange(N), 1).sum(1), torch.ones(N))


def test_labels_by_two_teachers_are_the_mean():
    made = syn()

    class Twice(Seen):
        def forward(self, x):
            return 2 * super().forward(x)

    both = relabel(made, [Seen(), Twice()], Relabel("views", 2), Run(3))
    torch.testing.assert_close(everything(both), 1.5 * everything(written(Relabel("views", 2))[0]), rtol=2e-3, atol=2e-3)


# -- what a student is shown and asked ------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["kl", "mse_ce", "gift", "hald"])
def test_a_student_is_trained_on_the_views_and_the_loss_of_the_store(objective, monkeypatch):
    store, teacher, made = written(Relabel("views", EPOCHS, objective=Objective(objective)))
    shown: list[torch.Tensor] = []
    embed = nets.ConvNet.embed
    monkeypatch.setattr(nets.ConvNet, "embed", lambda self, x: (shown.append(x.detach().clone()), embed(self, x))[1])
    asked: list[float] = []
    loss = Augmented.loss
    monkeypatch.setattr(Augmented, "loss", lambda self, logits, *more, at: (asked.append(at), loss(self, logits, *more, at=at))[1])
    net = nets.build("convnet", TASK.spec, rng(0), width=4)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    fit(net, Artifact.of(made, {}), store, Schedule(steps=8, batch=7, augment=True), 0)
    for step, x in enumerate(shown):
        rows = torch.randperm(N, generator=rng(0, "order", step))
        assert same_bits(x, teacher.shown[step % EPOCHS][rows])
    assert asked == [step / 8 for step in range(8)] and not same(before, net.state_dict())


def test_the_loss_is_that_of_the_teachers_logits_and_of_the_mixed_class():
    from datadistill.match import labels as losses

    store = drawn(objective=Objective("mse_ce", gamma=0.5))
    rows, logits = torch.tensor([2, 5]), torch.randn((2, CLASSES), generator=rng(1))
    view = store.drawn(rows, 1)
    h = torch.zeros(2, CLASSES)
    for k in range(2):
        h[k, store.hard[rows[k]]] += view.share[k]
        h[k, store.hard[view.partner[k]]] += 1 - view.share[k]
    torch.testing.assert_close(store.loss(logits, *store.ask(rows, 1)), losses.mse_ce(logits, store.logits(rows, 1), h, 0.5))
    soft = drawn(objective=Objective("kl", temperature=4.0))
    torch.testing.assert_close(soft.loss(logits, *soft.ask(rows, 1)), losses.kl(logits, soft.logits(rows, 1), 4.0))


def test_examples_of_another_size_are_refused():
    with pytest.raises(BadInput, match="sides"):
        drawn().show(lambda rows: torch.zeros(len(rows), 1, 9, 9), torch.arange(2))


# -- pruning --------------------------------------------------------------------------------------------------------------


def test_pruning_at_all_of_it_is_the_identity():
    store, _, made = written()
    for same_store in (store.compressed("100%"), store.pruned(EPOCHS), store.compressed("fp16")):
        assert same(same_store.tensors(), store.tensors())
        for epoch in range(EPOCHS):
            read = Artifact.of(made, {}).read
            assert same_bits(same_store.show(read, torch.arange(N), epoch), store.show(read, torch.arange(N), epoch))


@pytest.mark.parametrize("kept", [1, 3, 5])
def test_pruning_keeps_so_many_views_of_each_example_as_they_were(kept):
    store, _, made = written()
    fewer = store.pruned(kept)
    assert fewer.epochs.shape == (kept, N) and all(len(set(own)) == kept for own in fewer.epochs.T.tolist())
    read = Artifact.of(made, {}).read
    for epoch in range(2 * kept):
        for i in range(N):
            was = int(fewer.epochs[epoch % kept, i])
            row = torch.tensor([i])
            assert same_bits(fewer.logits(row, epoch), store.logits(row, was))
            assert same_bits(fewer.show(read, row, epoch), store.show(read, row, was))


def test_pruning_twice_is_pruning_once():
    store = drawn()
    assert same(store.pruned(4).pruned(2).tensors(), store.pruned(2).tensors())
    assert same(store.compressed("67%,int8").pruned(1).tensors(), store.compressed("17%,int8").tensors())


def test_examples_lose_different_views():
    kept = drawn(n=200, epochs=20).pruned(10).epochs
    count = torch.bincount(kept.flatten(), minlength=20)
    assert count.sum() == 2000 and count.min() > 60 and count.max() < 140  # 100 each, and a spread of 7


# -- codecs ---------------------------------------------------------------------------------------------------------------


def test_the_largest_are_kept_with_their_classes_and_the_rest_by_its_mean():
    store = drawn(classes=9)
    for k in (1, 4, 8, 9, 20):
        for was, got in zip(everything(store).flatten(0, 1), everything(store.compressed(f"top{k}")).flatten(0, 1), strict=True):
            order = was.argsort(descending=True)
            assert torch.equal(got[order[:k]], was[order[:k]])
            if k < 9:
                torch.testing.assert_close(got[order[k:]], was[order[k:]].mean().expand(9 - k), rtol=1e-3, atol=2e-3)


def test_a_byte_is_right_to_half_a_step():
    store = drawn(classes=9)
    was, got = everything(store), everything(store.compressed("int8"))
    step = (was.amax(2, keepdim=True) - was.amin(2, keepdim=True)) / 255
    assert ((got - was).abs() <= 0.5 * step + 2e-3 * was.abs().amax()).all()
    flat = record(torch.zeros(2, dtype=torch.long), torch.full((3, 2, 4), 1.5), Views(0), (8, 8)).compressed("int8")
    torch.testing.assert_close(everything(flat), torch.full((3, 2, 4), 1.5))


def test_codes_are_the_nearest_rows_of_their_table():
    store = drawn(n=40, classes=5)
    coded = store.compressed("codes8")
    table = coded.codec.tensors["table"].float()
    for view, code in enumerate(coded.codec.tensors["codes"].tolist()):
        distance = (table - everything(store).flatten(0, 1)[view]).norm(dim=1)
        assert distance[code] == distance.min()
    few = record(torch.arange(4) % 2, torch.randn((1, 4, 2), generator=rng(0)).repeat(5, 1, 1), Views(0), (8, 8))
    torch.testing.assert_close(everything(few.compressed("codes300")), everything(few), atol=2e-3, rtol=0)  # more rows than views: nothing is lost


def test_more_codes_lose_less():
    store = drawn(n=100, classes=5)
    errors = [float((everything(store.compressed(f"codes{k}")) - everything(store)).square().mean()) for k in (2, 16, 128)]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("to", ["top1", "top3", "int8", "codes5", "codes300", "fp16", "50%", "50%,top2"])
def test_stored_and_read_again_it_is_the_same_and_its_bytes_are_those_of_the_file(to, tmp_path):
    kept, _, made = written()
    made.labels = kept = kept.compressed(to)
    tensors = kept.tensors()
    assert same(labels.of(tensors, CLASSES).tensors(), tensors)
    artifact = Artifact.of(made, {})
    loaded = Artifact.load(artifact.save(tmp_path / "set"))
    assert same(loaded.labels.tensors(), tensors) and torch.equal(loaded.labels.targets(torch.arange(N), 1), kept.targets(torch.arange(N), 1))
    file = (tmp_path / "set" / "labels.safetensors").read_bytes()
    header = 8 + int.from_bytes(file[:8], "little")
    assert kept.bytes == len(file) - header == sum(t.numel() * t.element_size() for t in store.from_bytes(file).values())
    assert artifact.bytes == kept.bytes + made.stored().numel()


def test_what_a_codec_costs():
    n, epochs, classes = 10, 4, 300
    whole = drawn(n, epochs, classes)
    views = n * epochs
    about = len(whole.tensors()["about"])
    expected = {"fp16": 2 * classes * views, "int8": (classes + 4) * views, "top10": (10 * (2 + 2) + 2) * views, "codes16": views + 16 * classes * 2, "25%": 2 * classes * n}
    for to, size in expected.items():
        smaller = whole.compressed(to)
        assert abs(smaller.bytes - size - 2 * n - about) < 32, to


@pytest.mark.parametrize("to", ["0%", "101%", "-5%", "x%", "nan%", "top", "top0", "topx", "codes", "codes99999", "int4", "", "fp16,", "fp163"])
def test_a_way_that_is_not_there_is_refused(to):
    with pytest.raises(UsageError) as refusal:
        drawn().compressed(to)
    assert refusal.value.expected


def test_views_that_are_gone_are_not_brought_back():
    store = drawn().compressed("50%")
    for back in (lambda: store.pruned(4), lambda: store.compressed("100%")):
        with pytest.raises(UsageError, match="that have 3"):
            back()


def test_codecs_are_named():
    for text, (name, number) in {"fp16": ("fp16", 0), "int8": ("int8", 0), "top10": ("top", 10), "codes256": ("codes", 256)}.items():
        assert named(text) == (CODECS[name], number)


# -- damage -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["fp16", "top2", "int8", "codes4"])
def test_damaged_labels_are_refused_and_nothing_else_happens(to):
    tensors = drawn().compressed(to).tensors()
    about = json.loads(tensors["about"].numpy().tobytes())
    wrong: list[dict[str, torch.Tensor]] = []
    for key in about:
        for value in (None, -1, 10**12, "x", [], [1, 2, 3], {"a": 1}, True, 0.5):
            if value != about[key]:
                text = json.dumps({**about, key: value}).encode()
                wrong.append({**tensors, "about": torch.frombuffer(bytearray(text), dtype=torch.uint8)})
        text = json.dumps({k: v for k, v in about.items() if k != key}).encode()
        wrong.append({**tensors, "about": torch.frombuffer(bytearray(text), dtype=torch.uint8)})
    wrong += [{**tensors, "about": torch.arange(5, dtype=torch.uint8)}, {**tensors, "about": torch.zeros(0)}]
    for name, t in tensors.items():
        wrong.append({k: v for k, v in tensors.items() if k != name})
        if name != "about":
            wrong += [{**tensors, name: t[:-1]}, {**tensors, name: t.double()}, {**tensors, name: t[None]}]
    wrong += [{**tensors, "labels": torch.full((N,), CLASSES, dtype=torch.uint8)}, {**tensors, "views/more": torch.zeros(1)}]
    for damaged in wrong:
        with pytest.raises(BadInput):
            labels.of(damaged, CLASSES)
    with pytest.raises(BadInput):
        labels.of(tensors, CLASSES + 1)


def test_codes_and_classes_out_of_range_are_refused():
    for to, name in (("codes4", "views/codes"), ("top2", "views/which")):
        tensors = drawn().compressed(to).tensors()
        tensors[name] = tensors[name].clone()
        tensors[name].view(-1)[3] = 200
        with pytest.raises(BadInput, match="not (in the table|there)"):
            labels.of(tensors, CLASSES)


# -- static soft labels ---------------------------------------------------------------------------------------------------


def test_a_soft_label_can_bring_its_class():
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.0, 9.0]])
    hard = torch.tensor([1, 2])
    both, alone = Soft(logits, hard), Soft(logits)
    assert torch.equal(both.hard, hard) and alone.hard.tolist() == [0, 2]
    assert set(both.tensors()) == {"logits", "labels"} and set(alone.tensors()) == {"logits"}
    for kept in (both, alone):
        assert same(labels.of(kept.tensors(), 3).tensors(), kept.tensors()) and torch.equal(labels.of(kept.tensors(), 3).hard, kept.hard)
    with pytest.raises(BadInput):
        labels.of({**both.tensors(), "labels": torch.tensor([1], dtype=torch.uint8)}, 3)
