"""An .npz by the names of Keras, MedMNIST and scikit-learn; hostile and broken ones are refused without being run."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from datadistill.data import load
from datadistill.errors import BadInput, Resources

X = np.random.default_rng(0).integers(0, 256, (40, 6, 5), dtype=np.uint8)
Y = np.arange(40) % 4


def save(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path


def everything(data) -> dict[bytes, int]:
    return {bytes(x.numpy()): int(y) for r in (data.train, data.val, data.test) for x, y in zip(r.stored, r.labels, strict=True)}


NAMES = [
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("train_X", "train_y", "test_X", "test_y"),
    ("X_train", "y_train", "X_test", "y_test"),
    ("train_data", "train_targets", "test_data", "test_targets"),
]


@pytest.mark.parametrize("names", NAMES)
def test_names_of_the_field(tmp_path, names):
    data = load(save(tmp_path / "s.npz", **dict(zip(names, (X[:30], Y[:30], X[30:], Y[30:]), strict=True))))
    assert data.found.kind == "npz" and data.found.split["found"] == ["train", "test"]
    assert torch.equal(data.test.stored[:, 0], torch.from_numpy(X[30:])) and data.test.labels.tolist() == Y[30:].tolist()
    assert everything(data) == {bytes(x): int(y) for x, y in zip(X, Y, strict=True)}


def test_validation_arrays_are_used_and_a_column_of_labels_too(tmp_path):
    arrays = {f"{s}_images": X[k : k + 10] for k, s in ((0, "train"), (10, "val"), (20, "test"))}
    arrays |= {f"{s}_labels": Y[k : k + 10, None] for k, s in ((0, "train"), (10, "val"), (20, "test"))}
    found = load(save(tmp_path / "s.npz", **arrays)).found
    assert found.split == {"found": ["train", "val", "test"], "made": {}, "seed": 0}


def test_without_a_split_one_is_made(tmp_path):
    found = load(save(tmp_path / "s.npz", x=X, y=Y)).found
    assert found.split["made"] == {"test": 0.2, "val": 0.1} and sum(found.counts["test"].values()) == 8


@pytest.mark.parametrize("labels", [Y, Y.astype(np.float32), np.eye(4)[Y], Y.astype(str), Y[:, None], Y.astype("S3")])
def test_labels_in_every_dress(tmp_path, labels):
    data = load(save(tmp_path / "s.npz", x=X, y=labels))
    assert data.found.classes == ("0", "1", "2", "3") and everything(data) == {bytes(x): int(y) for x, y in zip(X, Y, strict=True)}


def test_class_names_in_the_file_are_used(tmp_path):
    found = load(save(tmp_path / "s.npz", x=X, y=Y, classes=np.array(["d", "c", "b", "a"]))).found
    assert found.classes == ("d", "c", "b", "a")


def test_a_declared_class_without_items_is_named(tmp_path):
    with pytest.raises(BadInput, match="class ghost with 0 training items") as error:
        load(save(tmp_path / "s.npz", x=X, y=Y, classes=np.array(["a", "b", "c", "d", "ghost"])))
    assert error.value.exit_code == 4


# -- layouts and values ------------------------------------------------------------------------------------------------

COLOUR = np.random.default_rng(1).integers(0, 256, (20, 6, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "x",
    [COLOUR, COLOUR.transpose(0, 3, 1, 2), np.asfortranarray(COLOUR), COLOUR.astype(np.int64), COLOUR.astype(np.float32), COLOUR / 255, (COLOUR / 255).astype(np.float16)],
    ids=["NHWC", "NCHW", "Fortran", "int64", "whole floats", "fractions", "half fractions"],
)
def test_every_layout_and_range_is_the_same_image(tmp_path, x):
    data = load(save(tmp_path / "s.npz", x=x, y=np.arange(20) % 2))
    assert data.found.shape == (3, 6, 5) and data.found.mode == "RGB" and data.found.dtype == "uint8"
    assert everything(data) == {np.ascontiguousarray(v.transpose(2, 0, 1)).tobytes(): k % 2 for k, v in enumerate(COLOUR)}


def test_in_place_work_is_right_beyond_one_chunk(tmp_path):
    x = np.random.default_rng(2).integers(0, 256, (9000, 3, 2, 3), dtype=np.uint8)
    x[:, 0, 0, 0], x[:, 0, 0, 1] = np.arange(9000) // 256, np.arange(9000) % 256
    data = load(save(tmp_path / "s.npz", x=x, y=np.arange(9000) % 3))
    for real in (data.train, data.val, data.test):
        k = real.stored[:, 0, 0, 0].long() * 256 + real.stored[:, 1, 0, 0].long()
        assert torch.equal(real.labels, k % 3) and torch.equal(real.stored, torch.from_numpy(x)[k].permute(0, 3, 1, 2))


def test_transparency_is_laid_on_white(tmp_path):
    x = np.zeros((20, 2, 2, 4), np.uint8)
    x[:, 0, 0, 3] = 255
    data = load(save(tmp_path / "s.npz", x=x, y=np.arange(20) % 2))
    assert data.train.stored[0].tolist() == [[[0, 255], [255, 255]]] * 3


def test_one_channel_is_one_channel(tmp_path):
    for k, x in enumerate((X, X[..., None], X[:, None])):
        assert load(save(tmp_path / f"{k}.npz", x=x, y=Y)).found.shape == (1, 6, 5)


@pytest.mark.parametrize("x", [(X - 120.0) / 50, X / 100, np.full((40, 4, 4), np.nan), X.astype(np.float32) * 1000], ids=["normalised", "odd range", "nan", "large"])
def test_values_that_could_mean_anything_are_refused(tmp_path, x):
    with pytest.raises(BadInput, match="images with values from") as error:
        load(save(tmp_path / "s.npz", x=x, y=Y))
    assert "normalisation" in error.value.fix


def test_splits_on_different_scales_are_refused(tmp_path):
    with pytest.raises(BadInput, match="values from"):
        load(save(tmp_path / "s.npz", x_train=X[:30] / 255, y_train=Y[:30], x_test=X[30:].astype(float) + 0.5, y_test=Y[30:]))


def test_two_axes_are_a_table(tmp_path):
    x = np.random.default_rng(3).normal(size=(40, 3)).astype(np.float32)
    x[0, 0], x[1, 1] = np.nan, np.inf
    data = load(save(tmp_path / "s.npz", train_X=x, train_y=Y, columns=np.array(["a", "b", "c"])))
    assert data.found.modality == "tabular" and data.found.dtype == "float32"
    assert [c["name"] for c in data.train.modality.spec.facts["columns"]] == ["a", "b", "c"]
    assert everything(data).keys() == {np.where(np.isinf(v), np.float32(np.nan), v).tobytes() for v in x}


def test_whole_number_columns_stay_whole(tmp_path):
    data = load(save(tmp_path / "s.npz", x=np.arange(80).reshape(40, 2), y=Y))
    assert all(c["integer"] for c in data.train.modality.spec.facts["columns"])


# -- refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"a": X, "b": Y}, "arrays named a, b"),
        ({"x_test": X, "y_test": Y}, "arrays named"),
        ({"x": X, "y": Y[:-1]}, "40 examples but 39 labels"),
        ({"x": X, "y": np.ones((40, 3))}, "labels|y of shape"),
        ({"x": X[:, 0, 0], "y": Y}, "arrays of shape"),
        ({"x": X[..., None].repeat(7, -1), "y": Y}, "images of shape"),
        ({"x": X.astype("datetime64[s]"), "y": Y}, "datetime"),
        ({"x": X, "y": Y * 0}, "1 class"),
        ({"x": X, "train_images": X, "y": Y}, "both 'x' and 'train_images'"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(tmp_path, arrays, match):
    with pytest.raises(BadInput, match=match):
        load(save(tmp_path / "s.npz", **arrays))


def test_every_truncation_and_many_flipped_bytes_are_refused(tmp_path):
    """Whatever is cut off or changed: BadInput, or (a flip in a name or a date) still a file that reads."""
    whole = save(tmp_path / "whole.npz", x=X, y=Y).read_bytes()
    right = everything(load(tmp_path / "whole.npz"))
    path = tmp_path / "cut.npz"
    for n in range(0, len(whole), 97):
        path.write_bytes(whole[:n])
        with pytest.raises(BadInput):
            load(path)
    for n in range(0, len(whole), 61):
        path.write_bytes(whole[:n] + bytes([whole[n] ^ 0x55]) + whole[n + 1 :])
        try:
            assert everything(load(path)) == right
        except BadInput:
            pass


def member(path, name: str, content: bytes, **attributes):
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        info = zipfile.ZipInfo(name)
        info.compress_type = zipfile.ZIP_DEFLATED
        for key, value in attributes.items():
            setattr(info, key, value)
        archive.writestr(info, content)
    return path


def npy(header: str, content: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


@pytest.mark.parametrize("name", ["../x.npy", "/etc/x.npy", "a/../../x.npy", "..\\x.npy", "C:\\x.npy"])
def test_paths_that_leave_the_folder_are_refused(tmp_path, name):
    with pytest.raises(BadInput, match="leaves its folder"):
        load(member(save(tmp_path / "s.npz", x=X, y=Y), name, npy("{'descr': '|u1', 'fortran_order': False, 'shape': (0,)}")))


def test_links_are_refused(tmp_path):
    with pytest.raises(BadInput, match="a link"):
        load(member(save(tmp_path / "s.npz", x=X, y=Y), "z.npy", b"/etc/passwd", external_attr=0o120777 << 16))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_twice_is_refused(tmp_path):
    with pytest.raises(BadInput, match="twice"):
        load(member(save(tmp_path / "s.npz", x=X, y=Y), "x.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (0,)}")))


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (10**12, 28, 28)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 28, 28)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-40, 6, 5)}",
        "{'descr': 'nonsense', 'fortran_order': False, 'shape': (1, 6, 5)}",
        "__import__('os').system('true')",
        "{'descr': '|u1'}",
        "(" * 5000,
    ],
)
def test_a_header_that_lies_is_refused_before_memory_is_taken(tmp_path, header):
    path = save(tmp_path / "s.npz", y=Y)
    with pytest.raises(BadInput, match="broken"):
        load(member(path, "x.npy", npy(header, X.tobytes())))


def test_what_does_not_fit_in_memory_is_said_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("datadistill.data.guard.available_memory", lambda: 1000)
    with pytest.raises(Resources, match="1000 B is free") as error:
        load(save(tmp_path / "s.npz", x=X, y=Y))
    assert error.value.exit_code == 5


def test_a_small_file_of_zeros_that_unpacks_to_more_than_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("datadistill.data.guard.available_memory", lambda: 50 << 20)
    path = save(tmp_path / "bomb.npz", x=np.zeros((60_000, 32, 32), np.uint8), y=np.arange(60_000) % 2)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(Resources):
        load(path)


MEMORY = """
import resource, sys
from datadistill.data import load
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
load(sys.argv[1])
print(peak() - before)
"""


def test_real_data_are_held_once(tmp_path):
    """200 MB of colour images: loading, putting the channels first and splitting take no second copy of the training images."""
    rng = np.random.default_rng(0)
    x = np.repeat(rng.integers(0, 256, (1000, 64, 64, 3), dtype=np.uint8), 16, axis=0)
    np.savez(tmp_path / "s.npz", x_train=x, y_train=np.arange(len(x)) % 10, x_test=x[:10], y_test=np.arange(10))
    n_bytes = x.nbytes
    del x
    taken = int(subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path / "s.npz")], capture_output=True, check=True, text=True).stdout)
    assert taken < 1.5 * n_bytes


def test_a_single_npy_is_no_source(tmp_path):
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(BadInput, match="without labels"):
        load(tmp_path / "x.npy")


def test_reading_takes_no_notice_of_the_suffix(tmp_path):
    buffer = io.BytesIO()
    np.savez(buffer, x=X, y=Y)
    (tmp_path / "data.bin").write_bytes(buffer.getvalue())
    assert load(tmp_path / "data.bin").found.kind == "npz"


def test_a_folder_of_one_data_file_is_that_file(tmp_path):
    x, y = np.zeros((12, 8, 8), np.uint8), np.arange(12) % 2
    x[:, 0, 0] = np.arange(12)
    (tmp_path / "one").mkdir()
    np.savez(tmp_path / "one" / "set.npz", x_train=x, y_train=y)
    (tmp_path / "one" / "README.md").write_text("about it")
    direct, inside = (load(p, seed=3).train.stored for p in (tmp_path / "one" / "set.npz", tmp_path / "one"))
    assert torch.equal(direct, inside)
    np.savez(tmp_path / "one" / "other.npz", x_train=x, y_train=y)
    with pytest.raises(BadInput):
        load(tmp_path / "one")
