"""Training of a student: named randomness, exact accumulation, the schedule, the cost, and a test that keeps no gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from datadistill import nets
from datadistill.errors import Resources
from datadistill.labels import Hard
from datadistill.match.pieces import gradients
from datadistill.memory import Pieces
from datadistill.rng import rng
from datadistill.testing import tiny_tasks
from datadistill.training import Schedule, accuracy, fit, predict
from datadistill.training.fit import hard_labels

TASK = tiny_tasks()["image"]


def student(family: str = "convnet", seed: int = 0) -> nets.Net:
    return nets.build(family, TASK.spec, rng(seed, "net"), width=4)


def weights(net: nets.Net) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def train(schedule: Schedule, seed: int = 0, **options) -> nets.Net:
    return fit(student(), TASK.train, hard_labels(TASK.train), schedule, seed, **options).net


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    state = torch.random.get_rng_state()
    first, again, other = (weights(train(Schedule(steps=4, batch=8), seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(state, torch.random.get_rng_state()), "the global generator was used"


def test_training_in_bfloat16_is_about_training_in_float32():
    exact, rough = (train(Schedule(steps=6, batch=8, precision=precision)) for precision in ("float32", "bfloat16"))
    a, b, start = weights(exact), weights(rough), weights(student())
    assert b.dtype == torch.float32 and not torch.equal(a, b)
    assert (a - b).norm() < 0.1 * (a - start).norm()


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("limit", [1, 3, 8])
def test_gradients_accumulated_in_pieces_are_those_of_the_whole_batch(limit, soft):
    net = student().double()
    x = torch.randn(8, *TASK.spec.shape, dtype=torch.float64, generator=rng(1))
    classes = len(TASK.spec.classes)
    y = torch.softmax(torch.randn(8, classes, dtype=torch.float64, generator=rng(2)), 1) if soft else torch.arange(8) % classes
    loss, found = gradients(Pieces(limit), 8, lambda piece: F.cross_entropy(net(x[piece]), y[piece], reduction="sum") / 8, list(net.parameters()))
    whole = F.cross_entropy(net(x), y)
    expected = torch.autograd.grad(whole, list(net.parameters()))
    torch.testing.assert_close(loss, whole.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(tuple(found), expected, rtol=1e-9, atol=1e-13)


def test_a_batch_that_does_not_fit_is_halved_with_the_same_result_and_a_note(monkeypatch):
    schedule = Schedule(steps=3, batch=8, augment=False)
    expected = weights(train(schedule))
    embed = nets.ConvNet.embed

    def scarce(self, x):
        if len(x) > 3:
            raise MemoryError("injected")
        return embed(self, x)

    monkeypatch.setattr(nets.ConvNet, "embed", scarce)
    fitted = fit(student(), TASK.train, hard_labels(TASK.train), schedule, 0)
    torch.testing.assert_close(weights(fitted.net), expected, rtol=1e-4, atol=1e-6)
    assert [note.split(",")[0] for note in fitted.notes] == ["out of memory: batch 8 -> 4", "out of memory: batch 4 -> 2"]


def test_memory_that_is_never_enough_ends_with_what_to_do():
    def never(piece: slice) -> torch.Tensor:
        raise torch.OutOfMemoryError("injected")

    with pytest.raises(Resources, match="one example") as stop:
        Pieces(4).map(9, never)
    assert stop.value.exit_code == 5 and stop.value.fix


def test_errors_that_are_not_about_memory_are_not_swallowed():
    def wrong(piece: slice) -> torch.Tensor:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        Pieces(4).map(9, wrong)


def test_a_failed_piece_is_let_go_before_the_next_try():
    """What the failed attempt held must be free when its half is tried."""
    import weakref

    held: list[weakref.ref] = []

    def work(piece: slice) -> int:
        assert all(ref() is None for ref in held)
        big = torch.zeros(4)
        if piece.stop - piece.start > 2:
            held.append(weakref.ref(big))
            raise MemoryError
        return piece.stop - piece.start

    assert sum(Pieces(8).map(9, work)) == 9 and len(held) == 2


def test_the_learning_rate_rises_linearly_then_falls_as_half_a_cosine():
    s = Schedule(steps=100, lr=0.4, warmup=0.1)
    rates = [s.lr_at(k) for k in range(100)]
    assert rates[:10] == pytest.approx([0.04 * (k + 1) for k in range(10)])
    assert max(rates) == pytest.approx(0.4) and rates[10] == pytest.approx(0.4)
    assert s.lr_at(55) == pytest.approx(0.2) and s.lr_at(100) == pytest.approx(0.0)
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert Schedule(steps=1, lr=0.4).lr_at(0) == 0.4


def test_every_example_is_seen_once_an_epoch():
    seen: list[torch.Tensor] = []

    class Watched:
        modality = TASK.modality

        def __len__(self) -> int:
            return 12

        def read(self, indices: torch.Tensor) -> torch.Tensor:
            return TASK.train.read(indices)

    class Spy(Hard):
        def targets(self, indices, epoch=0, view=0):
            seen.append(indices)
            return super().targets(indices, epoch, view)

    fit(student(), Watched(), Spy(TASK.train.labels[:12], len(TASK.spec.classes)), Schedule(steps=6, batch=4), 0)
    for epoch in (seen[:3], seen[3:]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(12))
    assert not torch.equal(torch.cat(seen[:3]), torch.cat(seen[3:]))


def test_augmentation_is_named_by_step_and_can_be_left_out():
    a, b = (weights(train(Schedule(steps=2, batch=8, augment=flag))) for flag in (True, False))
    assert not torch.equal(a, b)
    x = TASK.train.read(torch.arange(8))
    one, two = (TASK.modality.augment(rng(0, "omega", 3), 8)(x, torch.arange(8)) for _ in range(2))
    assert torch.equal(one, two)


@pytest.mark.parametrize("family", ["convnet", "resnet", "resnet18", "vit"])
def test_a_step_is_sgd_with_nesterov_momentum_and_weight_decay(family):
    """Against the update rule written out, without augmentation, two steps over the whole set. Gradients of ResNets lie otherwise in
    memory than their weights, which torch's fused SGD does not look at."""
    n = len(TASK.train)
    schedule = Schedule(steps=2, batch=n, lr=0.1, augment=False, warmup=0.0)
    found = fit(student(family).double(), _Double(), hard_labels(TASK.train), schedule, 0).net
    net = student(family).double()
    x, y = TASK.train.read(torch.arange(n)).double(), TASK.train.labels
    speed = [torch.zeros_like(p) for p in net.parameters()]
    for step in range(2):
        grads = torch.autograd.grad(F.cross_entropy(net(x), y), list(net.parameters()))
        with torch.no_grad():
            for p, g, v in zip(net.parameters(), grads, speed, strict=True):
                g = g + 5e-4 * p
                v.copy_(0.9 * v + g)
                p -= schedule.lr_at(step) * (g + 0.9 * v)
    torch.testing.assert_close(weights(found), weights(net), rtol=1e-9, atol=1e-12)


