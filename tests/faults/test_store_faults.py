"""Killed at any moment, or refused by the disk at any call, the store leaves the old thing or the new one, and can go on."""

from __future__ import annotations

import errno
import mmap
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from fault_kit import at_call, die, ended, failing, fork, neighbours

from datadistill import store
from datadistill.errors import BadInput, DistillError, Resources
from datadistill.store import files

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

OLD = {"manifest.json": b'{"v": 1}', "samples.safetensors": b"old" * 30_000, "preview/0.png": b"x" * 5000, "preview/deep/1.png": b"1"}
NEW = {"manifest.json": b'{"v": 2}', "samples.safetensors": b"new" * 20_000, "labels/0.safetensors": b"y" * 5000, "preview/0.png": b"2"}
PUBLISHING_CALLS = 40  # more than there are; the tests find out how many


@pytest.fixture(params=["exchange", "two renames"])
def how(request, monkeypatch):
    if request.param == "two renames":
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    return request.param


@pytest.fixture
def memory(tmp_path):
    """A folder where fsync costs nothing, for the loops over every call; the random kills are on the real disk."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


def kill_soon(pid: int, delay: float) -> None:
    time.sleep(delay)
    os.kill(pid, signal.SIGKILL)
    assert ended(pid) == -signal.SIGKILL


# -- publishing -------------------------------------------------------------------------------------------------------


def test_sigkill_at_random_moments_leaves_the_old_artifact_or_the_new_one(tmp_path, how):
    out, chance = tmp_path / "out", random.Random(how)
    store.replace_folder(out, OLD)
    began = time.monotonic()
    store.replace_folder(out, OLD)
    usual = time.monotonic() - began

    def publish_for_ever():
        while True:
            store.replace_folder(out, NEW)
            store.replace_folder(out, OLD)

    orphans = 0
    for _ in range(60):
        kill_soon(fork(publish_for_ever), chance.uniform(0, 3 * usual))
        assert dict(store.read_folder(out)) in (OLD, NEW)
        orphans += store.reap(out)
        assert neighbours(out) == []
    assert orphans > 5  # or the kills came between the publications, and prove nothing


@pytest.mark.parametrize("before", [OLD, None], ids=["replacing", "first"])
def test_sigkill_at_every_call_leaves_the_old_artifact_or_the_new_one(memory, how, before):
    out, seen, last = memory / "out", set(), 0
    for n in range(PUBLISHING_CALLS):
        shutil.rmtree(out, ignore_errors=True)
        if before is not None:
            store.replace_folder(out, before)

        def publish(n=n):
            with at_call(n, die):
                store.replace_folder(out, NEW)

        last = ended(fork(publish))
        if last == 0:
            break
        assert last == -signal.SIGKILL
        if before is None and not out.exists():
            seen.add("nothing")
        else:
            content = dict(store.read_folder(out))
            assert content in (before, NEW)
            seen.add("new" if content == NEW else "old")
        store.reap(out)
        assert neighbours(out) == []
        store.replace_folder(out, NEW)  # and the next run goes on as if nothing had been
    assert last == 0 and n > 15 and seen == {"new", "nothing" if before is None else "old"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
def test_an_error_at_any_call_is_told_and_leaves_the_old_artifact_or_the_new_one(memory, how, code):
    out, told = memory / "out", 0
    for n in range(PUBLISHING_CALLS):
        shutil.rmtree(out, ignore_errors=True)
        store.replace_folder(out, OLD)
        try:
            with at_call(n, failing(code)) as made:
                store.replace_folder(out, NEW)
            assert dict(store.read_folder(out)) == NEW  # what failed, if anything, was to clear the old one away
        except Resources as error:
            told += 1
            assert error.exit_code == 5 and out.exists()
            if made[n] == "fsync folder" and "durability unknown" in str(error):
                assert dict(store.read_folder(out)) == NEW
                assert len(neighbours(out)) == 1  # the old one: until the disk has confirmed the new one it is not deleted
            else:
                assert dict(store.read_folder(out)) == OLD and "what stood there is unchanged" in str(error)
                assert neighbours(out) == []
        store.reap(out)
        assert neighbours(out) == []
        if len(made) <= n:
            break
    assert len(made) <= n and told > 10


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_an_error_at_any_call_of_writing_a_file(memory, code):
    path = memory / "report.html"
    for n in range(PUBLISHING_CALLS):
        store.write_file(path, b"old")
        try:
            with at_call(n, failing(code)) as made:
                store.write_file(path, b"new")
            break
        except Resources as error:
            assert path.read_bytes() == (b"new" if "durability unknown" in str(error) else b"old")
        assert neighbours(path) == []
    assert made == ["mkdir", "create", "write", "fsync", "replace", "fsync folder", "unlink"][: len(made)] and len(made) >= 6 and path.read_bytes() == b"new"


@pytest.mark.parametrize("before", [OLD, None], ids=["replacing", "first"])
def test_what_is_renamed_was_fsynced_and_what_is_deleted_was_replaced_for_good(tmp_path, how, monkeypatch, before):
    """A power cut loses what was not fsynced, in any order. So: every file before its folder, every folder before the rename,
    the parent after the rename, and nothing of the old one deleted before that."""
    out = tmp_path / "out"
    if before is not None:
        store.replace_folder(out, before)
    trace: list[tuple[str, str]] = []

    def watch(module, name, path_of):
        original = getattr(module, name)

        def call(*args, **kwargs):
            path = path_of(args)
            answer = original(*args, **kwargs)
            if answer is not False:
                trace.append((name.replace("_exchange", "rename"), str(path)))
            return answer

        monkeypatch.setattr(module, name, call)

    for name in ("write", "fsync"):
        watch(os, name, lambda args: os.readlink(f"/proc/self/fd/{args[0]}"))
    for name in ("mkdir", "unlink"):
        watch(os, name, lambda args: args[0])
    watch(os, "rename", lambda args: args[1])
    watch(files, "_exchange", lambda args: args[1])
    store.replace_folder(out, NEW)
    assert dict(store.read_folder(out)) == NEW

    published = max(i for i, (call, path) in enumerate(trace) if call == "rename")
    for i, (call, path) in enumerate(trace[:published]):
        if call in ("write", "mkdir"):
            assert ("fsync", path) in trace[i:published], f"{path} not on the disk when it was published"
            if path != trace[0][1]:
                assert ("fsync", os.path.dirname(path)) in trace[trace.index(("fsync", path)) : published], f"the name of {path} was not on the disk"
    confirmed = trace.index(("fsync", str(tmp_path)), published)
    assert all(i > confirmed for i, (call, _) in enumerate(trace) if call == "unlink")
    assert sum(call == "write" for call, _ in trace) == len(NEW) and any(call == "unlink" for call, _ in trace) == (before is not None)


def test_a_limit_on_the_size_of_files_is_told_and_the_old_artifact_stays(tmp_path):
    out = tmp_path / "out"
    store.replace_folder(out, OLD)

    def publish():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
        with pytest.raises(Resources, match="larger than this process may write"):
            store.replace_folder(out, NEW)
        work = store.Workspace(out, {})
        work.save({"it": 1})
        with pytest.raises(Resources):
            work.save({"it": 2, "saved": ["x" * 60_000]})
        store.replace_folder(out, NEW)

    assert ended(fork(publish)) == 5
    assert dict(store.read_folder(out)) == OLD and store.Workspace(out, {}).load() == {"it": 1}
    assert neighbours(out) == [".out.work"]


ON_A_MOUNT = """
import sys
from datadistill import store
from datadistill.errors import Resources
out, files = sys.argv[1] + "/out", {"manifest.json": b"1", "x": b"y" * 700_000}
if sys.argv[2] == "ro":
    for what in (lambda: store.check_room(out, 1), lambda: store.check_room(out + "/deep/er", 1), lambda: store.lock(out).__enter__(),
                 lambda: store.replace_folder(out, files), lambda: store.write_file(out, b""), lambda: store.Workspace(out, {}).save({})):
        try:
            what()
            sys.exit("not told")
        except Resources as error:
            assert "read-only" in str(error), error
