"""Which reader takes a source: one table, asked from the top."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import BadInput
from ..text import safe
from . import guard
from .raw import Ask, Raw


@dataclass(frozen=True)
class Reader:
    """`takes(source)` says yes to its sources; `module:function` reads them (imported when needed)."""

    takes: Callable[[Any], bool]
    reads: str


def _text(source: Any) -> bool:
    return isinstance(source, (str, os.PathLike))


def _of(module: str, name: str) -> Callable[[Any], bool]:
    """Whether the source's class, or one it inherits from, is this one; nothing is imported for the question."""
    return lambda source: any(c.__module__.split(".")[0] == module and c.__name__ == name for c in type(source).__mro__)


def _saved_dataset(path: Path) -> bool:
    return (path / "dataset_dict.json").is_file() or ((path / "dataset_info.json").is_file() and (path / "state.json").is_file())


def _table_folder(path: Path) -> bool:
    from .table import split_files

    return "train" in split_files(path)


def _only_file(path: Path) -> Path | None:
    """The one data file of a folder that holds no folders: as good as the file itself."""
    from .folder import class_folders, data_files

    files = data_files(path)
    return files[0] if len(files) == 1 and not class_folders(path) else None


OBJECTS = (
    Reader(lambda s: isinstance(s, str) and s == "digits", "digits:read"),
    Reader(lambda s: isinstance(s, str) and s.startswith("hf:"), "hub:read"),
    Reader(_text, "sources:read_path"),
    Reader(lambda s: _of("datasets", "Dataset")(s) or _of("datasets", "DatasetDict")(s), "hub:read_object"),
    Reader(_of("pandas", "DataFrame"), "table:read_frame"),
    Reader(lambda s: _of("torch", "Dataset")(s), "items:read"),
    Reader(lambda s: isinstance(s, Mapping), "objects:read_mapping"),
    Reader(lambda s: isinstance(s, (tuple, list)), "objects:read_pair"),
    Reader(lambda s: hasattr(s, "__getitem__") and hasattr(s, "__len__") and not hasattr(s, "dtype"), "items:read"),
)

def _tar_folder(path: Path) -> bool:
    from .webdataset import files

    return bool(files(path))


def _parquet_folder(path: Path) -> bool:
    from . import parquet

    return parquet.takes(path)


def _distilled(path: Path) -> bool:
    return (path / "manifest.json").is_file() and (path / "samples.safetensors").is_file()


FOLDERS = (
    Reader(_distilled, "sources:refuse_distilled"),
    Reader(_saved_dataset, "hub:read_folder"),
    Reader(_tar_folder, "webdataset:read"),
    Reader(_parquet_folder, "parquet:read"),
    Reader(_table_folder, "table:read_folder"),
    Reader(lambda path: _only_file(path) is not None, "sources:read_only_file"),
    Reader(lambda path: True, "folder:read"),
)

FILES = {"npz": "npz:read", "tar": "webdataset:read", "parquet": "sources:read_parquet", "text": "table:read_file", "arrow": "hub:read_arrow"}
PACKED = frozenset({"zip", "gzip", "bzip2", "xz", "zstd", "7z", "rar"})
EXPECTED = (
    "'digits', a folder with one sub-folder of images per class, an .npz, .csv, .tsv or .parquet file, a folder with train.* and test.* of those, "
    "webdataset shards (.tar), hf:NAME, or a saved datasets folder; from Python also (X, y), a dict of arrays, a torch Dataset or a pandas frame"
)


def read(source: Any, ask: Ask) -> Raw:
    """What the first reader that takes the source finds in it."""
    for reader in OBJECTS:
        if reader.takes(source):
            return _call(reader.reads, source, ask)
    raise BadInput(f"a source of type {type(source).__name__}", EXPECTED)


def read_path(source: str | os.PathLike[str], ask: Ask) -> Raw:
    """A file or a folder."""
    path = Path(os.fsdecode(source)).expanduser()
    if not os.fsdecode(source) or "\0" in str(path):
        raise BadInput(f"the name {safe(source)!r}", EXPECTED)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return _call(next(r for r in FOLDERS if r.takes(path)).reads, path, ask)
        if stat.S_ISREG(mode):
            return _read_file(path, ask)
    except FileNotFoundError as error:
        raise BadInput(f"{safe(error.filename or path)} does not exist", EXPECTED) from error
    except OSError as error:  # no permission, a name too long, a broken disk
        raise BadInput(f"{safe(error.filename or path)} cannot be read ({safe(error.strerror or error)})", EXPECTED) from error
    raise BadInput(f"{safe(path)} is neither a file nor a folder", EXPECTED)


def read_only_file(path: Path, ask: Ask) -> Raw:
    """A folder whose one data file is meant."""
    file = _only_file(path)
    assert file is not None
    return _read_file(file, ask)


def refuse_distilled(path: Path, ask: Ask) -> Raw:
    """A set that was made here is not made smaller again."""
    raise BadInput(f"{safe(path)} is a distilled set, not data", EXPECTED, f"`datadistill report {safe(path)}` shows it, `verify` checks it, `export` writes it as pictures or CSV")


def read_parquet(path: Path, ask: Ask) -> Raw:
    """A table, or encoded pictures with labels."""
    from . import parquet

    return _call("table:read_file" if parquet.picture_column(path) is None else "parquet:read", path, ask)


def _read_file(path: Path, ask: Ask) -> Raw:
    kind = guard.kind_of(path)
    if kind in PACKED:
        raise BadInput(
            f"{safe(path)} is an archive ({kind}); archives may hold links and paths that leave their folder, so they are not unpacked here",
            EXPECTED,
            "unpack it into a folder of its own and give the folder" + ("; or gunzip it, if it is a webdataset shard" if kind == "gzip" else ""),
        )
    if kind not in FILES:
        alone = kind in guard.PICTURES or kind == "npy"
        raise BadInput(f"{safe(path)} is {'one ' if alone else 'a file of kind '}{kind}{' without labels' if alone else ''}", EXPECTED)
    return _call(FILES[kind], path, ask)


def _call(reads: str, source: Any, ask: Ask) -> Raw:
    module, function = reads.split(":")
    return getattr(import_module(f".{module}", __package__), function)(source, ask)


def shown(source: Any) -> str:
    """How a source is named to a person."""
    if _text(source):
        return safe(os.fsdecode(source), 200)
    return f"{type(source).__name__} in memory"