class _Double:
    modality = TASK.modality

    def __len__(self) -> int:
        return len(TASK.train)

    def read(self, indices: torch.Tensor) -> torch.Tensor:
        return TASK.train.read(indices).double()


def test_a_student_learns_and_comes_back_in_eval_mode_with_its_cost():
    fitted = fit(student(), TASK.train, hard_labels(TASK.train), Schedule(steps=150, batch=16, lr=0.05, augment=False), 0)
    assert not fitted.net.training and fitted.seconds > 0 and fitted.flops > 0
    assert all(p.grad is None for p in fitted.net.parameters())
    assert accuracy(fitted.net, TASK.train, TASK.train.labels) > 2 / len(TASK.spec.classes)
    twice = fit(student(), TASK.train, hard_labels(TASK.train), Schedule(steps=2, batch=16), 0)
    once = fit(student(), TASK.train, hard_labels(TASK.train), Schedule(steps=1, batch=16), 0)
    assert twice.flops == 2 * once.flops


def test_testing_keeps_no_gradient_and_does_not_depend_on_the_batch():
    net = train(Schedule(steps=2, batch=8))
    x = TASK.train.read(torch.arange(10)).requires_grad_()
    assert not predict(net, x).requires_grad
    assert accuracy(net, TASK.train, TASK.train.labels, batch=3) == accuracy(net, TASK.train, TASK.train.labels, batch=500)
