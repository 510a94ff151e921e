"""From Python: arrays, tensors, torch datasets. What the caller owns is never changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from makers import noise, png
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from datadistill.data import Unreadable, load
from datadistill.errors import BadInput

X = np.random.default_rng(0).integers(0, 256, (60, 6, 5, 3), dtype=np.uint8)
Y = np.arange(60) % 3
RIGHT = {np.ascontiguousarray(x.transpose(2, 0, 1)).tobytes(): int(y) for x, y in zip(X, Y, strict=True)}
FIRST = torch.from_numpy(X).permute(0, 3, 1, 2)


def everything(data) -> dict[bytes, int]:
    return {bytes(x.contiguous().numpy()): int(y) for r in (data.train, data.val, data.test) for x, y in zip(r.stored, r.labels, strict=True)}


class Items(Dataset):
    """Items made by a function."""

    def __init__(self, make, n: int = 60, classes=None):
        self.make, self.n = make, n
        if classes:
            self.classes = classes

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, k: int):
        if not 0 <= k < self.n:
            raise IndexError(k)
        return self.make(k)


SOURCES = {
    "arrays": (X, Y),
    "a list of pairs' halves": [X, Y.tolist()],
    "tensors": (FIRST, torch.from_numpy(Y)),
    "fractions": (FIRST.float() / 255, torch.from_numpy(Y)),
    "float64 fractions": (X / 255.0, Y),
    "text labels": (X, np.array([f"{y}" for y in Y], dtype=object)),
    "by name": {"x_train": X, "y_train": Y},
    "by split": {"train": (X, Y)},
    "as Keras": ((X[:40], Y[:40]), (X[40:], Y[40:])),
    "TensorDataset": TensorDataset(FIRST, torch.from_numpy(Y)),
    "dataset of arrays": Items(lambda k: (X[k], int(Y[k]))),
    "dataset of fractions": Items(lambda k: (FIRST[k] / 255, int(Y[k]))),
    "dataset of pictures": Items(lambda k: (__import__("PIL.Image").Image.fromarray(X[k]), int(Y[k]))),
    "anything with len": type("Own", (), {"__len__": lambda s: 60, "__getitem__": lambda s, k: (X[k], int(Y[k]))})(),
    "datasets by split": {"train": TensorDataset(FIRST[:40], torch.from_numpy(Y[:40])), "test": TensorDataset(FIRST[40:], torch.from_numpy(Y[40:]))},
}


@pytest.mark.parametrize("name", SOURCES)
def test_the_same_images_by_every_way_in(name):
    before = X.copy(), Y.copy()
    data = load(SOURCES[name])
    assert everything(data) == RIGHT and data.found.classes == ("0", "1", "2")
    assert data.found.split["found"] == (["train", "test"] if name in ("as Keras", "datasets by split") else ["train"])
    assert np.array_equal(X, before[0]) and np.array_equal(Y, before[1]), "the caller's arrays were changed"


def test_what_is_loaded_shares_no_memory_with_the_caller():
    for x in (X.copy(), np.ascontiguousarray(X.transpose(0, 3, 1, 2)), torch.from_numpy(X.copy()).permute(0, 3, 1, 2).contiguous()):
        before = np.array(np.asarray(x))
        data = load((x, Y))
        for real in (data.train, data.val, data.test):
            real.stored.zero_()
        assert np.array_equal(np.asarray(x), before)


def test_tensors_have_their_channels_first_and_arrays_last_where_both_could_be():
    x = np.zeros((20, 3, 3, 3), np.uint8)
    x[:, 0] = 200
    y = np.arange(20) % 2
    assert load((torch.from_numpy(x), torch.from_numpy(y))).train.stored[0, 0].unique().tolist() == [200]
    assert load((x, y)).train.stored[0, :, 0].unique().tolist() == [200]


def test_tables():
    x = np.random.default_rng(0).normal(size=(60, 4))
    for source in ((x, Y), (torch.from_numpy(x), torch.from_numpy(Y)), Items(lambda k: (torch.from_numpy(x[k]), int(Y[k])))):
        data = load(source)
        assert data.found.modality == "tabular" and data.found.shape == (4,)
        assert everything(data) == {row.astype(np.float32).tobytes(): int(y) for row, y in zip(x, Y, strict=True)}


def test_names_of_a_dataset_s_classes_are_used():
    assert load(Items(lambda k: (X[k], int(Y[k])), classes=["c", "b", "a"])).found.classes == ("c", "b", "a")
    with pytest.raises(BadInput, match="class d with 0"):
        load(Items(lambda k: (X[k], int(Y[k])), classes=["c", "b", "a", "d"]))


def test_pictures_of_any_size_and_mode():
    data = load(Items(lambda k: (noise((8 + k % 3, 6), "L" if k % 2 else "RGBA", k), k % 3)))
    assert data.found.mode == "RGB" and data.found.shape == (3, 6, 6) and len(data.found.modes) == 6


def test_each_item_is_read_once():
    asked = []
    load(Items(lambda k: (asked.append(k), (X[k], int(Y[k])))[1]))
    assert asked == list(range(60))


def test_items_that_cannot_be_read_are_rejected():
    def make(k: int):
        if k in (3, 5):
            raise OSError("image file is truncated")
        return X[k % 60], int(Y[k % 60])

    found = load(Items(make, n=300)).found
    assert [name for name, _ in found.rejects] == ["train item 3", "train item 5"] and "truncated" in found.rejects[0][1]
    with pytest.raises(Unreadable, match="2 of 60"):
        load(Items(make, n=60))


def test_pictures_that_turn_out_broken_are_rejected():
    import io

    from PIL import Image

    broken = png(noise((64, 64)))[:500]
    found = load(Items(lambda k: (Image.open(io.BytesIO(broken)) if k == 7 else noise((64, 64), seed=k), k % 2), n=120)).found
    assert [name for name, _ in found.rejects] == ["train item 7"] and "truncated" in found.rejects[0][1]


class Stream(IterableDataset):
    def __iter__(self):
        yield X[0], 0


@pytest.mark.parametrize(
    "source",
    [
        Stream(),
        Items(lambda k: X[k]),
        Items(lambda k: ((FIRST[k].float() - 120) / 50, 0)),
        Items(lambda k: (FIRST[k].float(), 0)),
        Items(lambda k: (X[k], int(Y[k])), n=0),
        Items(lambda k: (torch.zeros(k % 3 + 1), int(Y[k]))),
        (X, Y[:-1]),
        (X.astype(object), Y),
        ([[1, 2], [3]], [0, 1]),
        {"x_train": X},
    ],
    ids=range(10),
)
def test_what_makes_no_sense_is_refused_in_words(source):
    with pytest.raises(BadInput) as error:
        load(source)
    assert error.value.got and error.value.exit_code == 4
