"""Plans: what is left out is reckoned right, bytes are those of the real artifact, and nothing is done or written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "methods"))
sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from cases import CASES
from makers import folder

from datadistill import methods
from datadistill.cli.main import run as cli
from datadistill.data import load, pictures
from datadistill.data.imagined import imagined
from datadistill.data.task import Budget, Task
from datadistill.data.tiny import tiny_tasks
from datadistill.memory import Live
from datadistill.plan import plan
from datadistill.plan.probe import STEPS, Probe
from datadistill.run import Nowhere, Run
from datadistill.synthetic.artifact import Artifact

LONGER = ("iterations", "epochs", "steps", "probe_epochs")


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


# -- the clock that jumps ahead ---------------------------------------------------------------------------------------


def test_loops_are_cut_and_reckoned():
    clock = Clock()
    probe, done = Probe(budget=1e9, clock=clock), 0
    clock.now += 5
    for _ in probe.steps(1000, torch.nn.Linear(1, 1), label="one"):
        clock.now += 3
        done += 1
    assert done == STEPS and probe.reckoned == 5 + 3000 and probe.work["one"].steps == 1000


def test_loops_within_loops_and_units():
    clock = Clock()
    probe = Probe(budget=1e9, clock=clock)

    def unit(run, k):
        clock.now += 7
        for _ in run.steps(40, label="inner"):
            clock.now += 2
        return {"x": torch.zeros(3)}

    for _ in probe.steps(100, label="outer"):
        clock.now += 1
        for _ in probe.steps(50, label=f"inner {clock.now}"):
            clock.now += 2
    assert probe.reckoned == 100 * (1 + 50 * 2)
    made = list(probe.each("units", [torch.zeros(3)] * 30, unit))
    assert len(made) == 30 and probe.reckoned == 100 * 101 + 30 * (7 + 80)
    assert set(probe.work) == {"outer", "units"}, "loops within others are part of those"


def test_the_first_step_does_not_count():
    clock = Clock()
    probe = Probe(budget=1e9, clock=clock)
    for k in probe.steps(100):
        clock.now += 50 if k == 0 else 1
    assert probe.reckoned == 50 + (STEPS - 1) + (100 - STEPS)


def test_a_slow_loop_stops_when_its_time_is_over():
    clock = Clock()
    probe = Probe(budget=8, clock=clock)
    assert len([clock.__setattr__("now", clock.now + 10) for _ in probe.steps(100)]) == 1 and probe.reckoned == 1000


def test_entries_of_the_cache_that_are_alike_are_made_twice():
    clock, made = Clock(), []
    probe = Probe(budget=1e9, clock=clock)

    class Maker:
        def make(self, k: int) -> dict[str, torch.Tensor]:
            made.append(k)
            clock.now += 4
            for _ in probe.steps(10, label=f"training {k}"):
                clock.now += 1
            return {"w": torch.ones(5)}

    one, other = Maker(), Maker()
    for k in range(9):
        assert probe.cached("teacher", f"one {k}", lambda k=k: one.make(k))["w"].shape == (5,)
        probe.cached("teacher", f"one {k}", lambda k=k: one.make(k))  # it is there
    assert made == [0, 1] and probe.reckoned == 9 * 14 and probe.work["training #"].steps == 90
    probe.cached("teacher", "other", lambda: other.make(7))
    assert made == [0, 1, 7], "another teacher is made for itself"
    assert len(probe.kept["teacher"]) == 10


def test_units_of_other_sizes_are_made():
    probe = Probe(quota=[4, 2, 4], budget=0)
    seen = []
    rows = [made["rows"] for made in probe.each("classes", [0, 1, 2], lambda run, c: seen.append(c) or {"rows": torch.zeros([4, 2, 4][c])})]
    assert [len(r) for r in rows] == [4, 2, 4] and seen == [0, 1]


# -- methods ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["random", "herding", "el2n", "dm", "mtt", "sre2l", "lpld", "rded", "g-vbsm", "random-labelled", "teacher-labels"])
def test_bytes_are_those_of_the_real_thing(name):
    """On long loops that are cut, for an uneven budget; artifact and cache."""
    task = tiny_tasks()["image"]
    case = CASES[name][0]
    longer = {k: 9 * v if k in LONGER else v for k, v in case.items()}
    seen = plan(methods.get(name, **longer), task, budget=0.2)
    cache = Nowhere()
    real = Artifact.of(methods.get(name, **case).distill(task, Run(0, snapshots=cache)), {})
    assert seen.bytes == real.bytes == seen.samples + seen.labels
    assert seen.samples == sum(t.numel() * t.element_size() for t in real.tensors.values())
    if not {"epochs", "steps"} & case.keys() or name in ("herding", "mtt"):  # more epochs: more blocks of a teacher in the cache
        assert seen.cache == cache.bytes()
    assert seen.low <= seen.seconds <= seen.high and seen.memory > 0


@pytest.mark.parametrize(("name", "settings"), [("random", {}), ("dm", {"iterations": 2, "width": 4, "real_batch": 4}),
                                                ("random-labelled", {"width": 4, "epochs": 1}), ("herding", {"width": 4, "steps": 2})])  # fmt: skip
def test_many_classes_are_planned_from_few(name, settings):
    """Labels that are soft grow with the square of the classes, class numbers need two bytes above 256."""
    train, val = imagined((1, 8, 8), 300, 18_000)
    task = Task.of(train, val, Budget(ipc=2))
    method = methods.get(name, **settings)
    seen = plan(method, task, budget=0.2)
    cache = Nowhere()
    real = Artifact.of(method.distill(task, Run(0, snapshots=cache)), {})
    assert seen.bytes == real.bytes and seen.cache == cache.bytes()
    assert any("straight line" in note for note in seen.notes)


def test_memory_that_a_process_happens_to_hold_is_not_taken_on(monkeypatch):
    """Of many classes; what the method's own tensors hold is: here an item of 8 x 8 numbers in each of 300 classes, in two copies or three."""
    train, val = imagined((1, 8, 8), 300, 18_000)
    held = iter((100 * 2**20, 150 * 2**20))
    monkeypatch.setattr(sys.modules["datadistill.plan.plan"], "peak_bytes", lambda device: next(held))
    grown = plan(methods.get("random"), Task.of(train, val, Budget(ipc=2)), budget=0.2).memory - 150 * 2**20
    assert 300 * 2 * 64 * 0.9 < grown < 300 * 2 * 64 * 4 * 4


