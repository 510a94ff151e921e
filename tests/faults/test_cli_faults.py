"""The command line, killed, interrupted and refused: it tells, exits with the right code, and goes on where it was."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datadistill import Artifact, store
from datadistill.synthetic.artifact import verify

STEPS = 40
SNAPSHOTS = "import datadistill.run as r; r.DISK_EVERY = 0\n"  # at every step instead of every ten seconds
SLOW = """
import sys, time
from datadistill import run
steps = run.Run.steps
def slow(self, *args, **kwargs):
    for it in steps(self, *args, **kwargs):
        print('at step', it, file=sys.stderr, flush=True)
        time.sleep({seconds})
        yield it
run.Run.steps = slow
"""
DM = ("--preset", "paper", "--method", "dm", "--ipc", 1, "--set", f"iterations={STEPS}", "--set", "width=8", "--set", "real_batch=8")


@pytest.fixture(scope="module")
def expected(cli) -> str:
    """The sha256 that an undisturbed run comes to."""
    done = cli.run("distill", "digits", *DM, "--out", cli.folder / "undisturbed", "--json")
    assert done.code == 0, done.err
    return done.json["sha256"]


def only(out: Path) -> bool:
    """Whether nothing of ours stands beside the artifact."""
    return [p.name for p in out.parent.iterdir()] == [out.name]


# -- killed -----------------------------------------------------------------------------------------------------------


def test_a_run_killed_again_and_again_comes_to_the_same_bytes(cli, expected, tmp_path):
    out, chance, resumed = tmp_path / "out", random.Random(3), 0
    assert cli.run("distill", "digits", "--method", "random", "--ipc", 2, "--out", out).code == 0
    before = Artifact.load(out).sha256
    argv = ("distill", "digits", *DM, "--out", out, "--json")
    for step in (0, 2, 3, 5, 9, 10, 14, 20, 29, 39):
        running = cli.start(*argv, first=SNAPSHOTS + SLOW.format(seconds=0.02))
        running.until(f"at step {step}\n")
        time.sleep(chance.uniform(0, 0.05))
        running.kill()
        done = running.wait()
        assert done.code == -signal.SIGKILL
        resumed += "at step 0\n" not in done.err
        assert verify(out) == [] and Artifact.load(out).sha256 == before
    done = cli.run(*argv, "--resume", "must")
    assert done.code == 0 and resumed >= 8 and done.json["sha256"] == expected
    assert Artifact.load(out).sha256 == expected and only(out)


def test_a_run_killed_while_it_publishes_is_the_old_one_or_the_new_one(cli, tmp_path):
    """At some of the calls; at every one of them: test_store_faults.py."""
    kill = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from fault_kit import at_call, die
from datadistill import store
publish = store.replace_folder
def dying(*args):
    with at_call(%s, die) as made:
        publish(*args)
    print("made", ",".join(made), file=sys.stderr)
store.replace_folder = dying
"""
    out, content = tmp_path / "out", []
    quick = ("distill", "digits", "--method", "random", "--ipc", 1, "--out", out)
    assert cli.run(*quick).code == 0
    old = Artifact.load(out).sha256
    made = re.search("^made (.*)", cli.run(*quick, first=kill % -1).err, re.MULTILINE)[1].split(",")
    exchange = made.index("exchange")
    for n in (1, 2, exchange // 2, exchange, exchange + 1, exchange + 4):
        done = cli.run(*quick, "--seed", 1, first=kill % n)
        assert done.code == -signal.SIGKILL and verify(out) == []
        content.append(Artifact.load(out).sha256)
        again = cli.run(*quick)
        assert again.code == 0 and Artifact.load(out).sha256 == old and only(out)
        assert ("removed 1 stale temporary" in again.err) == (n > 1)
    assert [sha == old for sha in content] == [True] * 4 + [False] * 2


# -- interrupted ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_once_saves_and_leaves_and_the_next_run_goes_on(cli, expected, tmp_path, number, code):
    out = tmp_path / "out"
    argv = ("distill", "digits", *DM, "--out", out, "--json")
    for step in (2, 9):
        running = cli.start(*argv, first=SLOW.format(seconds=0.05))
        running.until(f"at step {step}")
        running.kill(number)
        done = running.wait()
        assert done.code == code and "Traceback" not in done.err and done.out == "" and not out.exists()
        assert re.search(r"stopped after step \d+ of 40, and saved", done.err)
    done = cli.run(*argv, "--resume", "must")
    assert done.code == 0 and "resumed at step" in done.err and done.json["sha256"] == expected and only(out)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_twice_leaves_at_once(cli, tmp_path, number, code):
    running = cli.start("distill", "digits", *DM, "--out", tmp_path / "out", first=SLOW.format(seconds=30))
    running.until("at step 0")
    running.kill(number)
    running.until("once more to leave at once")
    began = time.monotonic()
    running.kill(number)
    assert running.wait().code == code and time.monotonic() - began < 10


def test_a_signal_while_the_data_are_read_leaves_with_its_code(cli, tmp_path):
    slow = "import time, datadistill.data as d\ndef load(*a, **k):\n    import sys; print('reading', file=sys.stderr, flush=True); time.sleep(30)\nd.load = load\n"
    running = cli.start("distill", "digits", *DM, "--out", tmp_path / "out", first=slow)
    running.until("reading")
    running.kill(signal.SIGINT)
    done = running.wait()
    assert done.code == 130 and "Traceback" not in done.err and list(tmp_path.iterdir()) == []


# -- resuming ---------------------------------------------------------------------------------------------------------


def test_resume_must_never_and_other_settings(cli, expected, tmp_path):
    out = tmp_path / "out"
    argv = ("distill", "digits", *DM, "--out", out, "--json")
    none = cli.run(*argv, "--resume", "must")
    assert none.code == 2 and "no snapshot" in none.err
    running = cli.start(*argv, first=SNAPSHOTS + SLOW.format(seconds=0.02))
    running.until("splits found")
    while not list(tmp_path.glob(".out.work/snapshot-*")):
        time.sleep(0.01)
    running.kill()
    running.wait()
    snapshots = sorted(tmp_path.glob(".out.work/snapshot-*"))
    for other, names in (("--seed=5", "seed"), ("--set=lr=0.25", "lr"), ("--ipc=2", "ipc")):
        for resume in ("auto", "must"):
            refused = cli.run(*argv, other, "--resume", resume)
            assert refused.code == 2 and "had other settings" in refused.err and names in refused.err and "--resume never" in refused.err
    upgraded = "from datadistill import api; before = api.packages; api.packages = lambda: {**before(), 'torch': '99.0'}\n"
    refused = cli.run(*argv, first=upgraded)
    assert refused.code == 2 and re.search("packages.torch was .*, is .*99.0", refused.err)
    default = "from datadistill.methods import DM; DM.__init__.__kwdefaults__['momentum'] = 0.125\n"  # what nobody typed decides too
    refused = cli.run(*argv, first=default)
    assert refused.code == 2 and re.search("momentum was .*, is .*0.125", refused.err)
    assert sorted(tmp_path.glob(".out.work/snapshot-*")) == snapshots
    done = cli.run(*argv, "--resume", "never")
    assert done.code == 0 and "resumed" not in done.err and done.json["sha256"] == expected and only(out)


def test_a_damaged_snapshot_is_passed_over(cli, expected, tmp_path):
    out = tmp_path / "out"
    argv = ("distill", "digits", *DM, "--out", out, "--json")
    running = cli.start(*argv, first=SNAPSHOTS + SLOW.format(seconds=0.02))
    running.until("splits found")
    while len(list(tmp_path.glob(".out.work/snapshot-*"))) < 2:
        time.sleep(0.01)
    running.kill()
    running.wait()
    last = max(tmp_path.glob(".out.work/snapshot-*"))
    last.write_bytes(last.read_bytes()[:-7])
    done = cli.run(*argv, "--resume", "must")
    assert done.code == 0 and done.json["sha256"] == expected and "is damaged: the one before it is used" in done.err


# -- refused by the disk, or by another writer ------------------------------------------------------------------------


def test_the_second_of_two_writers_exits_5_naming_the_first(cli, tmp_path):
    argv = ("distill", "digits", *DM, "--out", tmp_path / "out")
    first = cli.start(*argv, first=SLOW.format(seconds=60))
    first.until("at step")
    for other in (argv, ("distill", "digits", "--method", "random", "--out", tmp_path / "out")):
        second = cli.run(*other)
        assert second.code == 5 and f"locked by pid {first.pid} on host {os.uname().nodename}" in second.err
        assert "train" not in second.err  # told before the data are read
    first.kill()
    first.wait()
    assert cli.run("distill", "digits", "--method", "random", "--out", tmp_path / "out").code == 0


def test_a_limit_on_file_sizes_exits_5_and_leaves_the_old_artifact_and_the_last_snapshot(cli, tmp_path):
    out = tmp_path / "out"
    assert cli.run("distill", "digits", "--method", "random", "--ipc", 1, "--out", out).code == 0
    old = Artifact.load(out).sha256
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, -1))\n"
    running = cli.start("distill", "digits", *DM, "--out", out, first=SNAPSHOTS + SLOW.format(seconds=0.02))
    running.until("splits found")
    while not list(tmp_path.glob(".out.work/snapshot-*")):
        time.sleep(0.01)
    running.kill()
    running.wait()
    for n_bytes in (2000, 10_000):  # too little for a snapshot; enough for one, too little for the page
        done = cli.run("distill", "digits", *DM, "--out", out, first=(SNAPSHOTS if n_bytes == 2000 else "") + limit.format(n_bytes))
        assert done.code == 5 and "larger than this process may write" in done.err and "Traceback" not in done.err
        assert verify(out) == [] and Artifact.load(out).sha256 == old and list(tmp_path.glob(".out.work/snapshot-*"))
    done = cli.run("distill", "digits", *DM, "--out", out, "--resume", "must")
    assert done.code == 0 and only(out)


