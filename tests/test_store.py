"""The store's laws: what goes in comes out, whole or not at all, with the modes of the umask, and nothing outside is read."""

from __future__ import annotations

import errno
import os
import stat
import zipfile
from math import isnan

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datadistill import store
from datadistill.errors import BadInput, DistillError, Interrupted, Resources, UsageError
from datadistill.store import files, folder, locks, workspace

OLD = {"manifest.json": b"{}", "samples.safetensors": b"old" * 999, "preview/0.png": b"x", "preview/deep/1.png": b""}
NEW = {"manifest.json": b"{1}", "labels/a": b"new" * 999, "preview/0.png": b"yy"}

TENSORS = {
    "b": torch.arange(6.0).reshape(2, 3),
    "a": torch.tensor([1, 2, 255], dtype=torch.uint8),
    "scalar": torch.tensor(-7),
    "none": torch.zeros(0, 3, dtype=torch.float64),
    "half": torch.tensor([1.5, float("nan"), float("inf")], dtype=torch.float16),
    "brain": torch.tensor([1.5], dtype=torch.bfloat16),
    "truth": torch.tensor([True, False]),
}


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)


def bits(t: torch.Tensor) -> bytes:
    return t.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def neighbours(path):
    return sorted(p.name for p in path.parent.iterdir() if p != path)


# -- tensors ----------------------------------------------------------------------------------------------------------


def test_the_bytes_are_those_of_the_safetensors_package():
    for content in ({}, {"y": torch.ones(3), "x": torch.zeros(2, 2)}, *({name: tensor} for name, tensor in TENSORS.items())):
        assert store.to_bytes(content) == safetensors.torch.save(content)
    back = safetensors.torch.load(store.to_bytes(TENSORS))
    assert back.keys() == TENSORS.keys() and all(same(back[name], TENSORS[name]) for name in back)


def test_the_bytes_do_not_depend_on_the_order_of_anything():
    meta = {f"k{i}": "é" * i for i in range(9)}
    assert store.to_bytes(TENSORS, meta) == store.to_bytes(dict(reversed(TENSORS.items())), dict(reversed(meta.items())))


def test_tensors_come_back_with_their_metadata_whatever_their_strides(tmp_path):
    data = store.to_bytes({"t": torch.arange(12).reshape(3, 4).T[1:], "u": torch.ones(1).expand(5)}, {"k": "v"})
    back = store.from_bytes(data)
    assert torch.equal(back["t"], torch.arange(12).reshape(3, 4).T[1:]) and torch.equal(back["u"], torch.ones(5))
    assert store.metadata_of(data) == {"k": "v"} and store.metadata_of(store.to_bytes({})) == {}
    (tmp_path / "t.safetensors").write_bytes(data)
    with safetensors.safe_open(tmp_path / "t.safetensors", "pt") as file:
        assert file.metadata() == {"k": "v"}


@pytest.mark.parametrize("cut", range(0, len(store.to_bytes(TENSORS)), 7))
def test_a_truncated_tensor_file_is_bad_input(cut):
    with pytest.raises(BadInput):
        store.from_bytes(store.to_bytes(TENSORS)[:cut])


@settings(deadline=None, max_examples=150)
@given(st.integers(0, len(store.to_bytes(TENSORS)) - 1), st.integers(1, 255))
def test_a_changed_byte_is_bad_input_or_other_numbers_but_never_another_error(at, flip):
    data = bytearray(store.to_bytes(TENSORS))
    data[at] ^= flip
    for read in (store.from_bytes, store.metadata_of):
        try:
            read(bytes(data))
        except BadInput:
            pass


@pytest.mark.parametrize("data", [
    b"", b"\x00" * 8, b"\xff" * 16, (200_000_000).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"[]", (4).to_bytes(8, "little") + b"null",
    b"\x80\x04\x95" + b"pickle", (10**5).to_bytes(8, "little") + b"[" * 10**5,
])  # fmt: skip
def test_what_is_no_tensor_file_is_bad_input(data):
    for read in (store.from_bytes, store.metadata_of):
        with pytest.raises(BadInput):
            read(data)


def test_a_tensor_that_has_no_place_is_refused_before_anything_is_written():
    with pytest.raises(TypeError):
        store.to_bytes({"z": torch.zeros(2, dtype=torch.complex128)})
    with pytest.raises(TypeError):
        store.to_bytes({"__metadata__": torch.zeros(2)})


