"""Tables: CSV, TSV and parquet files, folders of train.* and test.*, and pandas frames, with a label column.

Everything goes through Arrow. A CSV is read as text, and what a column holds is decided later, by the training split alone: whole
numbers, numbers, dates (days since 1970) or categories. "", "?", NA and the like are missing. Columns that are names rather than
categories (more than 50 values, more than 5% of the rows different), row numbers and nested values are left out, with a warning.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ..errors import BadInput, UsageError
from ..modalities import Tabular
from ..progress import Progress
from ..text import safe
from .columns import MISSING, choose, encode, text_of
from .guard import check_room, kind_of
from .raw import SPLIT_WORDS, Ask, Raw

DELIMITERS = (",", ";", "\t", "|")
NAMED = re.compile(r"(train|training|val|valid|validation|dev|test|testing)([-_.].*)?", re.IGNORECASE)
INDEX = re.compile(r"__index_level_\d+__")  # the numbers of rows, as pandas hands them on to parquet and to `datasets`
MIB = 1 << 20
BLOCK = 16 * MIB
SUFFIXES = (".csv", ".tsv", ".parquet")


def read_file(path: Path, ask: Ask) -> Raw:
    """One .csv, .tsv or .parquet file."""
    return _of_files({"train": [path]}, ask)


def read_folder(root: Path, ask: Ask) -> Raw:
    """A folder with train.* and perhaps val.* and test.*; several files of one split (train-00000.parquet, ...) are joined."""
    return _of_files(split_files(root), ask)


def split_files(root: Path) -> dict[str, list[Path]]:
    """split -> its files."""
    found: dict[str, list[Path]] = {}
    for path in sorted(root.iterdir(), key=os.fsencode):
        if path.suffix.lower() in SUFFIXES and path.is_file() and (match := NAMED.fullmatch(path.stem)):
            found.setdefault(SPLIT_WORDS[match[1].lower()], []).append(path)
    return found


def read_frame(frame: Any, ask: Ask) -> Raw:
    """A pandas data frame with a label column."""
    return of_frames({"train": frame}, ask)


def of_frames(frames: Mapping[str, Any], ask: Ask) -> Raw:
    """split -> pandas frame, each with the label column."""
    tables = {split: of_pandas(frame) for split, frame in frames.items()}
    return of_tables("data frame", tables, check_label(tables["train"].column_names, ask.label))


def of_frames_and_labels(pairs: Mapping[str, tuple[Any, Any]], ask: Ask) -> Raw:
    """split -> (data frame, labels), as scikit-learn takes them."""
    from .arrays import label_vector

    tables = {split: of_pandas(frame) for split, (frame, _) in pairs.items()}
    labels = {split: label_vector(np.asarray(y), "y") for split, (_, y) in pairs.items()}
    for split, table in tables.items():
        if table.num_rows != len(labels[split]):
            raise BadInput(f"{split}: {table.num_rows} rows but {len(labels[split])} labels", "one label per row")
    name = getattr(pairs["train"][1], "name", None)
    return of_columns("data frame", tables, labels, str(name) if name is not None else "label")


def _of_files(files: Mapping[str, Sequence[Path]], ask: Ask) -> Raw:
    rejects: list[tuple[str, str]] = []
    warnings: list[str] = []
    kinds = {path: kind_of(path) for paths in files.values() for path in paths}
    tables = {split: _joined([_read(path, kinds[path], rejects, warnings, ask.progress) for path in paths], paths) for split, paths in files.items()}
    label = check_label(tables["train"].column_names, ask.label)
    kind = " and ".join(dict.fromkeys("parquet" if kind == "parquet" else "csv" for kind in kinds.values()))
    raw = of_tables(kind, tables, label, infer="text" in kinds.values())
    raw.rejects += rejects
    raw.warnings += warnings
    return raw


def _read(path: Path, kind: str, rejects: list[tuple[str, str]], warnings: list[str], progress: Progress) -> pa.Table:
    check_room(4 * path.stat().st_size, f"the table {safe(path)}", "fewer rows or columns")
    if kind == "parquet":
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(path) as file, progress.bar(f"reading {path.name} (row groups)", file.num_row_groups) as bar:
                groups = []
                for k in range(file.num_row_groups):
                    groups.append(file.read_row_group(k))
                    bar.advance(1)
                table = pa.concat_tables(groups) if groups else file.schema_arrow.empty_table()
                table.validate(full=True)
                table = table.drop_columns([name for name in table.column_names if INDEX.fullmatch(name)])
        except (pa.ArrowException, OSError, ValueError) as error:
            raise BadInput(f"{safe(path)} is a broken parquet file ({_first_line(error)})", "a whole parquet file") from error
    elif kind == "text":
        table = read_csv(path, rejects, warnings, progress)
    else:
        raise BadInput(f"{safe(path)} is {kind}", "a .csv, .tsv or .parquet file")
    return _distinct(table, safe(path))


def read_csv(path: Path, rejects: list[tuple[str, str]], warnings: list[str], progress: Progress) -> pa.Table:
    """Every cell as text; rows with the wrong number of cells go to `rejects`."""
    import pyarrow.csv as csv

    with open(path, "rb") as file:
        first = file.readline(1 << 16)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(DELIMITERS, key=lambda d: first.count(d.encode()))

    def reject(row: csv.InvalidRow) -> str:
        rejects.append((f"{path.name} row {row.number}", f"{row.actual_columns} cells where {row.expected_columns} were expected"))
        return "skip"

    encoding = "utf8" if _is_utf8(path) else "latin-1"
    if encoding != "utf8":
        warnings.append(f"{safe(path.name)} is not UTF-8: it was read as Latin-1")
    reading = csv.ReadOptions(use_threads=False, encoding=encoding, block_size=BLOCK)  # one thread: rows keep their numbers
    parsing = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=reject)
    before = len(rejects)
    try:
        with csv.open_csv(path, reading, parsing) as head:
            names = head.schema.names
        del rejects[before:]
        text = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), null_values=list(MISSING), strings_can_be_null=True)
        with open(path, "rb") as file, progress.bar(f"reading {path.name} (MiB)", -(-path.stat().st_size // MIB)) as bar:
            batches, at = [], 0
            with csv.open_csv(file, reading, parsing, text) as reader:
                for batch in reader:
                    batches.append(batch)
                    done = -(-file.tell() // MIB)
                    bar.advance(done - at)
                    at = done
            return pa.Table.from_batches(batches, reader.schema)
    except (pa.ArrowException, UnicodeError, ValueError) as error:
        raise BadInput(f"{safe(path)} cannot be read as a table ({_first_line(error)})", "one row per line under a line of column names") from error


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def of_pandas(frame: Any) -> pa.Table:
    """An Arrow table; a column of mixed Python values becomes text."""
    columns: dict[str, Any] = {}
    for k, name in enumerate(frame.columns):
        series = frame.iloc[:, k]
        if str(name) in columns:
            raise BadInput(f"two columns named {safe(name)!r}", "distinct column names")
        try:
            columns[str(name)] = pa.array(series, from_pandas=True)
        except (pa.ArrowException, UnicodeError, OverflowError, TypeError):
            text = [None if v is None or v != v else str(v).encode("utf-8", "backslashreplace").decode() for v in series]
            columns[str(name)] = pa.array(text, pa.string())
    return pa.table(columns)


def check_label(names: Sequence[str], label: str | None) -> str:
    """The label column, which must be one of the columns."""
    if label in names:
        return label
    shown = ", ".join(safe(n, 40) for n in names[:30]) + (f", ... ({len(names)} columns)" if len(names) > 30 else "")
    if label is None:
        raise UsageError(f"a table needs to know which column is the label; it has {shown}", "--label COLUMN", f"--label {safe(names[-1], 40) if names else ''}")
    raise UsageError(f"there is no column {safe(label)!r}", f"--label with one of {shown}")


def of_tables(kind: str, tables: Mapping[str, pa.Table], label: str, infer: bool = False) -> Raw:
    """split -> table with a label column. infer: text may hold numbers and dates (a CSV)."""
    for split, table in tables.items():
        if label not in table.column_names:
            raise BadInput(f"the {split} table has no column {safe(label)!r}", "the columns of the training table")
    labels = {split: label_text(table[label]) for split, table in tables.items()}
    return of_columns(kind, {split: table.drop_columns([label]) for split, table in tables.items()}, labels, label, infer)


def label_text(cells: pa.ChunkedArray) -> np.ndarray:
    """(n,) labels as text, None where missing."""
    try:
        return np.array(text_of(cells).to_pylist(), dtype=object)
    except pa.ArrowException as error:
        raise BadInput(f"a label column of {cells.type}", "numbers or text, one per row") from error


def of_columns(kind: str, tables: dict[str, pa.Table], labels: dict[str, np.ndarray], label: str, infer: bool = False, declared: tuple[str, ...] = ()) -> Raw:
    """split -> table of features, and labels for its rows."""
    total = tables["train"].num_rows

    def finish(parts: dict[str, pa.Table], classes: tuple[str, ...]):
        columns, left_out = choose(parts["train"], infer, total)
        if not columns:
            raise BadInput(f"no column can be used: {'; '.join(left_out)}", "at least one column of numbers or categories")
        raw.warnings += left_out
        for column in columns:
            what = "category" if "values" in column else "date" if "unit" in column else "integer" if column["integer"] else "number"
            raw.modes[f"{what} column"] = raw.modes.get(f"{what} column", 0) + 1
        stored = {split: torch.from_numpy(_cells(table, columns, split, raw.warnings)) for split, table in parts.items()}
        return Tabular(Tabular.spec_of(stored["train"], columns, classes, label)), stored

    raw = Raw(kind, tables, labels, _take, finish, label, declared)
    return raw


def _cells(table: pa.Table, columns: list[dict[str, Any]], split: str, warnings: list[str]) -> np.ndarray:
    """(rows, columns) float32 as `modalities.tabular` stores them."""
    gone = [safe(c["name"]) for c in columns if c["name"] not in table.column_names]
    if gone:
        raise BadInput(f"the {split} table lacks the column{'s' * (len(gone) > 1)} {', '.join(gone[:10])}", "the columns of the training table")
    check_room(4 * table.num_rows * len(columns), f"the {split} table", "fewer rows or columns")
    out = np.empty((table.num_rows, len(columns)), np.float32)
    for k, column in enumerate(columns):
        try:
            out[:, k], odd = encode(table[column["name"]], column)
        except pa.ArrowException as error:
            raise BadInput(f"column {safe(column['name'])!r} of the {split} table holds {table[column['name']].type}", "what it holds in the training table") from error
        if odd and split != "train":
            warnings.append(f"{odd:,} cells of column {safe(column['name'])!r} in {split} hold values that no training row has: they count as missing")
    return out


def _take(table: pa.Table, groups: Sequence[np.ndarray]) -> list[pa.Table]:
    return [table if len(group) == table.num_rows else table.take(pa.array(group)) for group in groups]


def _joined(tables: list[pa.Table], paths: Sequence[Path]) -> pa.Table:
    try:
        return pa.concat_tables(tables, promote_options="permissive") if len(tables) > 1 else tables[0]
    except pa.ArrowException as error:
        raise BadInput(f"{', '.join(safe(p.name) for p in paths[:5])} do not fit together ({_first_line(error)})", "files with the same columns") from error


def _distinct(table: pa.Table, where: str) -> pa.Table:
    twice = sorted({n for n in table.column_names if table.column_names.count(n) > 1})
    if twice:
        raise BadInput(f"{where} has two columns named {safe(twice[0])!r}", "distinct column names")
    return table


def _first_line(error: Exception) -> str:
    return safe((str(error) or type(error).__name__).splitlines()[0], 200)
