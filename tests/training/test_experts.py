"""Experts: named by what decides them, made once, in epochs that survive an interruption, and made ahead by a command."""

from __future__ import annotations

import json

import pytest
import torch

from datadistill.cli.main import run as command
from datadistill.errors import Interrupted, UsageError
from datadistill.methods import get
from datadistill.run import Run
from datadistill.store import Cache
from datadistill.testing import Recorder, Stopper, same_bits, tiny_tasks
from datadistill.training.experts import Experts, Teaching

TASK = tiny_tasks()["tabular"]
PER_EPOCH = 4  # 26 examples in batches of 8


def pool(snapshots=None, *, seed=0, progress=None, real=TASK.train, width=4, count=2, **teaching) -> Experts:
    run = Run(seed, snapshots=snapshots or Recorder(), progress=progress)
    return Experts(real, run, net="mlp", width=width, count=count, teaching=Teaching(batch=8, **teaching))


def path(experts: Experts, epochs: int) -> torch.Tensor:
    return torch.stack([experts.at(0, e) for e in range(epochs + 1)])


def test_snapshots_are_of_every_epoch_and_move():
    experts = pool()
    theta = path(experts, 3)
    assert theta.shape == (4, len(experts.net)) and theta.dtype == torch.float32
    assert (theta.diff(dim=0).norm(dim=1) > 0).all()


@pytest.mark.parametrize("teaching", [{}, {"momentum": 0.9}, {"rho": 0.05, "alpha": 0.3}], ids=["sgd", "momentum", "flat"])
def test_a_longer_trajectory_begins_with_the_shorter_one(teaching):
    snapshots = Recorder()
    short = path(pool(snapshots, **teaching), 2)
    made = len(snapshots.cache)
    long = path(pool(snapshots, **teaching), 5)
    assert made == 2 and len(snapshots.cache) == 5 and same_bits(short, long[:3])
    last_first = pool(**teaching)
    assert same_bits(last_first.at(0, 5), long[5]) and same_bits(path(last_first, 5), long)


def test_what_decides_an_expert_names_it_and_what_does_not_does_not():
    snapshots = Recorder()
    pool(snapshots).prepare(1)
    assert len(snapshots.cache) == 2  # an entry for each expert
    for same in (pool(snapshots), pool(snapshots, count=1)):
        same.prepare(1)
    assert len(snapshots.cache) == 2
    fewer = TASK.train.subset(torch.arange(25))
    for n, other in enumerate([pool(snapshots, seed=1), pool(snapshots, width=5), pool(snapshots, lr=0.02), pool(snapshots, real=fewer), pool(snapshots, rho=0.1)]):
        other.prepare(1)
        assert len(snapshots.cache) == 2 * (n + 2)
    assert not same_bits(pool(snapshots).at(0, 1), pool(snapshots).at(1, 1))


def test_an_interruption_costs_at_most_an_epoch():
    whole = path(pool(), 3)
    snapshots, stopper = Recorder(), Stopper(PER_EPOCH + 2)  # in the first epoch of the second expert
    experts = pool(snapshots, progress=stopper)
    stopper.run = experts.run
    with pytest.raises(Interrupted):
        experts.prepare(3)
    assert len(snapshots.cache) == 1
    assert same_bits(path(pool(snapshots), 3), whole)


def test_no_more_is_held_in_memory_than_there_is_room_for():
    experts = Experts(TASK.train, Run(0, snapshots=Recorder()), net="mlp", width=4, count=3, teaching=Teaching(batch=8), room=1)
    first = experts.at(0, 1).clone()
    for k in range(3):
        experts.at(k, 1)
    assert len(experts._held) == 1 and torch.equal(experts.at(0, 1), first)


def test_a_segment_is_drawn_from_all_experts_and_starts():
    experts, seen = pool(count=3), set()
    for k in range(60):
        start, target = experts.segment(Run(0).rng("segment", k), range(1, 3), 2)
        (where,) = [(j, t) for j in range(3) for t in range(5) if torch.equal(experts.at(j, t), start)]
        assert torch.equal(target, experts.at(where[0], where[1] + 2))
        seen.add(where)
    assert seen == {(j, t) for j in range(3) for t in (1, 2)}


def test_a_net_with_batch_norm_is_refused_with_those_that_will_do():
    with pytest.raises(UsageError, match="batch norm") as error:
        Experts(TASK.train, Run(0), net="tabresnet")
    assert "mlp or linear" in str(error.value)


@pytest.mark.parametrize(("n", "batch"), [(60_000, 256), (20_480, 256), (5120, 64), (1258, 15), (160, 8), (26, 8)])
def test_a_small_set_is_trained_on_in_smaller_batches(n, batch):
    real = TASK.train.subset(torch.arange(n) % 26)
    experts = Experts(real, Run(0), net="mlp", width=4)
    assert (experts.teaching.batch, experts.per_epoch) == (batch, -(-n // batch)) and (batch in (8, 256) or 80 <= experts.per_epoch < 90)


def test_what_an_expert_cost_is_counted_once():
    snapshots = Recorder()
    first = pool(snapshots)
    first.prepare(1)
    again = pool(snapshots, count=2)
    for _ in range(3):
        again.prepare(1)
    assert first.run.flops > 0 and again.run.flops == pytest.approx(first.run.flops)
    assert again.run.seconds < 2 * first.run.seconds + 1


def test_the_command_makes_what_a_method_then_finds(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DATADISTILL_CACHE", str(tmp_path))
    argv = ["experts", "digits", "--net", "mlp", "--width", "16", "--experts", "2", "--epochs", "2", "--json"]

    def told(*more):
        assert command([*argv, *more]) == 0
        out = capsys.readouterr()
        return json.loads(out.out), out.err

    planned, err = told("--dry-run")
    assert planned["steps"] == 2 * 2 * 84 and not list(tmp_path.iterdir())  # 1,258 examples in batches of 15
    assert f"{planned['parameters']:,} parameters" in err and "training steps" in err
    made, _ = told()
    files = sorted(tmp_path.iterdir())
    assert made["steps"] == planned["steps"] and len(files) == 4 and sum(f.stat().st_size for f in files) == pytest.approx(made["bytes"], rel=0.1)
    assert told("-q") == ({**made, "steps": 0, "bytes": 0}, "")
    from datadistill import data
    from datadistill.data.task import Budget, Task

    found = data.load("digits")
    task = Task.of(found.train, found.val, Budget(ipc=1))
    get("mtt", net="mlp", width=16, experts=2, iterations=1, steps=1, expert_epochs=1, max_start=2).distill(task, Run(0, snapshots=Cache()))
    assert sorted(tmp_path.iterdir()) == files
    assert command(["experts", "digits", "--net", "resnet"]) == 2 and "batch norm" in capsys.readouterr().err