def test_steps_that_do_not_slow_down_are_not_slower_with_more_classes():
    """A loop of 0.1 s a step, give or take, whatever the classes: a thousand of them take no longer, though the second look was slower in the middle."""
    train, val = imagined((1, 8, 8), 300, 18_000)
    seconds = {True: [0.0, 0.09, 0.1, 0.11, 0.12, 0.1], False: [0.0, 0.08, 0.1, 0.115, 0.13, 0.12]}
    now = [0.0]

    class Loop(methods.get("random").__class__):
        def distill(self, task, run):
            for it in run.steps(1000):
                now[0] += seconds[len(task.classes) < 20][it % 6]
            return super().distill(task, run)

    seen = plan(Loop(), Task.of(train, val, Budget(ipc=1)), budget=1e9, clock=lambda: now[0])
    assert 80 < seen.seconds < 130


def test_tensors_that_are_alive_are_counted():
    with Live() as live:
        a = torch.zeros(1000)
        view = a[10:]
        del a
        torch.ones(250)
        assert live.alive == 4000
        del view
        b = torch.zeros(500)
    assert (live.alive, live.most, len(b)) == (2000, 5000, 500)


def test_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("DATADISTILL_CACHE", str(tmp_path / "cache"))
    plan(methods.get("herding", width=4, steps=3), tiny_tasks()["image"], budget=0.1)
    assert not (tmp_path / "cache").exists()


def test_the_task_stays_as_it_was():
    task = tiny_tasks()["tabular"]
    before = task.train.fingerprint, task.val.fingerprint, task.quota.tolist()
    plan(methods.get("k-means", width=4, steps=3), task, budget=0.1)
    assert before == (Task(task.train.subset(torch.arange(len(task.train))), task.val, task.quota).train.fingerprint, task.val.fingerprint, task.quota.tolist())


# -- sources and the command line ----------------------------------------------------------------------------------------


def test_of_a_source_a_sample_is_decoded_and_all_is_counted(tmp_path, monkeypatch):
    root = folder(tmp_path / "set", {"a": 60, "b": 30})
    decoded, real = [], pictures._decode
    monkeypatch.setattr(pictures, "_decode", lambda *args: decoded.append(1) or real(*args))
    whole, counted = load(root).found, len(decoded)
    sampled = load(root, sample=10)
    assert len(decoded) - counted == 10 and sampled.found.counts == whole.counts and sampled.found.shape == whole.shape
    assert sampled.train.read(torch.arange(20)).shape == (20, 3, 6, 8) and sampled.train.stored.seconds > 0


def test_a_plan_by_hand(capfd):
    assert cli(["plan", "--shape", "3x16x16", "--classes", "1000", "--images", "50000", "-m", "random", "--ipc", "10", "--json", "-q"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["items"] == 10_000 and told["bytes"] == 10_000 * (3 * 16 * 16 + 2) and told["seconds"] >= 0


def test_a_plan_for_a_source(capfd, tmp_path):
    folder(tmp_path / "set", {"a": 20, "b": 20})
    assert cli(["plan", str(tmp_path / "set"), "-m", "herding", "--ipc", "2", "--set", "steps=3", "--set", "width=4", "--seconds", "1", "-q"]) == 0
    out = capfd.readouterr().out
    assert "image folder" in out and "training an embedding: 3 steps" in out and "memory" in out and "embedding" in out


@pytest.mark.parametrize(("argv", "code"), [([], 2), (["digits", "--shape", "3x8x8"], 2), (["--shape", "3x8x8", "--classes", "5"], 2), (["no such folder"], 4),
                                            (["--shape", "2x8x8", "--classes", "5", "--images", "50"], 2), (["--shape", "three", "--classes", "5", "--images", "50"], 2),
                                            (["digits", "-m", "no such method"], 2), (["digits", "--size", "3"], 2)])  # fmt: skip
def test_exit_codes(argv, code, capfd):
    assert cli(["plan", *argv, "-q"]) == code
    assert "error:" in capfd.readouterr().err
