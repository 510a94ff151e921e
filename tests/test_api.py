"""The library in three verbs, and the estimator."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import datadistill
from datadistill.errors import BadInput, DistillError, UsageError
from datadistill.evaluate import Protocol

DRAW = np.random.default_rng(0)


def blobs(n=90, classes=3, features=4, seed=0):
    draw = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return draw.normal(size=(n, features)) + 3 * y[:, None], y


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DATADISTILL_CACHE", str(tmp_path / "cache"))


def test_distill_save_load_train(tmp_path):
    small = datadistill.distill(blobs(), method="dm", ipc=4, iterations=3, width=8)
    assert len(small) == 12
    again = datadistill.load(small.save(tmp_path / "set"))
    assert again.sha256 == small.sha256
    loader = torch.utils.data.DataLoader(again.to_torch(), batch_size=6)
    net = torch.nn.Sequential(again.to_torch().normalise, torch.nn.Linear(4, 3))
    for x, y in loader:
        torch.nn.functional.cross_entropy(net(x), y).backward()
    assert net[1].weight.grad.abs().sum() > 0


def sources():
    x, y = DRAW.integers(0, 255, (60, 8, 8, 3), np.uint8), np.arange(60) % 3
    pictures = torch.from_numpy(x).permute(0, 3, 1, 2)
    rows, labels = blobs()
    frame = pd.DataFrame({"a": rows[:, 0], "b": ["x", "y", None] * 30, "kind": [f"k{c}" for c in labels]})
    yield "arrays", (x, y), {}
    yield "tensors", (pictures, torch.from_numpy(y)), {}
    yield "torch dataset", torch.utils.data.TensorDataset(pictures, torch.from_numpy(y)), {}
    yield "frame", frame, {"label": "kind"}
    yield "rows", (rows, labels), {}


@pytest.mark.parametrize(("source", "more"), [s[1:] for s in sources()], ids=[s[0] for s in sources()])
def test_python_sources(source, more):
    small = datadistill.distill(source, method="random", ipc=2, **more)
    assert torch.bincount(small.y).tolist() == [2, 2, 2]


def test_evaluate_runs_in_a_fresh_process_and_judges_the_stored_bytes():
    protocol = Protocol("tiny", steps=2, full_steps=2, lrs=(0.05,))
    data = blobs()
    verdict = datadistill.evaluate(datadistill.distill(data, method="random", ipc=2), data, protocol)
    assert verdict["verdict"] in ("PASS", "USE-CORESET", "FAIL") and verdict["protocol"]["hash"] == protocol.hash
    assert verdict["data"]["same_as_distilled"] and set(verdict["test_reads"].values()) == {1}


def test_evaluate_on_data_that_do_not_fit():
    small = datadistill.distill(blobs(), method="random", ipc=2)
    with pytest.raises(DistillError) as error:
        datadistill.evaluate(small, blobs(features=3), Protocol("tiny", steps=2, full_steps=2, lrs=(0.05,)))
    assert error.value.exit_code == 4


def test_the_same_seed_is_the_same_set_and_another_is_not():
    one, two, other = (datadistill.distill(blobs(), method="random", ipc=3, seed=s) for s in (0, 0, 1))
    assert one.sha256 == two.sha256 != other.sha256


def test_uneven_budgets_by_class_name():
    small = datadistill.distill(blobs(), method="random", ipc={"0": 1, "1": 2, "2": 5})
    assert torch.bincount(small.y).tolist() == [1, 2, 5]
    with pytest.raises(UsageError, match="class"):
        datadistill.distill(blobs(), method="random", ipc={"0": 1})


def test_a_class_with_one_item_is_kept_and_one_with_none_refused(tmp_path):
    x, y = blobs()
    keep = np.flatnonzero((y != 2) | (np.arange(90) == 2))
    small = datadistill.distill((x[keep], y[keep]), method="random", ipc=3)
    assert torch.bincount(small.y).tolist() == [3, 3, 1]
    from PIL import Image

    for name in ("a", "b", "rare"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for k in range(0 if name == "rare" else 5):
            Image.new("L", (8, 8), 20 * k).save(tmp_path / "photos" / name / f"{k}.png")
    with pytest.raises(BadInput, match="rare"):
        datadistill.distill(tmp_path / "photos", method="random", ipc=1)


def test_out_of_memory_halves_and_changes_nothing(monkeypatch):
    """A machine that cannot embed more than 7 examples at once comes to the same set."""
    from datadistill.memory import Pieces

    plain = datadistill.distill(blobs(), method="dm", ipc=4, iterations=3, width=8)
    honest = Pieces.map

    def small_machine(self, n, work):
        def limited(piece):
            if piece.stop - piece.start > 7:
                raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory")
            return work(piece)

        return honest(self, n, limited)

    monkeypatch.setattr(Pieces, "map", small_machine)
    squeezed = datadistill.distill(blobs(), method="dm", ipc=4, iterations=3, width=8)
    assert torch.allclose(squeezed.x, plain.x, atol=1e-4)
    assert any("out of memory" in note for note in squeezed.about["notes"])


def test_manifest_is_json_and_tells_everything(tmp_path):
    folder = datadistill.distill(blobs(), method="herding", ipc=2, steps=3, out=tmp_path / "set", license="cc0-1.0", source_url="https://example.org") and tmp_path / "set"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["method"]["hyperparameters"]["steps"] == 3 and manifest["data"]["license"] == "cc0-1.0" and manifest["seed"] == 0
    assert manifest["cost"]["seconds"] > 0 and manifest["cost"]["flops"] > 0 and manifest["cost"]["peak_memory_bytes"] > 0
    assert set(manifest["files"]) == {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - {"manifest.json"}
    assert not list(tmp_path.glob(".set*")), "the working folder and the lock are gone or hidden rubbish was left"


def test_distilling_leaves_global_randomness_alone():
    import random

    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    datadistill.distill(blobs(), method="dm", ipc=2, iterations=2, width=8)
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all() and random.getstate() == before[2]


def test_estimator_returns_rows_and_labels_of_the_callers_type():
    x, y = blobs()
    names = np.array(["ant", "bee", "cat"])[y]
    rows, labels = datadistill.Distiller(method="random", ipc=3, random_state=0).fit_resample(x, names)
    assert rows.shape == (9, 4) and labels.tolist() == ["ant"] * 3 + ["bee"] * 3 + ["cat"] * 3
    originals = {tuple(np.float32(r)) for r in x}
    assert all(tuple(np.float32(r)) in originals for r in rows)


def test_estimator_passes_scikit_learns_checks():
    from sklearn.utils.estimator_checks import check_estimator

    results = check_estimator(datadistill.Distiller(method="dm", ipc=2, settings={"iterations": 2, "width": 8}), on_fail=None)
    failed = {r["check_name"]: str(r["exception"])[:200] for r in results if r["status"] == "failed"}
    assert not failed and sum(r["status"] == "passed" for r in results) > 20


def test_quick_settings_for_tables_are_taken_for_tables_alone():
    rows, y = blobs()
    rates = [datadistill.distill((x, y), "dsa", ipc=1, preset="quick", iterations=1, outer=1, width=4, real_batch=8).about["method"]["hyperparameters"]["lr"]
             for x in (rows, DRAW.integers(256, size=(len(y), 8, 8), dtype=np.uint8))]  # fmt: skip
    how = datadistill.methods.get("dsa")
    assert rates == [how.quick_table["lr"], how.quick["lr"]] and rates[0] != rates[1]


def test_what_is_said_of_quick_settings_has_those_of_tables_too(capsys, tmp_path):
    from datadistill.cli.main import run as command

    rows, y = blobs()
    pd.DataFrame(rows, columns=[f"x{k}" for k in range(rows.shape[1])]).assign(y=y).to_csv(tmp_path / "t.csv", index=False)
    assert command(["distill", str(tmp_path / "t.csv"), "--label", "y", "--method", "cafe", "--ipc", "1", "--preset", "quick", "--set", "iterations=1", "--out", str(tmp_path / "a")]) == 0
    said = next(line for line in capsys.readouterr().err.splitlines() if "quick settings" in line)
    assert "iterations=1," in said and "optimizer=adam" in said


def test_unknown_names_are_said():
    with pytest.raises(UsageError, match="no method"):
        datadistill.distill(blobs(), method="magic", ipc=1)
    with pytest.raises(UsageError, match="hyper-parameter"):
        datadistill.distill(blobs(), method="dm", ipc=1, learning_rate=3)
    with pytest.raises(AttributeError):
        datadistill.nothing  # noqa: B018


def test_import_is_lazy():
    code = "import sys, datadistill; assert 'torch' not in sys.modules and 'numpy' not in sys.modules; datadistill.load; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
