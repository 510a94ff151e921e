"""Nothing is ever unpickled, nothing is unpacked, and every refusal says what, why and what instead."""

from __future__ import annotations

import io
import tarfile
import zipfile

import pytest
from makers import pickles, png

from datadistill.data import load
from datadistill.data.guard import is_pickle, magic
from datadistill.errors import BadInput, DistillError


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", ".npy", ".npz", ".csv", ".parquet", ".bin", ""])
def test_no_pickle_runs_whatever_it_is_called(tmp_path, suffix):
    canary = tmp_path / "ran"
    for k, (name, content) in enumerate(pickles(tmp_path, canary).items()):
        path = tmp_path / f"{k}{suffix}"
        path.write_bytes(content)
        with pytest.raises(BadInput, match="pickle") as error:
            load(path, label="x")
        assert not canary.exists(), name
        assert error.value.exit_code == 4 and "never unpickles" in str(error.value) and error.value.fix


def test_the_canary_does_run_when_it_is_unpickled(tmp_path):
    """Otherwise the test above could not fail."""
    import pickle

    canary = tmp_path / "ran"
    pickle.loads(pickles(tmp_path, canary)["protocol 0"])
    assert canary.exists()


def test_pickles_in_a_folder_of_tables_do_not_run(tmp_path):
    canary = tmp_path / "ran"
    for k, content in enumerate(pickles(tmp_path, canary).values()):
        root = tmp_path / str(k)
        root.mkdir()
        (root / "train.csv").write_bytes(content)
        with pytest.raises(BadInput, match="pickle"):
            load(root, label="x")
    assert not canary.exists()


@pytest.mark.parametrize("text", [b"a,b\n1,2\n", b"c,d.\ne\nf.\n", b"N.obs,x\n1,2\n", b".", b"(1,2)\n", b"I1\n.x,y\n", b"\x80", b"\x80abc", b"\xef\xbb\xbfa,b\n"])
def test_text_is_not_taken_for_a_pickle(text):
    assert not is_pickle(text) and magic(text) != "pickle"


def archives(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("../../a/1.png", png())
    else:
        with tarfile.open(fileobj=buffer, mode=kind) as archive:
            link = tarfile.TarInfo("a/1.png")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
            outside = tarfile.TarInfo("../../b/1.png")
            outside.size = 3
            archive.addfile(outside, io.BytesIO(b"abc"))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
def test_archives_are_not_unpacked(tmp_path, kind):
    inside = tmp_path / "deep" / "deeper"
    inside.mkdir(parents=True)
    path = inside / "set.archive"
    path.write_bytes(archives(kind))
    with pytest.raises(BadInput, match="archive") as error:
        load(path)
    assert "unpack it" in error.value.fix
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["deep", "deeper", "set.archive"]


@pytest.mark.parametrize(
    "source",
    ["/nowhere/at/all", "", "\x00", "x" * 5000, "hf", "/dev/null", 7, None, object(), [], (1, 2, 3), {}, {"train": 1}, {1: 2}],
    ids=repr,
)
def test_what_is_no_source_is_refused_in_words(source):
    with pytest.raises(DistillError) as error:
        load(source)
    assert error.value.exit_code in (2, 4) and error.value.expected


def test_hostile_paths_are_shown_safely(tmp_path):
    with pytest.raises(BadInput) as error:
        load(tmp_path / "\x1b[31m\udcff")
    assert "\x1b" not in str(error.value) and "\\x1b[31m\\xff" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02" * 50, b"\x89HDF\r\n\x1a\n" + bytes(50), b"PK\x03\x04" + bytes(50), b"PAR1" + bytes(50), png()])
def test_files_of_no_use_are_refused(tmp_path, content):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(BadInput) as error:
        load(tmp_path / "f", label="y")
    assert error.value.exit_code == 4


def test_a_distilled_set_is_told_from_data(tmp_path):
    import datadistill

    datadistill.distill("digits", "random", ipc=1, out=tmp_path / "set")
    with pytest.raises(BadInput, match="distilled set") as error:
        load(tmp_path / "set")
    assert "report" in error.value.fix