def test_a_read_only_place_is_told_before_the_work(cli, tmp_path):
    script = 'mount -t tmpfs -o ro tmpfs "$1" || exit 77; exec "$0" -m datadistill distill digits --method random --out "$1/deep/out"'
    if shutil.which("unshare") is None:
        pytest.skip("no unshare")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script, sys.executable, str(tmp_path)], capture_output=True, text=True)
    if done.returncode == 77 or done.stderr.startswith("unshare"):
        pytest.skip("this system lets nobody mount")
    assert done.returncode == 5 and "read-only" in done.stderr and "train" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("code", ["EROFS", "EACCES", "ENOSPC"])
def test_a_place_that_takes_no_file_is_told_before_the_work(cli, tmp_path, code):
    refuse = f"""
import errno, os
def refuse(name, original):
    def call(path, *args, **kwargs):
        if {str(tmp_path)!r} in str(path) and (name == 'mkdir' or args and args[0] & os.O_CREAT):
            raise OSError(errno.{code}, os.strerror(errno.{code}), path)
        return original(path, *args, **kwargs)
    setattr(os, name, call)
refuse('mkdir', os.mkdir); refuse('open', os.open)
"""
    done = cli.run("distill", "digits", *DM, "--out", tmp_path / "out", first=refuse)
    assert done.code == 5 and "train" not in done.err and "Traceback" not in done.err and list(tmp_path.iterdir()) == []


