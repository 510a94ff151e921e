"""Sets of the `datasets` library: from the Hub (hf:NAME or hf:NAME:CONFIG), saved to disk, one .arrow file, or in memory.

No code of a set is run (datasets 4 and later run none). Images are decoded here, not by datasets, from the bytes in the set; one that
only names a file is read if the file lies in the set's own folder or in the Hub's cache.
"""

from __future__ import annotations

import os
import secrets
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from ..errors import BadInput, DistillError, UsageError
from ..extras import need
from ..text import safe
from .pictures import FILE_BYTES, Items, Rejected, decode_all, opened
from .raw import SPLIT_WORDS, SPLITS, Ask, Raw

LABEL_WORDS = ("label", "labels", "target", "class", "y")


def read(source: str, ask: Ask) -> Raw:
    """hf:NAME or hf:NAME:CONFIG, downloaded by `datasets` into its own cache."""
    datasets = need("datasets", "data")
    name, _, config = source.removeprefix("hf:").partition(":")
    with _loading(datasets, f"the set {safe(name)!r}"):
        loaded = datasets.load_dataset(name, config or None)
    return of_splits("hub", _splits(loaded), ask, [Path(datasets.config.HF_CACHE_HOME)])


def read_folder(path: Path, ask: Ask) -> Raw:
    """A folder written by `save_to_disk`."""
    datasets = need("datasets", "data")
    with _loading(datasets, safe(path)):
        loaded = datasets.load_from_disk(str(path))
    return of_splits("datasets folder", _splits(loaded), ask, [path])


def read_arrow(path: Path, ask: Ask) -> Raw:
    """One .arrow file."""
    datasets = need("datasets", "data")
    with _loading(datasets, safe(path)):
        loaded = datasets.Dataset.from_file(str(path))
    return of_splits("arrow", {"train": loaded}, ask, [path.parent])


def read_object(source: Any, ask: Ask) -> Raw:
    """A Dataset or DatasetDict in memory."""
    return of_splits("dataset", _splits(source), ask, None)


@contextmanager
def _loading(datasets: ModuleType, what: str) -> Iterator[None]:
    """Errors as ours; no bars of its own on the terminal."""
    silent = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    except (DistillError, MemoryError):
        raise
    except Exception as error:  # it raises errors of a dozen libraries
        text = (str(error) or type(error).__name__).splitlines()[0]
        raise BadInput(f"{what} cannot be loaded by datasets ({safe(text, 300)})", "a set on the Hub, or a folder written by save_to_disk") from error
    finally:
        if not silent:
            datasets.enable_progress_bars()


def _splits(loaded: Any) -> dict[str, Any]:
    """split -> Dataset; a single split, whatever its name, is the training split."""
    if not isinstance(loaded, Mapping):
        return {"train": loaded}
    named = {SPLIT_WORDS[name.lower()]: part for name, part in loaded.items() if name.lower() in SPLIT_WORDS}
    if "train" not in named and len(loaded) == 1:
        return {"train": next(iter(loaded.values()))}
    if "train" not in named:
        raise BadInput(f"splits {', '.join(safe(n) for n in loaded)}", "one called train")
    return named


def of_splits(kind: str, splits: dict[str, Any], ask: Ask, roots: list[Path] | None) -> Raw:
    """split -> Dataset. roots: folders that images may be read from (None: any; the set is the caller's own object)."""
    from .table import INDEX

    if splits["train"].features is None:
        raise BadInput("a set that does not say what its columns are", "a set with features")
    splits = {split: part.remove_columns([name for name in part.column_names if INDEX.fullmatch(name)]) for split, part in splits.items()}
    features = splits["train"].features
    label = _label(features, ask.label)
    for split, part in splits.items():
        if part.features is None or set(part.features) != set(features):
            raise BadInput(f"the {split} split has other columns than train", "the same columns in every split")
    names = getattr(features[label], "names", None)
    declared = tuple(names) if names else ()
    pictures = [name for name, feature in features.items() if type(feature).__name__ == "Image" and name != label]
    if pictures:
        return _images(kind, splits, ask, label, declared, pictures[0], roots)
    return _table(kind, splits, label, declared)


def _label(features: Mapping[str, Any], asked: str | None) -> str:
    if asked is not None:
        if asked not in features:
            raise UsageError(f"there is no column {safe(asked)!r}", f"--label with one of {', '.join(safe(n, 40) for n in list(features)[:30])}")
        return asked
    classes = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    likely = classes if len(classes) == 1 else [name for name in LABEL_WORDS if name in features][:1]
    if not likely:
        raise UsageError("the set does not say which column is the label", f"--label with one of {', '.join(safe(n, 40) for n in list(features)[:30])}")
    return likely[0]


