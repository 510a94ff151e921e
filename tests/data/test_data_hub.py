"""Sets of the `datasets` library, from disk and from memory; nothing is downloaded."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from makers import noise, png

from datadistill.data import Unreadable, hub, load
from datadistill.data.raw import Ask
from datadistill.errors import BadInput, UsageError

datasets = pytest.importorskip("datasets")


def pictures(n: int = 20, bad: int = 0):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    images = [{"bytes": png(noise(seed=k)) if k >= bad else b"broken", "path": None} for k in range(n)]
    return datasets.Dataset.from_dict({"image": images, "label": [k % 2 for k in range(n)]}, features=features)


def test_images_saved_to_disk(tmp_path):
    pictures().save_to_disk(tmp_path / "set")
    data = load(tmp_path / "set")
    assert data.found.kind == "datasets folder" and data.found.classes == ("cat", "dog") and data.found.mode == "RGB"
    whole = {np.asarray(noise(seed=k)).transpose(2, 0, 1).tobytes(): k % 2 for k in range(20)}
    assert {bytes(x.contiguous().numpy()): int(y) for r in (data.train, data.val, data.test) for x, y in zip(r.stored, r.labels, strict=True)} == whole


def test_splits_in_memory_and_on_disk(tmp_path):
    both = datasets.DatasetDict({"train": pictures(20), "validation": pictures(4), "test": pictures(6)})
    both.save_to_disk(tmp_path / "set")
    for source in (both, tmp_path / "set"):
        found = load(source).found
        assert {s: sum(c.values()) for s, c in found.counts.items()} == {"train": 20, "val": 4, "test": 6}


def test_one_arrow_file(tmp_path):
    pictures().save_to_disk(tmp_path / "set")
    assert load(next((tmp_path / "set").glob("*.arrow"))).found.kind == "arrow"


def test_broken_images_are_rejected(tmp_path):
    found = load(pictures(200, bad=2)).found
    assert [name for name, _ in found.rejects] == ["train row 1", "train row 2"]
    with pytest.raises(Unreadable):
        load(pictures(20, bad=2))


def test_a_set_cannot_name_files_outside_its_folder(tmp_path):
    (tmp_path / "set").mkdir()
    noise().save(tmp_path / "secret.png")
    noise().save(tmp_path / "set" / "own.png")
    (tmp_path / "set" / "link.png").symlink_to(tmp_path / "secret.png")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    paths = [tmp_path / "set" / "own.png"] * 9 + [tmp_path / "secret.png", tmp_path / "set" / "link.png", "https://host/x.png"]
    table = datasets.Dataset.from_dict({"image": [{"bytes": None, "path": str(p)} for p in paths], "label": [0, 1] * 6}, features=features)
    raw = hub.of_splits("set", {"train": table}, Ask(), [tmp_path / "set"])
    assert raw.rejects == [(f"train row {k}", "a path that is no file of the set") for k in (10, 11, 12)]
    assert len(hub.of_splits("set", {"train": table}, Ask(), None).rejects) == 1, "the caller's own object may name the caller's files"


def test_a_test_split_without_labels_is_left_out(tmp_path):
    train, test = pictures(20), pictures(6)
    test = test.remove_columns("label").add_column("label", [-1] * 6).cast(train.features)
    found = load(datasets.DatasetDict({"train": train, "test": test})).found
    assert found.split["found"] == ["train"] and any("test split has no labels" in w for w in found.warnings)


def test_tables():
    features = datasets.Features({"n": datasets.Value("int64"), "kind": datasets.ClassLabel(names=["x", "y"]), "label": datasets.ClassLabel(names=["no", "yes"])})
    table = datasets.Dataset.from_dict({"n": list(range(5, 45))[::-1], "kind": [k % 2 for k in range(40)], "label": [k // 20 for k in range(40)]}, features=features)
    data = load(table)
    described = {c["name"]: c for c in data.train.modality.spec.facts["columns"]}
    assert described["kind"]["values"] == ["x", "y"] and described["n"]["integer"] and data.found.classes == ("no", "yes")
    text = datasets.Dataset.from_dict({"n": list(range(5, 45))[::-1], "which": ["a", "b"] * 20})
    with pytest.raises(UsageError, match="which column"):
        load(text)
    assert load(text, label="which").found.classes == ("a", "b")


def test_the_row_numbers_of_a_data_frame_are_no_column():
    """They are there after rows were left out, and may be there in one split alone."""
    frame = pytest.importorskip("pandas").DataFrame({"n": np.arange(40.0), "label": [0, 1] * 20})
    some = datasets.Dataset.from_pandas(frame[frame.n % 5 > 0])
    assert "__index_level_0__" in some.column_names
    assert load(some).train.modality.spec.shape == (1,)
    assert load(datasets.DatasetDict({"train": some, "test": datasets.Dataset.from_pandas(frame)})).found.counts["test"] == {"0": 20, "1": 20}


def test_a_broken_folder_is_refused(tmp_path):
    pictures().save_to_disk(tmp_path / "set")
    arrow = next((tmp_path / "set").glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:200])
    with pytest.raises(BadInput):
        load(tmp_path / "set")


def test_a_missing_library_names_the_line_to_type(tmp_path, monkeypatch):
    pictures().save_to_disk(tmp_path / "set")
    monkeypatch.setitem(sys.modules, "datasets", None)
    for source in (tmp_path / "set", "hf:mnist"):
        with pytest.raises(UsageError) as error:
            load(source)
        assert error.value.fix == "pip install 'datadistill[data]'"


def test_an_unknown_name_is_bad_input(monkeypatch):
    def nowhere(*_):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", nowhere)
    with pytest.raises(BadInput, match="Couldn't reach") as error:
        load("hf:no/such\x1b[0m")
    assert "\x1b" not in str(error.value)


def test_a_name_on_the_hub_reaches_the_library_with_its_configuration(monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config: asked.append((name, config)) or datasets.DatasetDict({"train": pictures()}))
    assert load("hf:owner/name").found.kind == "hub" and load("hf:owner/name:small").found.source == "hf:owner/name:small"
    assert asked == [("owner/name", None), ("owner/name", "small")]


def test_pictures_given_as_pictures():
    from PIL import Image

    buffer = io.BytesIO(png())
    images = [Image.open(buffer)] * 20
    assert load(datasets.Dataset.from_dict({"image": images, "label": ["a", "b"] * 10})).found.classes == ("a", "b")