# -- states -----------------------------------------------------------------------------------------------------------

plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("$tensor") | st.just("\udc80")
keys = st.integers() | st.text(max_size=5) | st.sampled_from(["$dict", "$tuple", "$tensor"]) | st.tuples(st.integers(), st.text(max_size=2)) | st.none()
some_tensors = st.sampled_from(list(TENSORS.values()))
states = st.recursive(
    plain | some_tensors,
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=20,
)


def alike(a, b) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return same(a, b)
    if isinstance(a, dict):
        return list(map(repr, a)) == list(map(repr, b)) and all(map(alike, a.values(), b.values()))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(alike, a, b))
    return isnan(b) if isinstance(a, float) and isnan(a) else repr(a) == repr(b)


@settings(deadline=None, max_examples=300)
@given(states)
def test_any_plain_state_survives_the_trip(state):
    text, tensors = store.flatten(state)
    back = store.unflatten(store.metadata_of(data := store.to_bytes(tensors, {"s": text}))["s"], store.from_bytes(data))
    assert alike(state, back)


def test_an_optimizers_state_survives_the_trip():
    w = torch.nn.Parameter(torch.ones(3))
    adam = torch.optim.Adam([w], lr=0.1)
    w.sum().backward()
    adam.step()
    text, tensors = store.flatten(adam.state_dict())
    assert alike(adam.state_dict(), store.unflatten(text, tensors))


def test_what_cannot_be_kept_is_refused():
    for value in (object(), {1, 2}, b"bytes", torch.Generator()):
        with pytest.raises(TypeError):
            store.flatten({"x": [value]})


# -- files and folders ------------------------------------------------------------------------------------------------


@pytest.fixture(params=["exchange", "two renames"])
def how(request, monkeypatch):
    if request.param == "two renames":
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    return request.param


def test_this_system_exchanges_folders_in_one_call(tmp_path):
    if not os.sys.platform.startswith("linux"):
        pytest.skip("renameat2 is Linux's")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "x").touch()
    assert files._exchange(tmp_path / "a", tmp_path / "b") and (tmp_path / "b" / "x").exists()


def test_a_folder_is_written_replaced_and_leaves_nothing_else(tmp_path, how):
    out = tmp_path / "deep" / "out"
    for content in (OLD, NEW, OLD):
        store.replace_folder(out, content)
        assert dict(store.read_folder(out)) == content
        assert neighbours(out) == []


def test_a_folder_may_be_written_from_another_as_it_is_read(tmp_path):
    store.replace_folder(tmp_path / "a", OLD)
    store.replace_folder(tmp_path / "b", store.read_folder(tmp_path / "a"))
    assert dict(store.read_folder(tmp_path / "b")) == OLD


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_modes_follow_the_umask(tmp_path, umask, how):
    before = os.umask(umask)
    try:
        store.write_file(tmp_path / "f", b"1")
        store.write_file(tmp_path / "f", b"2")
        for content in (OLD, NEW):
            store.replace_folder(tmp_path / "out", content)
    finally:
        os.umask(before)
    mode = {p: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "f", tmp_path / "out", *(tmp_path / "out").rglob("*"))}
    assert mode == {p: (0o777 if p.is_dir() else 0o666) & ~umask for p in mode}


def test_no_descriptor_is_left_open(tmp_path, how):
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("no /proc")
    before = len(os.listdir("/proc/self/fd"))
    for content in (OLD, NEW):
        with store.lock(tmp_path / "out"):
            store.replace_folder(tmp_path / "out", content)
        dict(store.read_folder(tmp_path / "out"))
    store.check_room(tmp_path / "x", 1)
    store.reap(tmp_path / "out")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk/out")
    for content in (OLD, NEW):
        store.replace_folder(tmp_path / "out", content)
    assert (tmp_path / "out").is_symlink() and dict(store.read_folder(tmp_path / "disk" / "out")) == NEW


