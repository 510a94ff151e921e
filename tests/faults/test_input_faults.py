"""What people and attackers hand in, through the command line: told in one message with the right exit code, and never run.

The readers' own tests are in tests/data; here each promise is kept by the whole program.
"""

from __future__ import annotations

import csv
import io
import os
import pickle
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datadistill import Artifact

RANDOM = ("--method", "random", "--ipc", 1)


def pictures(root: Path, classes: dict[bytes, int], mode: str = "L", size: int = 8) -> Path:
    chance = np.random.default_rng(0)
    for name, n in classes.items():
        folder = os.path.join(os.fsencode(root), name)
        os.makedirs(folder)
        for i in range(n):
            with open(os.path.join(folder, b"%d.png" % i), "wb") as file:
                Image.fromarray(chance.integers(0, 256, (size, size), dtype=np.uint8), "L").convert(mode).save(file, "PNG")
    return root


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def pickled(kind: str, canary: Path) -> bytes:
    out = io.BytesIO()
    if kind in (".pt", ".pth"):
        torch.save({"x": Canary(canary)}, out)
    elif kind == ".pkl":
        pickle.dump(Canary(canary), out)
    else:
        objects = np.array([Canary(canary)], dtype=object)
        (np.save if kind == ".npy" else lambda f, a: np.savez(f, x_train=a, y_train=a))(out, objects)
    return out.getvalue()


@pytest.mark.parametrize("kind", [".pt", ".pth", ".pkl", ".npy", ".npz"])
@pytest.mark.parametrize("disguise", [None, ".png", ".csv", ".npz", ".parquet", ".zip"])
def test_pickles_are_refused_by_their_first_bytes_whatever_their_name(cli, tmp_path, kind, disguise):
    source, canary = tmp_path / f"data{disguise or kind}", tmp_path / "canary"
    source.write_bytes(pickled(kind, canary))
    for argv in (("distill", source, "--label", "y", *RANDOM, "--out", tmp_path / "out"), ("inspect", source), ("verify", source), ("report", source)):
        done = cli.run(*argv)
        assert done.code == 4 and "Traceback" not in done.err, done.err
    assert not canary.exists() and not (tmp_path / "out").exists()


def test_pickles_among_the_files_of_an_artifact_or_a_folder_are_never_opened(cli, tmp_path):
    source, canary = pictures(tmp_path / "data", {b"a": 60, b"b": 60}), tmp_path / "canary"
    (source / "a" / "evil.png").write_bytes(pickled(".pkl", canary))
    done = cli.run("distill", source, *RANDOM, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    rejects = list(csv.reader((tmp_path / "out" / "rejects.csv").read_text().splitlines()))
    assert any("evil.png" in row[0] and "pickle" in row[1] for row in rejects)
    (tmp_path / "out" / "samples.safetensors").write_bytes(pickled(".pt", canary))
    assert cli.run("verify", tmp_path / "out").code == 4 and not canary.exists()


def bomb(side: int = 60_000) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("n", [1, 10])
def test_up_to_one_in_a_hundred_bad_files_is_left_out_with_its_name_and_more_is_refused(cli, tmp_path, n):
    source = pictures(tmp_path / "data", {b"a": 60, b"b": 60})
    for i in range(n):
        (source / "b" / f"bad{i}.png").write_bytes(bomb() if i % 2 == 0 else (source / "a" / "0.png").read_bytes()[:40])
    memory = "import resource; resource.setrlimit(resource.RLIMIT_AS, (int(open('/proc/self/statm').read().split()[0]) * 4096 + (512 << 20), -1))\n"
    done = cli.run("distill", source, *RANDOM, "--out", tmp_path / "out", first=memory if sys.platform == "linux" else "")
    assert done.code == (0 if n == 1 else 4), done.err
    assert "bad0.png" in (done.err if n > 1 else (tmp_path / "out" / "rejects.csv").read_text()) and "Traceback" not in done.err


def test_names_that_attack_are_shown_as_text_everywhere(cli, tmp_path):
    names = [b"\xff\xfecat", b"<img src=x onerror=alert(1)>", b"\x1b[2J\x1b[31mred", b"=cmd()|' C calc'!A0", "\u202egnp.exe".encode(), b"a\nb"]
    source = pictures(tmp_path / "data", {name: 20 for name in names})
    done = cli.run("distill", source, *RANDOM, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    for text in (done.out, done.err, page, card, cli.run("inspect", source).out, cli.run("inspect", source, "--json").out):
        assert "\x1b" not in text and "\u202e" not in text
    assert "<img src=x" not in page and "<img src=x" not in card and "onerror=alert" in page
    again = Artifact.load(tmp_path / "out")
    assert sorted(os.fsencode(name) for name in again.spec.classes) == sorted(names)  # nothing is lost
    for to in ("csv", "imagefolder", "npz"):
        target = tmp_path / f"as {to}"
        done = cli.run("export", tmp_path / "out", "--to", to, "--out", target)
        assert done.code == 0 and "\x1b" not in done.out + done.err, done.err
    for path in (tmp_path / "as imagefolder").rglob("*"):
        assert "\x1b" not in path.name and "\n" not in path.name


def test_mixed_modes_and_sizes_become_one_stated_mode(cli, tmp_path):
    source = tmp_path / "data"
    for k, mode in enumerate(("L", "RGB", "RGBA", "P", "1", "I;16", "CMYK", "LA")):
        pixels = Image.fromarray(np.full((8, 8), 32896, np.uint16)) if mode == "I;16" else Image.new("RGB", (8 + k, 8), (200, 20, 20)).convert(mode)
        for name in ("a", "b"):
            (source / name).mkdir(parents=True, exist_ok=True)
            for i in range(4):
                pixels.save(source / name / f"{k}_{i}.{'tiff' if mode in ('CMYK', 'I;16') else 'png'}")
    done = cli.run("distill", source, *RANDOM, "--out", tmp_path / "out")
    assert done.code == 0 and "mode RGB" in done.err and "8 I;16 8x8" in done.err, done.err
    assert Artifact.load(tmp_path / "out").spec.stored[0] == 3


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "link"])
def test_archives_that_climb_out_are_refused(cli, tmp_path, name):
    assert cli.run("distill", "digits", *RANDOM, "--out", tmp_path / "set").code == 0
    path, entry = tmp_path / "set.zip", zipfile.ZipInfo(name)
    entry.external_attr = (0o120777 if name == "link" else 0o100644) << 16
    with zipfile.ZipFile(path, "w") as archive:
        for file in (tmp_path / "set").rglob("*"):
            archive.write(file, file.relative_to(tmp_path / "set"))
        archive.writestr(entry, "/etc/passwd")
    for argv in (("verify", path), ("export", path, "--to", "npz", "--out", tmp_path / "x.npz"), ("evaluate", path, "--data", "digits", "--dry-run"), ("report", path)):
        done = cli.run(*argv)
        assert done.code == 4 and "attack" in done.err, done.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set", "set.zip"]
