"""Units on a real Ray cluster of two nodes: the same bytes; workers, nodes and drivers that go away; objects that do not fit in memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kit import alone, done, marks, same, until, work_in
from test_units import METHODS

from datadistill import methods
from datadistill.engine import TRIES, named
from datadistill.errors import BadInput, Interrupted, Resources
from datadistill.run import Run
from datadistill.store.tensors import from_bytes
from datadistill.testing import Stopper, outcome, tiny_tasks
from datadistill.testing import same as same_outcome

pytestmark = pytest.mark.timeout(600)
HERE = Path(__file__).parent


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


def test_units_come_to_the_same_bits_on_two_workers(ray_engine, folder):
    run = Run(3, engine=ray_engine)
    assert same(done(run, work_in(folder)), alone())
    assert marks(folder) == [str(k) for k in range(6)]
    assert len({mark.name.split("-")[1] for mark in folder.glob("*-*")} - {str(os.getpid())}) == 2, "two processes worked, and not this one"
    assert run.notes == [f"unit {k}" for k in range(6)] and torch.get_num_threads() == 1


@pytest.mark.parametrize("name", METHODS)
def test_a_method_makes_the_same_set_as_one_process(ray_engine, name):
    task = tiny_tasks()["image"]
    one, two = (outcome(methods.get(name, **METHODS[name]).distill(task, Run(0, engine=engine))) for engine in (None, ray_engine))
    assert same_outcome(one, two)


def test_a_unit_whose_worker_is_killed_is_begun_again(ray_engine, folder):
    assert same(done(Run(3, engine=ray_engine), work_in(folder, dies={1: 1, 4: 1})), alone())
    assert marks(folder) == ["0", "1", "1", "2", "3", "4", "4", "5"]


def test_a_worker_killed_from_outside_in_the_middle_of_its_unit(ray_engine, folder, tmp_path):
    killed = []

    def kill_one() -> None:
        """Called by the driver while it waits: the worker of unit 2, once it is in the middle."""
        if not killed and "2" in marks(folder):
            (mark,) = folder.glob("2-*")
            killed.append(int(mark.name.split("-")[1]))
            os.kill(killed[0], signal.SIGKILL)
            (tmp_path / "go").touch()

    run = Run(3, engine=ray_engine)
    leave = run._leave
    run._leave = lambda: (kill_one(), leave())
    assert same(done(run, work_in(folder, wait_for={2: tmp_path / "go"})), alone())
    assert len(killed) == 1 and marks(folder).count("2") == 2


def test_a_unit_that_kills_all_its_workers_ends_the_run(ray_engine, folder):
    with pytest.raises(Resources, match=f"died {TRIES} times"):
        done(Run(3, engine=ray_engine), work_in(folder, dies={0: 99}), 1)
    assert marks(folder).count("0") == TRIES


def test_an_error_of_a_unit_is_the_runs(ray_engine, folder):
    def work(run, k):
        raise BadInput("bad", "good", "mend it")

    with pytest.raises(BadInput, match="bad"):
        done(Run(0, engine=ray_engine), work, 2)


def test_a_run_can_be_stopped_while_workers_work(ray_engine, folder, tmp_path):
    stopper = Stopper(2)
    stopper.run = Run(3, progress=stopper, engine=ray_engine)
    with pytest.raises(Interrupted, match="kept"):
        done(stopper.run, work_in(folder, wait_for={k: tmp_path / "go" for k in range(3, 6)}))
    (tmp_path / "go").touch()


def test_units_in_hand_end_with_a_driver_that_is_stopped(nodes, ray_engine, tmp_path, folder):
    driver = subprocess.Popen([sys.executable, HERE / "driver.py", "ray", tmp_path, nodes.address], stderr=subprocess.PIPE)
    until(lambda: {"2", "3"} <= set(marks(folder)))
    driver.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in driver.communicate(timeout=120)[1]
    workers = [int(mark.name.split("-")[1]) for mark in folder.glob("*-*")]
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert set(marks(folder)) == {"0", "1", "2", "3"}, "and nothing was begun after"


def test_objects_that_do_not_fit_are_spilled_to_the_disk(ray_engine):
    """Units that get 30 MB and come to 30 MB, in two stores of 80 MB of which 60 are taken."""
    import ray

    session = Path(ray._private.worker._global_node.get_session_dir_path())
    others = [ray.put(torch.full((5_000_000,), float(k))) for k in range(3)]
    big = torch.arange(7_500_000, dtype=torch.float32)
    made = [m["x"] for m in Run(0, engine=ray_engine).each("spilling", [big + k for k in range(4)], lambda run, x: {"x": x + 1})]
    assert same(made, [big + k + 1 for k in range(4)])
    spilled = [file for folder in session.glob("ray_spilled_objects*") for file in folder.iterdir()]
    assert sum(file.stat().st_size for file in spilled) > 15e6
    assert [float(ray.get(x)[-1]) for x in others] == [0, 1, 2]


def test_of_a_driver_that_is_killed_what_was_finished_stays(nodes, ray_engine, tmp_path, folder):
    driver = subprocess.Popen([sys.executable, HERE / "driver.py", "ray", tmp_path, nodes.address])
    until(lambda: {"2", "3"} <= set(marks(folder)))  # so 0 and 1 are finished, and two wait
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    (tmp_path / "go").touch()
    before = len(list((tmp_path / ".out.work").glob("*.safetensors")))
    assert 1 <= before <= 2
    subprocess.run([sys.executable, HERE / "driver.py", "ray", tmp_path, nodes.address], check=True, timeout=300)
    counts = [marks(folder).count(str(k)) for k in range(6)]
    assert sum(count > 1 for count in counts) <= 3 and max(counts) <= 2 and min(counts) == 1
    made = from_bytes((tmp_path / "made.safetensors").read_bytes())
    assert same([made[str(k)] for k in range(6)], alone())


def test_a_node_that_goes_away_costs_the_unit_in_hand(nodes, ray_engine, folder, tmp_path):
    lost = []

    def lose() -> None:
        """Once both nodes have a unit in hand, the second goes."""
        if not lost and len(marks(folder)) == 2:
            workers = [int(mark.name.split("-")[1]) for mark in folder.glob("*-*")]
            nodes.lose()
            until(lambda: not all(Path(f"/proc/{pid}").exists() for pid in workers))
            lost.append(True)
            (tmp_path / "go").touch()

    run = Run(3, engine=ray_engine)
    leave = run._leave
    run._leave = lambda: (lose(), leave())
    try:
        assert same(done(run, work_in(folder, wait_for={0: tmp_path / "go", 1: tmp_path / "go"})), alone())
    finally:
        nodes.add()
    assert lost and len(marks(folder)) == 7, "one unit was begun twice"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:none", "127.0.0.1:99999", "no-such-host.invalid"])
def test_an_address_where_nobody_answers_is_told_at_once(address):
    with pytest.raises(Resources, match=f"no Ray cluster at {address}") as error:
        named("ray", address=address)
    assert "ray start --head" in error.value.fix
