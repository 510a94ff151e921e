"""A folder with one sub-folder of images per class, or train/, val/, test/ of those.

Below a class's folder images may lie at any depth. A link is followed only to a file inside the folder; anything but a regular
file is rejected unopened (a pipe would block for ever). Hidden files are passed over, and so are files that are no images by name
or content, with a warning; pickles among them are rejected.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from ..errors import BadInput
from ..modalities import Image
from ..text import safe
from .guard import HEAD, PICTURES, magic, pickled
from .pictures import FILE_BYTES, Rejected, decode_all
from .raw import SPLIT_WORDS, Ask, Raw, carve

SUFFIXES = frozenset({".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"})
OTHERS = frozenset({".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".svg", ".ico", ".ppm", ".pgm", ".pbm", ".tga", ".psd", ".exr", ".hdr", ".dcm"})
IGNORED = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


def read(root: Path, ask: Ask) -> Raw:
    """Everything in the folder, decoded."""
    real_root = os.path.realpath(root)
    splits, notes = _splits(root)
    classes = sorted({folder.name for folders in splits.values() for folder in folders}, key=_by_number(splits))
    number = {name: c for c, name in enumerate(classes)}
    paths: list[Path] = []
    where: list[tuple[str, int]] = []
    other: list[str] = []
    rejects: list[tuple[str, str]] = []
    with ask.progress.bar("listing folders", sum(map(len, splits.values()))) as bar:
        for split, folder in [(split, folder) for split, folders in splits.items() for folder in folders]:
            for path, reason in _files(folder, real_root):
                if reason is None:
                    paths.append(path)
                    where.append((split, number[folder.name]))
                elif reason:
                    rejects.append((_name(path, root), reason))
                else:
                    other.append(_name(path, root))
            bar.advance(1)
    if other and not paths and not rejects:
        kinds = sorted({safe(os.path.splitext(name)[1].lower()) or "no suffix" for name in other})
        raise BadInput(
            f"no images in the {len(classes)} class folders of {safe(root)}, only files with {', '.join(kinds[:5])}",
            "PNG, JPEG, WebP, BMP, GIF or TIFF images in one sub-folder per class",
        )
    pictures = decode_all([partial(_opener, path) for path in paths], ask.progress, ask.size)
    rejects += [(_name(paths[k], root), reason) for k, reason in sorted(pictures.rejects.items())]
    if other:
        notes.append(f"{len(other):,} files that are no images were passed over (e.g. {safe(other[0])})")
    raw = of_pictures("image folder", pictures, [where[k] for k in pictures.kept], tuple(classes))
    raw.rejects, raw.warnings = rejects, notes + raw.warnings
    return raw


def of_pictures(kind: str, pictures, where: list[tuple[str, int]], classes: tuple[str, ...], flip: bool = True) -> Raw:
    """Decoded pictures, where[k] = (split, class number) of the k-th; the splits stand one after the other."""
    splits = list(dict.fromkeys(split for split, _ in where))
    rows = {split: np.array([k for k, (s, _) in enumerate(where) if s == split], dtype=int) for split in splits}
    parts = dict(zip(splits, carve(pictures.pixels, [rows[s] for s in splits]), strict=True)) if splits else {}
    labels = {split: np.array([where[k][1] for k in rows[split]], dtype=np.int64) for split in splits}

    def finish(parts: dict[str, np.ndarray], classes: tuple[str, ...]):
        stored = {split: torch.from_numpy(pixels) for split, pixels in parts.items()}
        return Image(Image.spec_of(stored["train"], classes, mode=pictures.mode, flip=flip)), stored

    parts.setdefault("train", np.zeros((0, 1, 1, 1), np.uint8))
    labels.setdefault("train", np.zeros(0, np.int64))
    return Raw(kind, parts, labels, carve, finish, declared=classes, modes=pictures.modes, warnings=list(pictures.warnings))


def class_folders(root: Path) -> list[Path]:
    """The sub-folders, hidden ones and other programs' litter left out. A link that leaves the root is refused."""
    real_root = os.path.realpath(root)
    found = []
    for entry in sorted(os.scandir(root), key=lambda e: os.fsencode(e.name)):
        if entry.name.startswith(".") or entry.name.lower() in IGNORED or not entry.is_dir():
            continue
        if entry.is_symlink() and not _inside(entry.path, real_root):
            raise BadInput(f"the folder {safe(entry.name)!r} is a link that leaves {safe(root)}", "folders inside it", "copy the folder there")
        found.append(Path(entry.path))
    return found


