"""Teachers: made once, stopped when validation says so, averaged, and the same bits however often they were interrupted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from datadistill.errors import Interrupted, UsageError
from datadistill.nets.taps import batch_norms
from datadistill.run import Run
from datadistill.testing import Recorder, Stopper, same, tiny_tasks
from datadistill.training.teachers import Squeeze, teacher

TASK = tiny_tasks()["image"]
SHORT = Squeeze(epochs=4, batch=8)


def made(how: Squeeze = SHORT, run: Run | None = None, **more):
    return teacher(TASK.train, run or Run(0), how, net="resnet", width=4, **more)


def state(net) -> dict[str, torch.Tensor]:
    return dict(net.state_dict())


def test_a_teacher_learns_and_is_frozen():
    net = made(Squeeze(epochs=20, batch=8))
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    right = (net(TASK.train.read(torch.arange(26))).argmax(1) == TASK.train.labels).float().mean()
    assert right > 0.9
    assert all((bn.running_mean != 0).any() and (bn.running_var != 1).any() for bn in batch_norms(net))


def test_a_teacher_is_made_once_and_members_differ():
    snapshots = Recorder()
    first = made(run=Run(0, snapshots=snapshots))
    entries = len(snapshots.cache)
    again = made(run=Run(0, snapshots=snapshots))
    assert len(snapshots.cache) == entries and same(state(first), state(again))
    other = made(run=Run(0, snapshots=snapshots), member=1)
    assert len(snapshots.cache) > entries and not same(state(first), state(other))
    assert not same(state(first), state(made(run=Run(1))))


@pytest.mark.parametrize("how", [SHORT, replace(SHORT, optimizer="adamw"), replace(SHORT, ema=0.9, patience=3)], ids=["sgd", "adamw", "ema and patience"])
@pytest.mark.parametrize("stop", [2, 7, 12])
def test_a_teacher_that_was_stopped_is_the_same_in_the_end(how, stop):
    whole = state(made(how, val=TASK.val))
    snapshots, stopper = Recorder(), Stopper(stop)
    stopper.run = Run(0, snapshots=snapshots, progress=stopper)
    with pytest.raises(Interrupted):
        made(how, stopper.run, val=TASK.val)
    assert same(whole, state(made(how, Run(0, snapshots=snapshots), val=TASK.val)))


def test_a_stopped_teacher_does_not_begin_again():
    """What was done of it before the block in hand is read, not made."""
    snapshots, stopper = Recorder(), Stopper(10)
    stopper.run = Run(0, snapshots=snapshots, progress=stopper)
    with pytest.raises(Interrupted):
        made(run=stopper.run)
    rest = Stopper()
    made(run=Run(0, snapshots=snapshots, progress=rest))
    everything = Stopper()
    made(run=Run(0, progress=everything))
    assert everything.count == 4 * (26 // 8) and rest.count == everything.count - 9  # three epochs of three steps were kept


def test_the_average_is_the_slow_sum():
    """Weights and statistics after each step, weighted by hand."""
    decay, seen = 0.8, []

    class Watch(Stopper):
        def advance(self, n, values=None):
            super().advance(n, values)
            seen.append({k: v.clone() for k, v in self.net.state_dict().items()})

    from datadistill.training.teachers import Teacher

    watch = Watch()
    trainer = Teacher(TASK.train, Run(0, progress=watch), replace(SHORT, epochs=1, ema=decay), "resnet", 4, 0, None)
    watch.net = trainer.net
    slow = {k: v.clone() for k, v in trainer.net.state_dict().items()}
    result = state(trainer.train())
    for step in seen:
        slow = {k: decay * slow[k] + (1 - decay) * step[k] if slow[k].is_floating_point() else step[k] for k in slow}
    assert len(seen) == 3
    for k in slow:
        torch.testing.assert_close(result[k], slow[k], rtol=1e-5, atol=1e-6)


def test_patience_takes_the_best_epoch_and_spares_the_rest():
    patient = Squeeze(epochs=60, batch=8, patience=2)
    steps = Stopper()
    net = teacher(TASK.train, Run(0, progress=steps), patient, net="resnet", width=4, val=TASK.val)
    right = (net(TASK.val.read(torch.arange(10))).argmax(1) == TASK.val.labels).float().mean()
    assert right == 1.0  # the bars are easy: validation is right after a few epochs, and no later epoch is better
    assert steps.count < 60 * 3


def test_patience_needs_validation_examples():
    with pytest.raises(UsageError, match="without validation"):
        made(replace(SHORT, patience=2))


def test_a_net_without_batch_norm_can_be_a_teacher_too():
    net = teacher(TASK.train, Run(0), SHORT, net="convnet", width=4)
    assert net.family == "convnet" and not batch_norms(net)
