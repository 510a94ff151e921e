"""An artifact that was truncated, changed, swapped or made to deceive is found, by name, and is never anything but bad input."""

from __future__ import annotations

import json
import random
import shutil
import zipfile
from pathlib import Path

import pytest

from datadistill import Artifact, methods, store
from datadistill.errors import BadInput, DistillError
from datadistill.run import Run
from datadistill.synthetic.artifact import verify
from datadistill.testing import tiny_tasks

TASKS = tiny_tasks()


@pytest.fixture(params=TASKS)
def folder(request, tmp_path) -> Path:
    task = TASKS[request.param]
    about = {"method": {"name": "random"}, "seed": 0, "cost": {"seconds": 1.5, "flops": float("inf")}, "curve": [{"step": 0, "loss": 0.1}]}
    artifact = Artifact.of(methods.get("random").distill(task, Run(0)), about)
    artifact.files["report.html"] = b"<!doctype html>" * 300
    return artifact.save(tmp_path / "set")


def found(path: Path, name: str) -> None:
    """`verify` says so, naming the file where it can tell; `load` refuses; both as bad input."""
    try:
        wrong = "; ".join(verify(path))
    except DistillError as error:
        assert error.exit_code == 4
        wrong = str(error)
    assert wrong and (name in wrong or name == "manifest.json"), wrong
    with pytest.raises(BadInput):
        Artifact.load(path)


def test_a_file_cut_off_anywhere_is_found(folder):
    for file in [p for p in folder.rglob("*") if p.is_file()]:
        whole = file.read_bytes()
        for cut in {*range(0, len(whole), 16 if len(whole) < 500 else 512), len(whole) - 1}:
            file.write_bytes(whole[:cut])
            found(folder, file.relative_to(folder).as_posix())
        file.write_bytes(whole)
    assert verify(folder) == []


def test_any_flipped_bit_is_found(folder):
    chance, files = random.Random(0), [p for p in folder.rglob("*") if p.is_file()]
    for k in range(200):
        file = folder / "manifest.json" if k % 2 else chance.choice(files)
        whole = file.read_bytes()
        at = chance.randrange(len(whole))
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :])
        found(folder, file.relative_to(folder).as_posix())
        file.write_bytes(whole)
    assert verify(folder) == []


def test_a_truncated_or_changed_zip_is_found(folder, tmp_path):
    path, chance = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", folder)), random.Random(1)
    whole, true = path.read_bytes(), Artifact.load(path)
    for cut in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:cut])
        found(path, "")
    for _ in range(150):
        at = chance.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :])
        try:
            loaded = Artifact.load(path)
        except BadInput:
            continue
        assert loaded.sha256 == true.sha256 and loaded.manifest == true.manifest  # a date or a flag of the zip's own


def test_files_that_are_missing_exchanged_or_too_many_are_found(folder):
    samples, labels = folder / "samples.safetensors", folder / "labels.safetensors"
    one, other = samples.read_bytes(), labels.read_bytes()
    samples.unlink()
    found(folder, "samples.safetensors")
    samples.write_bytes(other)
    labels.write_bytes(one)
    found(folder, "labels.safetensors")
    samples.write_bytes(one)
    labels.write_bytes(other)
    (folder / "extra.pkl").write_bytes(b"\x80\x04")
    found(folder, "extra.pkl")
    (folder / "extra.pkl").unlink()
    for name in (".DS_Store", ".cache/huggingface/download/x.metadata", ".gitattributes"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert verify(folder) == [] and Artifact.load(folder)


@pytest.mark.parametrize("change", [
    lambda m: m.pop("sha256"), lambda m: m.pop("spec"), lambda m: m.pop("files"), lambda m: m.update(files=[]), lambda m: m.update(sha256=7),
    lambda m: m["files"].update({"../../etc/passwd": {"sha256": "0" * 64, "bytes": 1}}), lambda m: m["files"].update({"x": {"sha256": None}}),
    lambda m: m["spec"].update(shape=[10**9, 10**9]), lambda m: m["spec"].update(modality="nonsense"), lambda m: m["spec"].update(classes=[]),
    lambda m: m["spec"].update(classes=["a"]), lambda m: m.update(spec=[]), lambda m: m.update(form={"name": "nonsense"}), lambda m: m.update(form=3),
    lambda m: m["spec"].update(facts=7), lambda m: m["spec"].update(stored=["x"]), lambda m: m.update(format="one"),
])  # fmt: skip
def test_a_manifest_made_to_deceive_is_bad_input(folder, change, monkeypatch):
    from datadistill.synthetic import artifact

    manifest = json.loads((folder / "manifest.json").read_bytes())
    change(manifest)
    manifest["digest"] = artifact._digest(manifest)  # an attacker can count too
    (folder / "manifest.json").write_text(json.dumps(manifest))
    claimed = property(lambda self: manifest.get("sha256"))
    monkeypatch.setattr(Artifact, "sha256", claimed)
    with pytest.raises(BadInput):
        Artifact.load(folder)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '"x"', "[" * 10**5, '{"format": 1, "files": {"x": 1}, "sha256": ""}', '{"format": 1e999}'])
def test_a_manifest_that_is_none_is_bad_input(folder, text):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(BadInput):
        Artifact.load(folder)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "preview/../../evil", "link"])
def test_an_archive_that_climbs_out_is_refused_whole(folder, tmp_path, name):
    path = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", folder))
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (0o120777 if name == "link" else 0o100644) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry, "/etc/passwd")
    for read in (Artifact.load, verify, store.read_folder):
        with pytest.raises(BadInput, match="attack"):
            read(path)
    assert not list(tmp_path.parent.glob("evil"))
