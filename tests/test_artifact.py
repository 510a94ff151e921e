"""The artifact: what is saved is what is loaded, identity follows content alone, and damage is always seen."""

import json
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from datadistill import methods
from datadistill.errors import BadInput, DistillError, UsageError
from datadistill.labels import Hard, Soft
from datadistill.rng import rng
from datadistill.run import Run
from datadistill.synthetic import SyntheticSet
from datadistill.synthetic.artifact import Artifact, verify
from datadistill.synthetic.export import FORMATS, export, folder_names
from datadistill.testing import tiny_tasks
from datadistill.text import csv_cell

TASKS = tiny_tasks()


def artifact_of(task, seed=0):
    return Artifact.of(methods.get("random").distill(task, Run(seed)), {"method": {"name": "random"}, "seed": seed, "cost": {"seconds": 1.5}})


@pytest.fixture(params=TASKS)
def artifact(request):
    return artifact_of(TASKS[request.param])


@pytest.fixture
def folder(artifact, tmp_path):
    return artifact.save(tmp_path / "set")


def same(a, b):
    return torch.equal(a.x.nan_to_num(-7), b.x.nan_to_num(-7)) and torch.equal(a.y, b.y) and a.spec == b.spec and a.manifest == b.manifest


def test_round_trip_from_folder_and_zip(artifact, folder, tmp_path):
    assert same(Artifact.load(folder), artifact) and verify(folder) == []
    zipped = shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
    assert same(Artifact.load(zipped), artifact)


def test_soft_labels_round_trip(tmp_path):
    task = next(iter(TASKS.values()))
    n, classes = int(task.quota.sum()), len(task.classes)
    logits = torch.randn(n, classes, generator=rng(0, "logits"))
    syn = SyntheticSet(task.modality.noise(n, rng(0, "x")), Soft(logits), task.modality)
    loaded = Artifact.load(Artifact.of(syn, {}).save(tmp_path / "soft"))
    assert torch.equal(loaded.labels.logits, logits.half())
    assert torch.allclose(loaded.labels.targets(torch.arange(n)).sum(1), torch.ones(n))
    assert loaded.bytes == loaded.x.numel() * loaded.x.element_size() + n * classes * 2


def test_identity_follows_content_and_nothing_else(artifact):
    other = Artifact(artifact.x.clone(), artifact.labels, artifact.modality, {"cost": {"seconds": 99}, "notes": ["slow"]})
    assert other.sha256 == artifact.sha256
    changed = artifact.x.clone()
    changed.view(-1)[0] = changed.view(-1)[0] + 1
    assert Artifact(changed, artifact.labels, artifact.modality).sha256 != artifact.sha256
    relabelled = Hard(torch.roll(artifact.y, 1), len(artifact.spec.classes))
    assert Artifact(artifact.x, relabelled, artifact.modality).sha256 != artifact.sha256


def test_bytes_are_those_of_the_tensors_on_disk(artifact, folder):
    from safetensors.numpy import load_file

    kept = [a for name in ("samples", "labels") for a in load_file(folder / f"{name}.safetensors").values()]
    assert artifact.bytes == sum(a.nbytes for a in kept) == json.loads((folder / "manifest.json").read_text())["budget"]["bytes"]