def _splits(root: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """split -> its class folders, and notes. It is a folder of splits if it has a `train` that holds folders and no images itself."""
    folders = class_folders(root)
    by_word = {SPLIT_WORDS[f.name.lower()]: f for f in folders if f.name.lower() in SPLIT_WORDS}
    if "train" in by_word and (inside := class_folders(by_word["train"])) and not _has_images(by_word["train"]):
        left = [safe(f.name) for f in folders if f not in by_word.values()]
        notes = [f"left out, because they are no splits: {', '.join(left)}"] if left else []
        rest = {split: class_folders(by_word[split]) for split in ("val", "test") if split in by_word}
        return {"train": inside, **{split: folders for split, folders in rest.items() if folders}}, notes
    if not folders:
        raise BadInput(
            f"{safe(root)} has no sub-folders" + (" but images of its own" if _has_images(root) else ""),
            "one sub-folder of images per class, or train.csv/test.csv (or .tsv, .parquet)",
            f"give the file instead: {safe(files[0])}" if (files := data_files(root)) else "",
        )
    if by_word and len(by_word) == len(folders) and "train" not in by_word:
        raise BadInput(f"{safe(root)} has {', '.join(safe(f.name) for f in folders)} but no train folder", "train/, and val/ and test/ if there are any")
    return {"train": folders}, []


def _by_number(splits: dict[str, list[Path]]) -> Callable[[str], tuple]:
    """Sort class names that are all numbers by value."""
    if all(f.name.isascii() and f.name.isdigit() for folders in splits.values() for f in folders):
        return lambda name: (int(name), name)
    return lambda name: (name,)


def _files(folder: Path, real_root: str) -> Iterator[tuple[Path, str | None]]:
    """(path, None for an image to read | the reason to reject it | "" for a file that is no image), in a stable order."""
    for at, inner, files in os.walk(folder, onerror=_raise):
        inner.sort(key=os.fsencode)
        for name in [d for d in inner if os.path.islink(os.path.join(at, d))]:
            yield Path(at, name), "a link to a folder"
        inner[:] = [d for d in inner if not d.startswith(".") and d.lower() not in IGNORED]
        for name in sorted(files, key=os.fsencode):
            if not name.startswith(".") and name.lower() not in IGNORED:
                path = Path(at, name)
                yield path, _judge(path, real_root)


def _raise(error: OSError) -> None:
    raise error


def _judge(path: Path, real_root: str) -> str | None:
    try:
        if path.is_symlink() and not _inside(path, real_root):
            return "a link that leaves the folder"
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            return "no regular file"
        if info.st_size > FILE_BYTES:
            return f"a file of {info.st_size:,} bytes, more than {FILE_BYTES:,}"
        if path.suffix.lower() in SUFFIXES | OTHERS:  # images all; those that cannot be decoded here are rejected by their content
            return None
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    kind = magic(head)
    return None if kind in PICTURES else f"{what}: never opened" if (what := pickled(path, head, kind)) else ""


def _opener(path: Path) -> BinaryIO:
    if path.stat().st_size == 0:
        raise Rejected("an empty file")
    return open(path, "rb")


def _has_images(folder: Path) -> bool:
    return any(entry.is_file() and Path(entry.name).suffix.lower() in SUFFIXES for entry in os.scandir(folder))


def data_files(folder: Path) -> list[Path]:
    """Files in it that are a source by themselves."""
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in (".npz", ".csv", ".tsv", ".parquet", ".arrow"))


def _inside(path: os.PathLike[str] | str, real_root: str) -> bool:
    return os.path.realpath(path).startswith(real_root.rstrip(os.sep) + os.sep)


def _name(path: Path, root: Path) -> str:
    return os.path.relpath(path, root)