def test_a_folder_of_somebody_elses_is_never_replaced(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    store.replace_folder(home, NEW)  # an empty folder may be
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    (tmp_path / "file").touch()
    monkeypatch.chdir(home)
    for path in (tmp_path / "photos", tmp_path / "file", home, ".", "/"):
        with pytest.raises(UsageError):
            store.replace_folder(path, OLD)
        with pytest.raises(UsageError):
            store.Workspace(path, {}).begin()
    assert (tmp_path / "photos" / "cat.png").exists() and dict(store.read_folder(home)) == NEW


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a//b", "", "a/", ".", "c:x", "a\\b", "a\0b"])
def test_no_file_name_leads_out(tmp_path, name):
    with pytest.raises(BadInput):
        store.replace_folder(tmp_path / "out", {"manifest.json": b"", name: b""})
    assert list(tmp_path.iterdir()) == []
    store.replace_folder(tmp_path / "out", OLD)
    with pytest.raises(BadInput):
        store.read_folder(tmp_path / "out")[name]


@pytest.mark.parametrize("name", ["ü" * 100, "x" * 255, "\udcff\udc80", "<b>&", "a*[b]", "new\nline"])
def test_any_name_the_disk_takes_will_do(tmp_path, name, how):
    for content in (OLD, NEW):
        with store.lock(tmp_path / name):
            store.replace_folder(tmp_path / name, content)
    work = store.Workspace(tmp_path / name, {})
    work.save({"it": 1})
    assert work.load() == {"it": 1} and len(neighbours(tmp_path / name)) == 1
    work.finish()
    assert neighbours(tmp_path / name) == []


def test_a_name_that_is_too_long_is_a_matter_of_usage(tmp_path):
    with pytest.raises(UsageError):
        store.replace_folder(tmp_path / ("x" * 256), OLD)


def test_orphans_are_removed_and_what_a_writer_holds_is_not(tmp_path):
    out, other = tmp_path / "out", tmp_path / "out.1"
    for path in (out, other):
        store.replace_folder(path, OLD)
    for name in ("out", "out.1"):
        (tmp_path / f".{name}.77-0123456789ab.tmp").mkdir()
        (tmp_path / f".{name}.77-0123456789ab.tmp" / "x").touch()
        (tmp_path / f".{name}.78-0123456789ab.tmp").touch()
    (tmp_path / ".out.mine.tmp").touch()
    with files._temporary(out, folder=True) as (live, _):
        assert store.reap(out) == 2
        assert live.exists()
    assert neighbours(out) == [".out.1.77-0123456789ab.tmp", ".out.1.78-0123456789ab.tmp", ".out.mine.tmp", "out.1"]
    assert store.reap(out) == 0 and store.reap(tmp_path / "nowhere" / "out") == 0


@pytest.mark.parametrize("reader", [store.recover, store.reap, store.read_folder])
def test_an_old_folder_left_aside_is_put_back(tmp_path, reader):
    out, aside = tmp_path / "out", tmp_path / ".out.77-0123456789ab.old"
    store.replace_folder(out, OLD)
    out.rename(aside)
    reader(out)
    assert dict(store.read_folder(out)) == OLD and not aside.exists()


def test_an_old_folder_left_aside_makes_way_for_the_new_one(tmp_path):
    out, aside = tmp_path / "out", tmp_path / ".out.77-0123456789ab.old"
    store.replace_folder(aside, OLD)
    store.replace_folder(out, NEW)
    assert store.reap(out) == 1 and dict(store.read_folder(out)) == NEW and neighbours(out) == []


# -- locks and room ---------------------------------------------------------------------------------------------------


def test_a_second_writer_is_told_who_the_first_is(tmp_path):
    with store.lock(tmp_path / "out"):
        with pytest.raises(Resources, match=f"locked by pid {os.getpid()} on host ") as refused:
            with store.lock(tmp_path / "out"):
                raise AssertionError
        with store.lock(tmp_path / "other"):
            pass
    assert refused.value.exit_code == 5
    with store.lock(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_dead_process_holds_nobody_up(tmp_path):
    (tmp_path / ".out.lock").write_text('{"pid": 1, "host": "gone", "since": "then"}')
    with store.lock(tmp_path / "out"):
        assert f'"pid": {os.getpid()}' in (tmp_path / ".out.lock").read_text()


def test_a_lock_file_that_was_unlinked_meanwhile_is_not_the_lock(tmp_path, monkeypatch):
    grabs = []

    def late(fd, grab=locks.grab):
        grabs.append(fd)
        if len(grabs) == 1:
            (tmp_path / ".out.lock").unlink()  # the first owner leaves between our open and our flock
        return grab(fd)

    monkeypatch.setattr(locks, "grab", late)
    with store.lock(tmp_path / "out"):
        assert (tmp_path / ".out.lock").exists() and len(grabs) == 2


def test_the_lock_file_is_unlinked_while_it_is_still_held(tmp_path, monkeypatch):
    def held(file, remove=locks.remove):
        with locks.held(file) as free:
            assert not free  # else two others may get in: one by this file, one by the next
        remove(file)

    monkeypatch.setattr(locks, "remove", held)
    with store.lock(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_room_is_checked_where_the_folder_will_be(tmp_path):
    store.check_room(tmp_path / "not" / "yet" / "out", 1000)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Resources, match="free on the disk of .*\nExpected: .* GiB") as refused:
        store.check_room(tmp_path / "out", 1 << 60)
    assert refused.value.exit_code == 5
    (tmp_path / "file").touch()
    with pytest.raises(UsageError):
        store.check_room(tmp_path / "file" / "out", 1)


def test_a_place_without_permission_is_told_before_the_work(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(Resources, match="read-only"):
        store.check_room(tmp_path / "out", 1)


# -- reading ----------------------------------------------------------------------------------------------------------


def zipped(path, content, **infos):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def test_a_zip_of_the_files_or_of_the_folder_is_the_same_thing(tmp_path):
    inside = zipped(tmp_path / "1.zip", OLD)
    whole = zipped(tmp_path / "2.zip", {"digits/": b"", "__MACOSX/digits/._x": b"", **{f"digits/{k}": v for k, v in OLD.items()}})
    assert dict(store.read_folder(inside)) == dict(store.read_folder(whole)) == OLD


def symlink(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize("entries", [
    [("../evil", b"x")], [("/etc/evil", b"x")], [("a/../../evil", b"x")], [("a\\..\\evil", b"x")], [("C:/evil", b"x")],
    [(symlink("link"), b"/etc/passwd")], [("twice", b"1"), ("twice", b"2")], [("zeros", b"\0" * (8 << 20))],
], ids=["dotdot", "absolute", "inner dotdot", "backslash", "drive", "link", "twice", "bomb"])  # fmt: skip
def test_a_hostile_zip_is_refused_whole(tmp_path, entries):
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", b"{}")
        for name, data in entries:
            if name == "twice":
                with pytest.warns(UserWarning) if "twice" in archive.namelist() else open(os.devnull):
                    archive.writestr(name, data)
            else:
                archive.writestr(name, data)
    with pytest.raises(BadInput) as refused:
        store.read_folder(path)
    assert refused.value.exit_code == 4


def test_a_zip_of_too_many_or_too_large_files_is_refused(tmp_path, monkeypatch):
    path = zipped(tmp_path / "a.zip", OLD)
    monkeypatch.setattr(folder, "MAX_FILES", 3)
    with pytest.raises(BadInput, match="at most 3"):
        store.read_folder(path)
    monkeypatch.undo()
    monkeypatch.setattr(folder, "MAX_BYTES", 1000)
    with pytest.raises(BadInput, match="at most 1000 B"):
        store.read_folder(path)


def test_a_zip_that_lies_about_its_sizes_gives_bad_input_when_read(tmp_path):
    path = zipped(tmp_path / "a.zip", {"x": bytes(range(256)) * 40, "y": b"1"})
    data = path.read_bytes()
    central = data.rindex(b"PK\x01\x02", 0, data.rindex(b"PK\x01\x02"))
    for size in (1, 100, 10239, 10241, 1 << 20):
        path.write_bytes(data[: central + 24] + size.to_bytes(4, "little") + data[central + 28 :])
        with pytest.raises(BadInput):
            store.read_folder(path)["x"]


@pytest.mark.parametrize("cut", range(1, 400, 23))
def test_a_truncated_zip_is_bad_input(tmp_path, cut):
    path = zipped(tmp_path / "a.zip", OLD)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(BadInput):
        dict(store.read_folder(path))


def test_a_changed_byte_in_a_zip_is_bad_input_or_harmless(tmp_path):
    path = zipped(tmp_path / "a.zip", OLD)
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        try:
            content = dict(store.read_folder(path))
        except DistillError:
            continue
        assert set(content.values()) <= set(OLD.values())  # names, dates and comments have no check sum; contents do


def test_links_out_of_a_folder_are_refused_and_links_within_are_not(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    store.replace_folder(tmp_path / "out", OLD)
    (tmp_path / "out" / "within").symlink_to("preview/0.png")
    assert store.read_folder(tmp_path / "out")["within"] == b"x"
    for name, target in (("direct", tmp_path / "secret"), ("dotdot", "../secret"), ("passwd", "/etc/passwd")):
        (tmp_path / "out" / name).symlink_to(target)
        with pytest.raises(BadInput, match="link"):
            store.read_folder(tmp_path / "out")[name]
        (tmp_path / "out" / name).unlink()
    (tmp_path / "out" / "tree").symlink_to(tmp_path)
    for read in (dict, lambda f: f["tree/secret"]):
        with pytest.raises(BadInput, match="link"):
            read(store.read_folder(tmp_path / "out"))


def test_a_pipe_in_a_folder_does_not_hang_the_reader(tmp_path):
    store.replace_folder(tmp_path / "out", OLD)
    os.mkfifo(tmp_path / "out" / "pipe")
    with pytest.raises(BadInput, match="ordinary"):
        store.read_folder(tmp_path / "out")["pipe"]


@pytest.mark.parametrize("content", [None, b"", b"\x80\x04K\x01.", b"\x93NUMPY"])
def test_what_is_neither_folder_nor_zip_is_bad_input(tmp_path, content):
    if content is not None:
        (tmp_path / "x").write_bytes(content)
    with pytest.raises(BadInput):
        store.read_folder(tmp_path / "x")


def test_a_reader_never_sees_two_folders_as_one(tmp_path, how):
    store.replace_folder(tmp_path / "out", OLD)
    seen = store.read_folder(tmp_path / "out")
    assert seen["preview/0.png"] == b"x"
    store.replace_folder(tmp_path / "out", NEW)
    for name in ("preview/0.png", "labels/a", "samples.safetensors"):
        with pytest.raises(BadInput, match="replaced while it was being read"):
            seen[name]


def test_a_folder_is_a_mapping(tmp_path):
    store.replace_folder(tmp_path / "out", OLD)
    zipped(tmp_path / "out.zip", OLD)
    for seen in (store.read_folder(tmp_path / "out"), store.read_folder(tmp_path / "out.zip")):
        assert len(seen) == 4 and set(seen) == set(OLD) and "manifest.json" in seen and "nothing" not in seen and "preview" not in seen
        with pytest.raises(KeyError):
            seen["nothing"]


# -- the workspace ----------------------------------------------------------------------------------------------------

STATE = {"it": 3, "saved": [{"x": torch.arange(4.0)}], "curve": [{"loss": float("nan")}]}


def test_a_snapshot_is_resumed_by_the_same_configuration_only(tmp_path):
    config = {"method": {"name": "dm", "lr": 0.1}, "seed": 0}
    work = store.Workspace(tmp_path / "out", config)
    assert work.begin() is False and work.load() is None
    with pytest.raises(UsageError, match="no snapshot"):
        work.begin("must")
    work.save(STATE)
    for resume in ("auto", "must"):
        assert store.Workspace(tmp_path / "out", {"seed": 0, "method": {"lr": 0.1, "name": "dm"}}).begin(resume) is True
        with pytest.raises(UsageError, match=r"method.lr was 0.1, is 0.2; seed was 0, is 1") as refused:
            store.Workspace(tmp_path / "out", {"method": {"name": "dm", "lr": 0.2}, "seed": 1}).begin(resume)
        assert refused.value.exit_code == 2 and "--resume never" in str(refused.value)
    assert alike(store.Workspace(tmp_path / "out", config).load(), STATE)
    again = store.Workspace(tmp_path / "out", {"seed": 1})
    assert again.begin("never") is False and again.load() is None


def test_the_newest_whole_snapshot_counts_by_number_and_two_are_kept(tmp_path):
    work = store.Workspace(tmp_path / "out", {})
    for it in range(5):
        work.save({"it": it})
    kept = sorted(work.path.iterdir())
    assert len(kept) == 2 and work.load() == {"it": 4}
    os.utime(kept[0], (2**33, 2**33))  # clocks go astray
    assert store.Workspace(tmp_path / "out", {}).load() == {"it": 4}
    work.finish()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "foreign"])
def test_a_damaged_snapshot_is_seen_and_the_one_before_it_used(tmp_path, damage):
    work = store.Workspace(tmp_path / "out", {"a": 1})
    work.save({**STATE, "it": 1})
    work.save({**STATE, "it": 2})
    last = max(work.path.iterdir())
    data = last.read_bytes()
    last.write_bytes({"cut": data[:-1], "flip": data[:-3] + bytes([data[-3] ^ 1]) + data[-2:], "empty": b"", "foreign": min(work.path.iterdir()).read_bytes()}[damage])
    fresh = store.Workspace(tmp_path / "out", {"a": 1})
    assert fresh.begin("must") is True and fresh.load()["it"] == 1 and "snapshot 2 is damaged" in fresh.notes[0]
    fresh.save({"it": 3})
    assert fresh.load() == {"it": 3}
    for file in work.path.iterdir():
        file.write_bytes(b"")
    assert store.Workspace(tmp_path / "out", {"a": 2}).begin() is False


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DATADISTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_cache_makes_a_thing_once_and_gives_the_same_made_or_read(tmp_path, cache):
    calls = []

    def make():
        calls.append(1)
        return {"w": torch.arange(6.0).reshape(2, 3).T.requires_grad_()}

    one = store.Workspace(tmp_path / "a", {}).cached("teacher", "key", make)
    two = store.Workspace(tmp_path / "b", {}).cached("teacher", "key", make)
    assert len(calls) == 1 and torch.equal(one["w"], two["w"]) and one["w"].stride() == two["w"].stride() and not one["w"].requires_grad
    for name, key in (("teacher", "other"), ("other", "key"), ("../tea/cher", "key"), ("x" * 999, "")):
        store.Workspace(tmp_path / "a", {}).cached(name, key, make)
    assert len(calls) == 5 and len(list(cache.iterdir())) == 5 and sorted(p.name for p in tmp_path.iterdir()) == ["cache"]


def test_a_damaged_cache_file_is_made_again(tmp_path, cache):
    work = store.Workspace(tmp_path / "out", {})
    work.cached("t", "k", lambda: {"w": torch.ones(2)})
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    assert work.cached("t", "k", lambda: {"w": torch.zeros(2)})["w"].sum() == 0
    assert work.cached("t", "k", dict)["w"].sum() == 0 and "damaged" in work.notes[0]


def test_without_a_cache_folder_things_are_made_each_time(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for place in (str(tmp_path / "file"), str(tmp_path / "file" / "below")):
        monkeypatch.setenv("DATADISTILL_CACHE", place)
        work = store.Workspace(tmp_path / "out", {})
        assert [work.cached("t", "k", lambda i=i: {"w": torch.tensor(i)})["w"].item() for i in range(2)] == [0, 1]
        assert "not kept in the cache" in work.notes[0]


def test_a_signal_is_not_taken_for_a_damaged_file(tmp_path, cache, monkeypatch):
    def interrupted(*_args, **_kwargs):
        raise Interrupted(2, "Ctrl-C")

    path = zipped(tmp_path / "a.zip", OLD)
    seen = store.read_folder(path)
    for module, name, read in (
        (safetensors.torch, "load", lambda: store.from_bytes(b"")),
        (zipfile.ZipFile, "open", lambda: seen["preview/0.png"]),
        (workspace, "write_file", lambda: store.Workspace(tmp_path / "out", {}).cached("t", "k", dict)),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, interrupted)
            with pytest.raises(Interrupted):
                read()


def test_the_cache_lies_where_the_platform_keeps_such_things(monkeypatch):
    for name in ("DATADISTILL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr(workspace.sys, "platform", "linux")
    assert str(store.cache_folder()) == "/home/me/.cache/datadistill"
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/c")
    assert str(store.cache_folder()) == "/var/c/datadistill"
    monkeypatch.setattr(workspace.sys, "platform", "darwin")
    assert str(store.cache_folder()) == "/home/me/Library/Caches/datadistill"


def test_the_store_imports_no_torch_and_needs_no_flock():
    import subprocess
    import sys

    script = "import sys; sys.modules['fcntl'] = None; from datadistill import store; assert 'torch' not in sys.modules and store.locks.fcntl is None"
    subprocess.run([sys.executable, "-c", script], check=True)