def test_a_disk_too_small_is_told_before_the_work_with_what_there_is_and_what_is_needed(cli, tmp_path):
    small = "import shutil\nshutil.disk_usage = lambda path: __import__('types').SimpleNamespace(free=1000)\n"
    done = cli.run("distill", "digits", *DM, "--out", tmp_path / "out", first=small)
    assert done.code == 5 and re.search(r"1000 B free on the disk of .*\nExpected: .* [KM]iB", done.err) and list(tmp_path.iterdir()) == []


def test_a_folder_of_somebody_elses_is_refused_before_the_work(cli, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    done = cli.run("distill", "digits", *DM, "--out", tmp_path / "photos")
    assert done.code in (2, 4) and "distilling" not in done.err and [p.name for p in tmp_path.rglob("*")] == ["photos", "cat.png"]


# -- numbers and memory -----------------------------------------------------------------------------------------------

POISON = """
from datadistill.match import distribution
descent, calls = distribution.descent, []
def poisoned(*args):
    calls.append(1)
    loss, gradient = descent(*args)
    return (loss * float('nan'), gradient) if {when} else (loss, gradient)
distribution.descent = poisoned
"""


def test_a_loss_that_is_not_finite_once_halves_the_step_and_says_so(cli, expected, tmp_path):
    done = cli.run("distill", "digits", *DM, "--out", tmp_path / "out", "--json", first=POISON.format(when="len(calls) == 20"))
    assert done.code == 0 and "step size halved to 0.5" in done.err and done.json["sha256"] != expected
    assert any("halved to 0.5" in note for note in done.json["notes"])


def test_a_loss_that_stays_not_finite_exits_1_with_the_last_finite_set_saved(cli, tmp_path):
    out = tmp_path / "out"
    done = cli.run("distill", "digits", *DM, "--out", out, first=POISON.format(when="len(calls) > 20"))
    assert done.code == 1 and "not finite" in done.err and "halved 3 times" in done.err and "Traceback" not in done.err and not out.exists()
    saved = re.search(r"the last finite set is in (.*)", done.err)[1]
    assert verify(saved) == [] and Artifact.load(saved).to_torch().x.isfinite().all()
    halved = [note for note in Artifact.load(saved).about["notes"] if note.startswith("loss not finite")]
    assert len(halved) == 3


OOM = """
import torch
forward = torch.nn.Conv2d.forward
def small(self, x):
    if len(x) > {limit}:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory")
    return forward(self, x)
torch.nn.Conv2d.forward = small
"""


def test_out_of_memory_halves_the_batch_says_so_and_comes_to_the_same(cli, tmp_path):
    whole, small = tmp_path / "whole", tmp_path / "small"
    assert cli.run("distill", "digits", *DM, "--out", whole).code == 0
    done = cli.run("distill", "digits", *DM, "--out", small, "--json", first=OOM.format(limit=25))
    assert done.code == 0, done.err
    assert "out of memory: piece 80 -> 40" in done.err and "out of memory: piece 40 -> 20" in done.json["notes"][1]
    start = cli.run("distill", "digits", *DM, "--set", "lr=0", "--out", tmp_path / "start")
    assert start.code == 0, start.err
    a, b, c = (Artifact.load(p).x.int() for p in (whole, small, tmp_path / "start"))
    assert (a - b).abs().max() <= 1 < (a - c).abs().max()  # to rounding; while distilling changed far more


def test_out_of_memory_with_one_example_exits_5(cli, tmp_path):
    done = cli.run("distill", "digits", *DM, "--out", tmp_path / "out", first=OOM.format(limit=0))
    assert done.code == 5 and "out of memory" in done.err and "Traceback" not in done.err


# -- classes ----------------------------------------------------------------------------------------------------------


def table(path: Path, counts: dict[str, int]) -> Path:
    rows = [f"{i % 7},{(i * 5) % 11},{name}" for name, n in counts.items() for i in range(n)]
    path.write_text("\n".join(["a,b,label", *rows]) + "\n")
    return path


def folder(path: Path, counts: dict[str, int]) -> Path:
    from PIL import Image

    for name, n in counts.items():
        (path / name).mkdir(parents=True)
        for i in range(n):
            Image.new("L", (8, 8), (i * 37) % 256).save(path / name / f"{i}.png")
    return path


def test_a_class_with_no_items_exits_4_naming_it(cli, tmp_path):
    source = folder(tmp_path / "pictures", {"cat": 30, "dog": 30, "unicorn": 0})
    done = cli.run("distill", source, "--method", "random", "--ipc", 1, "--out", tmp_path / "out")
    assert done.code == 4 and "unicorn" in done.err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("make", [table, folder])
def test_a_class_with_one_item_is_kept_and_warned_about(cli, tmp_path, make):
    source = make(tmp_path / ("data.csv" if make is table else "data"), {"cat": 30, "dog": 30, "okapi": 1})
    done = cli.run("distill", source, *(("--label", "label") if make is table else ()), "--method", "random", "--ipc", 2, "--out", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    assert "okapi" in done.err and "warning" in done.err.lower()
    artifact = Artifact.load(tmp_path / "out")
    assert dict(zip(artifact.spec.classes, artifact.manifest["budget"]["per_class"], strict=True)) == {"cat": 2, "dog": 2, "okapi": 1}


def test_what_a_killed_evaluation_leaves_is_the_artifact_as_it_was(cli, tmp_path):
    out = tmp_path / "out"
    assert cli.run("distill", "digits", "--method", "random", "--ipc", 1, "--out", out).code == 0
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    running = cli.start("evaluate", out, "--data", "digits")
    running.until("splits found")
    running.kill()
    assert running.wait().code == -signal.SIGKILL
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before and json.loads((out / "manifest.json").read_text())
    assert store.reap(out) == 0


VERDICT = """
from datadistill import api
from datadistill.cli import commands
commands.table = lambda result: ['the verdict']
def judged(*args, **kwargs):
    {meanwhile}
    return {{"verdict": "FAIL", "reason": "told"}}
api.judge_artifact = judged
api.add_page = lambda artifact: None
"""


@pytest.mark.parametrize("meanwhile", ["replaced", "locked", "full", "nothing"])
def test_a_verdict_is_told_even_where_it_cannot_be_kept(cli, tmp_path, meanwhile):
    out = tmp_path / "out"
    assert cli.run("distill", "digits", "--method", "random", "--ipc", 1, "--out", out).code == 0
    other = {
        "replaced": f"api.distill('digits', method='random', ipc=2, out={str(out)!r})",
        "locked": f"from datadistill import store; global held; held = store.lock({str(out)!r}); held.__enter__()",
        "full": "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4000, -1))",
        "nothing": "pass",
    }[meanwhile]
    done = cli.run("evaluate", out, "--data", "digits", first=VERDICT.format(meanwhile=other))
    assert done.code == 0 and done.out.startswith("the verdict"), done.err
    kept = Artifact.load(out)
    assert (kept.evaluation is not None) == (meanwhile == "nothing") and len(kept) == (20 if meanwhile == "replaced" else 10)
    assert ("the verdict is not kept" in done.err) == (meanwhile != "nothing")
