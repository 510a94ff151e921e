"""What `load` promises of every source: the same seed gives the same splits, and what was found is said."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from makers import folder
from sklearn.datasets import load_digits

from datadistill.data import load, spill, unspill, write_rejects
from datadistill.errors import UsageError


def test_digits():
    data = load("digits")
    assert data.found.kind == "digits" and data.found.mode == "L" and data.found.shape == (1, 8, 8) and data.found.classes == tuple("0123456789")
    assert {s: sum(c.values()) for s, c in data.found.counts.items()} == {"train": 1258, "val": 180, "test": 359}
    stored = torch.cat([r.stored for r in (data.train, data.val, data.test)])
    x, y = load_digits(return_X_y=True)
    assert sorted(map(bytes, stored.numpy())) == sorted(map(bytes, np.round(x * 255 / 16).astype(np.uint8)))
    assert int(stored.max()) == 255 and data.train.modality.spec.facts["flip"] is False
    assert load("digits", size=16).found.shape == (1, 16, 16)


def test_the_seed_decides_the_split_and_nothing_else_does():
    state = torch.get_rng_state(), np.random.get_state()[1].tolist()
    one, again, other = load("digits", seed=5), load("digits", seed=5), load("digits", seed=6)
    for split in ("train", "val", "test"):
        assert getattr(one, split).fingerprint == getattr(again, split).fingerprint != getattr(other, split).fingerprint
    assert torch.equal(state[0], torch.get_rng_state()) and np.random.get_state()[1].tolist() == state[1]


def test_no_item_is_in_two_splits():
    data = load("digits")
    rows = [set(map(bytes, r.stored.flatten(1).numpy())) for r in (data.train, data.val, data.test)]
    x = load_digits(return_X_y=True)[0]
    assert len(set(map(bytes, np.round(x * 255 / 16).astype(np.uint8)))) == 1797, "all digits are different images"
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]


def test_fractions_are_as_asked():
    found = load("digits", val=0.25, test=0.5).found
    assert [sum(found.counts[s].values()) for s in ("val", "test")] == [449, 898]
    assert found.split["made"] == {"test": 0.5, "val": 0.25}
    with pytest.raises(UsageError):
        load("digits", val=0.6, test=0.5)
    with pytest.raises(UsageError):
        load("digits", size=0)


def test_no_validation_split_if_none_is_wanted():
    data = load("digits", val=0.0)
    assert data.found.split["made"] == {"test": 0.2} and len(data.val) == 0 and data.val.fingerprint != data.train.fingerprint


def test_what_was_found_is_printed_and_survives_json():
    found = load("digits", seed=9).found
    text = "\n".join(found.lines())
    for part in ("digits", "1,797 items", "10 classes", "1x8x8 uint8", "mode L", "train 1,258", "test 359", "stratified, seed 9", "0 124"):
        assert part in text
    again = json.loads(json.dumps(found.to_json()))
    assert again["counts"]["test"] == found.counts["test"] and again["split"]["seed"] == 9 and again["shape"] == [1, 8, 8]


def test_many_classes_stay_readable(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (600, 4, 4), dtype=np.uint8)
    lines = load((x, np.arange(600) % 200)).found.lines()
    assert max(map(len, lines)) < 300 and any("(200 classes, " in line for line in lines)


def test_long_work_shows_its_progress(tmp_path):
    class Recorder:
        def __init__(self):
            self.done: dict[str, int] = {}

        def say(self, message):
            raise AssertionError("readers say nothing by themselves")

        def bar(self, label, total, done=0):
            from contextlib import contextmanager

            @contextmanager
            def bar():
                recorder = self
                self.done[label] = -total

                class Bar:
                    def advance(self, n, values=None):
                        recorder.done[label] += n

                yield Bar()

            return bar()

    recorder = Recorder()
    load(folder(tmp_path / "set", {"a": 30, "b": 30}), progress=recorder)
    assert recorder.done == {"listing folders": 0, "reading image headers": 0, "decoding images": 0}
    np.savez(tmp_path / "s.npz", x=np.zeros((60, 256, 256), np.uint8), y=np.arange(60) % 2)
    load(tmp_path / "s.npz", progress=recorder)
    assert recorder.done["reading x (MiB)"] == 0
    (tmp_path / "t.csv").write_text("a,y\n" + "".join(f"{k % 7},{k % 2}\n" for k in range(300_000)))
    load(tmp_path / "t.csv", label="y", progress=recorder)
    assert recorder.done["reading t.csv (MiB)"] == 0


def test_rejects_as_csv_are_safe_in_a_spreadsheet_and_a_terminal(tmp_path):
    rejects = [("=cmd()", "broken"), ("a\x1b[31m,\"b\"\n", "café"), ("\udcff.png", "-1")]
    write_rejects(tmp_path / "rejects.csv", rejects)
    with open(tmp_path / "rejects.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["name", "reason"], ["'=cmd()", "broken"], ["a\\x1b[31m,\"b\"\\x0a", "café"], ["\\xff.png", "'-1"]]


def test_splits_survive_the_disk(tmp_path):
    data = load("digits")
    spill(data, tmp_path / "job")
    again = unspill(tmp_path / "job")
    for split in ("train", "val", "test"):
        assert getattr(again, split).fingerprint == getattr(data, split).fingerprint
    assert again.found.source == "digits" and again.train.modality.spec == data.train.modality.spec


def test_heavy_libraries_are_imported_when_they_are_needed():
    code = "import sys, datadistill.data; print([m for m in ('pandas', 'pyarrow', 'sklearn', 'datasets', 'PIL', 'scipy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_nothing_is_printed(capfd, tmp_path):
    load(folder(tmp_path, {"a": 10, "b": 10}))
    assert capfd.readouterr() == ("", "")


def test_a_label_that_has_no_meaning_is_warned_about():
    assert any("'y' has no meaning" in w for w in load("digits", label="y").found.warnings)
    assert not load((np.arange(40.0).reshape(20, 2), [0, 1] * 10)).found.warnings