def _values(part: Any, label: str, declared: tuple[str, ...]) -> np.ndarray:
    from .table import label_text

    column = part.select_columns([label]).with_format("arrow")[:][label]
    try:
        column.validate(full=True)
        if declared:
            return column.fill_null(-1).to_numpy().astype(np.int64)
    except pa.ArrowException as error:
        raise BadInput(f"the labels are broken ({safe(error)})") from error
    return label_text(column)


def _images(kind: str, splits: dict[str, Any], ask: Ask, label: str, declared: tuple[str, ...], column: str, roots: list[Path] | None) -> Raw:
    from .folder import of_pictures, stamp
    from .split import class_numbers

    labels = {split: _values(part, label, declared) for split, part in splits.items()}
    classes, numbers = class_numbers(labels, declared)
    inside = None if roots is None else [os.path.realpath(root) for root in roots]
    ends = np.cumsum([0, *map(len, splits.values())])

    def openers(which: np.ndarray) -> Iterator[Callable[[], BinaryIO]]:
        for k, part in enumerate(splits.values()):
            own = which[(which >= ends[k]) & (which < ends[k + 1])] - ends[k]
            yield from (partial(_opener, value, inside) for value in _encoded(part, column, own, read=roots is not None))

    stamps = [stamp(Path(file["filename"])) for part in splits.values() for file in part.cache_files]
    key = repr([*(getattr(part, "_fingerprint", None) or secrets.token_hex() for part in splits.values()), *stamps])
    pictures = decode_all(Items(int(ends[-1]), openers, f"datasets {kind} {column} {inside or ''}", key), ask)
    split = np.concatenate([np.full(len(part), SPLITS.index(name)) for name, part in splits.items()])
    raw = of_pictures(kind, pictures, split, np.concatenate([numbers[name] for name in splits]), classes)
    raw.label = label
    names, starts = list(splits), ends.tolist()
    raw.rejects = [(f"{names[at]} row {k - starts[at] + 1}", reason) for k, reason in sorted(pictures.rejects.items()) for at in [bisect_right(starts, k) - 1]]
    return raw


def _encoded(part: Any, column: str, rows: np.ndarray, read: bool) -> Iterator[Any]:
    """The column's cells in those rows (ascending), undecoded. read: the set is whole and lies in files of its own, which then are read
    one batch after the other, where `datasets` maps them: mapped pages would count as this process's memory.
    """
    from datasets import Image

    files = [file["filename"] for file in part.cache_files]
    if not (read and files and getattr(part, "_indices", None) is None):
        cells = part.select_columns([column]).with_format(None).cast_column(column, Image(decode=False))
        yield from (cells[row][column] for row in rows.tolist())
        return
    first, left = 0, rows
    for file in files:
        with pa.OSFile(file, "rb") as source, pa.ipc.open_stream(source) as batches:
            for batch in batches:
                own, left = left[left < first + len(batch)], left[left >= first + len(batch)]
                cells = batch.column(column)
                yield from (cells[row - first].as_py() for row in own.tolist())
                first += len(batch)
    if len(left):
        raise BadInput(f"{len(left):,} rows fewer in the files of the set than it says", "a whole set", "download or save it again")


def _opener(value: Any, roots: list[str] | None) -> BinaryIO:
    value = {"bytes": value, "path": None} if isinstance(value, bytes) else {"bytes": None, "path": value} if isinstance(value, str) else value
    if value is None:
        raise Rejected("no image")
    if value["bytes"] is not None:
        return opened(value["bytes"])
    path = os.path.realpath(value["path"] or "")
    if not os.path.isfile(path) or (roots is not None and not any(path.startswith(root + os.sep) for root in roots)):
        raise Rejected("a path that is no file of the set")
    if os.path.getsize(path) > FILE_BYTES:
        raise Rejected("too large a file")
    return open(path, "rb")


def _table(kind: str, splits: dict[str, Any], label: str, declared: tuple[str, ...]) -> Raw:
    import datasets

    from .table import of_columns

    labels = {split: _values(part, label, declared) for split, part in splits.items()}
    tables = {}
    for split, part in splits.items():
        with _loading(datasets, f"the {split} split"):
            table = part.with_format("arrow")[:].drop_columns([label])
            table.validate(full=True)
        for name, feature in part.features.items():
            if name != label and type(feature).__name__ == "ClassLabel":  # class numbers are categories, not numbers
                codes = table[name].combine_chunks().cast(pa.int32())
                words = pa.DictionaryArray.from_arrays(codes, pa.array(feature.names)).cast(pa.string())
                table = table.set_column(table.column_names.index(name), name, words)
        tables[split] = table
    return of_columns(kind, tables, labels, label, declared=declared)