else:
    store.check_room(out, 900_000)
    try:
        store.check_room(out, 2_000_000)
        sys.exit("not told")
    except Resources as error:
        assert "1.9 MiB" in str(error), error
    work = store.Workspace(out, {})
    store.replace_folder(out, files)
    work.save({"it": 1})
    for what in (lambda: store.replace_folder(out, files), lambda: work.save({"it": 2, "x": "x" * 700_000}), lambda: store.write_file(out + "2", files["x"])):
        try:
            what()
            sys.exit("not told")
        except Resources as error:
            assert "disk is full" in str(error), error
    assert dict(store.read_folder(out)) == files and work.load() == {"it": 1}
"""


@pytest.mark.parametrize("kind", ["ro", "size=1m"])
def test_a_disk_that_is_read_only_or_full(tmp_path, kind):
    script = f"mount -t tmpfs -o {kind} tmpfs '{tmp_path}' || exit 77; exec '{sys.executable}' -c \"$0\" '{tmp_path}' {kind}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script, ON_A_MOUNT], capture_output=True, text=True) if shutil.which("unshare") else None
    if done is None or done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("this system lets nobody mount")
    assert done.returncode == 0, done.stderr


# -- snapshots --------------------------------------------------------------------------------------------------------


def snapshot(it: int) -> dict:
    return {"loop": 0, "it": it, "saved": [{"x": torch.full((5000,), float(it))}, {"state": {0: {"step": it}}}]}


def test_sigkill_at_random_moments_loses_no_snapshot_that_was_written(tmp_path):
    out, chance, told = tmp_path / "out", random.Random(1), mmap.mmap(-1, 8)
    began = time.monotonic()
    store.Workspace(tmp_path / "usual", {}).save(snapshot(0))
    usual = time.monotonic() - began

    def save_for_ever(first):
        work = store.Workspace(out, {"seed": 0})
        for it in range(first, 1 << 30):
            work.save(snapshot(it))
            told[:] = it.to_bytes(8, "little")

    it = torn = 0
    for _ in range(60):
        kill_soon(fork(lambda first=it + 1: save_for_ever(first)), chance.uniform(0, 5 * usual))
        work = store.Workspace(out, {"seed": 0})
        torn += len([p for p in work.path.iterdir() if p.name.endswith(".tmp")]) if work.path.exists() else 0
        work.begin("auto")
        if (state := work.load()) is not None:
            assert state["it"] >= int.from_bytes(told, "little") and state["it"] >= it
            assert (state["saved"][0]["x"] == state["it"]).all() and state["saved"][1] == {"state": {0: {"step": state["it"]}}}
            it = state["it"]
            assert all(p.name.endswith(".safetensors") for p in work.path.iterdir()), "begin leaves orphans"
    assert it > 10 and torn > 5  # or the kills came between the snapshots, and prove nothing


def test_sigkill_or_an_error_at_every_call_of_a_snapshot_leaves_the_last_one_or_the_next(memory):
    for fault in (die, failing(errno.ENOSPC), failing(errno.EIO)):
        for n in range(PUBLISHING_CALLS):
            out = memory / "out"
            work = store.Workspace(out, {})
            for it in (1, 2, 3):
                work.save(snapshot(it))

            def save(n=n, fault=fault, work=work):
                with at_call(n, fault):
                    work.save(snapshot(4))

            code = ended(fork(save))
            assert code in (0, 5, -signal.SIGKILL)
            after = store.Workspace(out, {})
            assert after.begin("must") and after.load()["it"] in ((3, 4) if code else (4,))
            assert (after.load()["saved"][0]["x"] == after.load()["it"]).all()
            after.finish()
            if code == 0 and n > 5:
                break
        assert code == 0


def test_a_snapshot_truncated_anywhere_or_with_a_flipped_bit_gives_way_to_the_one_before(memory):
    work, chance = store.Workspace(memory / "out", {}), random.Random(2)
    work.save(snapshot(1))
    work.save(snapshot(2))
    last = max(work.path.iterdir())
    data = last.read_bytes()
    damaged = [data[:cut] for cut in range(0, len(data), 512)]
    for _ in range(50):
        at, bit = chance.randrange(len(data)), chance.randrange(8)
        damaged.append(data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :])
    for other in damaged:
        last.write_bytes(other)
        assert store.Workspace(memory / "out", {}).load()["it"] == 1


def test_a_cache_that_dies_or_fails_at_any_call_is_made_again(memory, monkeypatch):
    monkeypatch.setenv("DATADISTILL_CACHE", str(memory / "cache"))
    for fault in (die, failing(errno.ENOSPC)):
        for n in range(12):
            shutil.rmtree(memory / "cache", ignore_errors=True)

            def teach(n=n, fault=fault):
                with at_call(n, fault):
                    work = store.Workspace(memory / "out", {})
                    assert work.cached("t", "k", lambda: {"w": torch.ones(3)})["w"].sum() == 3

            assert ended(fork(teach)) in (0, -signal.SIGKILL)
            assert store.Workspace(memory / "out", {}).cached("t", "k", lambda: {"w": torch.ones(3)})["w"].sum() == 3
            assert [p.suffix for p in (memory / "cache").iterdir()] == [".safetensors"]


# -- two writers ------------------------------------------------------------------------------------------------------


def test_of_two_writers_one_writes_and_the_other_is_told(tmp_path):
    out, flag, counts = tmp_path / "out", tmp_path / "inside", mmap.mmap(-1, 16)

    def write(me):
        wrote = told = 0
        while wrote < 100:
            try:
                with store.lock(out):
                    os.close(os.open(flag, os.O_CREAT | os.O_EXCL))  # fails, with exit 99, if the other one is in here too
                    os.unlink(flag)
                    wrote += 1
            except Resources as error:
                told += "locked by pid" in str(error)
            counts[me * 8 : me * 8 + 8] = told.to_bytes(8, "little")

    pids = [fork(lambda me=me: write(me)) for me in range(2)]
    assert [ended(pid) for pid in pids] == [0, 0]
    assert sum(int.from_bytes(counts[i : i + 8], "little") for i in (0, 8)) > 0
    assert list(tmp_path.iterdir()) == []


def test_the_second_writer_exits_5_naming_the_first_until_the_first_is_dead(tmp_path):
    out = tmp_path / "out"
    ready, go = os.pipe()

    def hold():
        with store.lock(out):
            os.write(go, b"x")
            time.sleep(60)

    first = fork(hold)
    os.read(ready, 1)
    for end in (ready, go):
        os.close(end)
    with pytest.raises(Resources, match=f"locked by pid {first} on host {os.uname().nodename}") as refused:
        with store.lock(out):
            raise AssertionError
    assert refused.value.exit_code == 5
    kill_soon(first, 0)
    with store.lock(out):  # the kernel let it go; nobody had to judge whether the pid is alive
        pass


def test_names_of_a_folder_that_is_replaced_meanwhile_are_refused(memory):
    out = memory / "out"
    store.replace_folder(out, OLD)
    names = iter(store.read_folder(out))
    store.replace_folder(out, NEW)
    with pytest.raises(BadInput, match="was replaced while it was being read"):
        list(names)


def test_a_reader_beside_a_busy_writer_sees_old_or_new_or_is_told(memory):
    out = memory / "out"
    store.replace_folder(out, OLD)

    def publish():
        for _ in range(60):
            store.replace_folder(out, NEW)
            store.replace_folder(out, OLD)

    pid, seen, told = fork(publish), 0, 0
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        try:
            assert dict(store.read_folder(out)) in (OLD, NEW)
            seen += 1
        except DistillError as error:
            assert "replaced while it was being read" in str(error)
            told += 1
    assert seen > 5