def test_any_flipped_bit_and_any_truncation_is_found(folder):
    draw = np.random.default_rng(0)
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        whole = file.read_bytes()
        cuts = {0, len(whole) // 2, len(whole) - 1}
        for broken in [whole[:cut] for cut in cuts] + [flip(whole, int(draw.integers(len(whole) * 8))) for _ in range(4)]:
            file.write_bytes(broken)
            if file.name == "manifest.json" and parses_the_same(broken, whole):
                continue
            try:
                problems = verify(folder)
            except DistillError as error:
                assert error.exit_code == 4
            else:
                assert problems, f"{file.name} was broken and verify said nothing"
        file.write_bytes(whole)
    assert verify(folder) == []


def flip(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def parses_the_same(broken, whole):
    """A manifest in which only a fact outside the set (a note, a cost) changed is another true manifest."""
    try:
        a, b = json.loads(broken), json.loads(whole)
        keys = ("sha256", "spec", "files", "format")
        return all(a[k] == b[k] for k in keys)
    except (ValueError, KeyError, TypeError):
        return False


def test_a_file_too_many_and_one_too_few(folder):
    (folder / "extra.txt").write_text("?")
    assert any("extra.txt" in p for p in verify(folder))
    (folder / "extra.txt").unlink()
    (folder / "README.md").unlink()
    assert any("README.md" in p for p in verify(folder))


def test_a_foreign_folder_is_never_replaced(artifact, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years")
    with pytest.raises(DistillError, match="exists"):
        artifact.save(tmp_path / "home")
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years"


def test_loads_without_our_classes(artifact, folder):
    code = "import sys; from safetensors.numpy import load_file; x = load_file(sys.argv[1])['samples']; print(x.shape, x.dtype); assert 'torch' not in sys.modules and 'datadistill' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, str(folder / "samples.safetensors")], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{tuple(artifact.x.shape)} {artifact.spec.dtype}"


def test_to_torch_gives_natural_units_a_normaliser_and_the_recipe(artifact):
    torch_set = artifact.to_torch()
    x, y = torch_set[0]
    assert x.shape == artifact.spec.shape and int(y) == int(artifact.y[0]) and torch_set.recipe.augment
    natural = torch.stack([torch_set[k][0] for k in range(len(torch_set))])
    assert torch.allclose(torch_set.normalise(natural), artifact.read(torch.arange(len(artifact))), atol=1e-5)


def test_exports_hold_the_same_examples(artifact, tmp_path):
    import pandas as pd

    npz = np.load(export(artifact, "npz", tmp_path / "s.npz"), allow_pickle=False)
    stored = npz["x_train"]
    again = torch.from_numpy(stored[:, None] if stored.ndim == 3 else stored)
    assert torch.equal(again.nan_to_num(-7), artifact.x.nan_to_num(-7)) and npz["y_train"].tolist() == artifact.y.tolist()
    names = [artifact.spec.classes[c] for c in artifact.y.tolist()]
    for to, read, shown in (("csv", pd.read_csv, csv_cell), ("parquet", pd.read_parquet, str)):
        frame = read(export(artifact, to, tmp_path / f"s.{to}"))
        assert [str(v) for v in frame[artifact.modality.label_column]] == [shown(n) for n in names]
    hub = export(artifact, "hf", tmp_path / "hub")
    assert len(pd.read_parquet(hub / "data")) == len(artifact)


def test_pictures_become_a_folder_of_classes_and_rows_refuse(tmp_path):
    from PIL import Image

    for name, task in TASKS.items():
        artifact = artifact_of(task)
        if artifact.modality.preview(artifact.x[0]).png is None:
            with pytest.raises(UsageError, match="no pictures"):
                export(artifact, "imagefolder", tmp_path / name)
            continue
        out = export(artifact, "imagefolder", tmp_path / name)
        pixels = {int(p.stem): np.asarray(Image.open(p)) for p in out.rglob("*.png")}
        assert sorted(pixels) == list(range(len(artifact)))
        first = artifact.x[0].squeeze(0).numpy() if artifact.x.shape[1] == 1 else artifact.x[0].permute(1, 2, 0).numpy()
        assert np.array_equal(pixels[0], first)


def test_unknown_format_and_occupied_place(artifact, tmp_path):
    with pytest.raises(UsageError, match="one of"):
        export(artifact, "pickle", tmp_path / "p")
    (tmp_path / "there").write_text("mine")
    for to in FORMATS:
        with pytest.raises(DistillError):
            export(artifact, to, tmp_path / "there")
    assert (tmp_path / "there").read_text() == "mine"


def test_hostile_class_names_make_harmless_folders():
    names = ("..", ".", "a/b", "", "/etc/passwd", "A", "a", "x\x00y", "caf\udce9", "." * 300, "con:", "é" * 300)
    folders = folder_names(names)
    assert len({f.casefold() for f in folders}) == len(names)
    for folder in folders:
        assert folder and "/" not in folder and "\\" not in folder and "\x00" not in folder and not folder.startswith(".") and len(folder.encode("utf-8", "surrogateescape")) < 255


def test_a_newer_format_says_so(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(BadInput, match="format 99"):
        Artifact.load(folder)


def test_a_zip_that_climbs_out_is_refused(folder, tmp_path):
    evil = tmp_path / "evil.zip"
    with zipfile.ZipFile(evil, "w") as z:
        for file in folder.rglob("*"):
            if file.is_file():
                z.write(file, file.relative_to(folder))
        z.writestr("../escaped.txt", "out")
    with pytest.raises(BadInput):
        Artifact.load(evil)
    assert not (tmp_path / "escaped.txt").exists()
