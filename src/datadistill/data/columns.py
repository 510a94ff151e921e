"""Columns of a table: what each holds, decided by the training split, and its cells as numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as types

from ..text import safe

MISSING = ("", "?", "NA", "N/A", "n/a", "NaN", "nan", "-nan", "NULL", "null", "None", "#N/A", "<NA>")
NAMES_ABOVE = (50, 0.05)  # a text column with more values than the first and more than this share of the rows holds names, not categories
VALUES_AT_MOST = 256
EXACT = 1 << 24  # float32 holds every whole number up to here
DAYS = 86_400e6  # microseconds


def choose(table: pa.Table, infer: bool, total: int) -> tuple[list[dict[str, Any]], list[str]]:
    """(columns as `Tabular.spec_of` takes them, why others were left out). total: rows of the table before it was split."""
    columns: list[dict[str, Any]] = []
    left_out: list[str] = []
    for name in table.column_names:
        column, why = _describe(table[name], infer, total)
        shown = repr(safe(name, 40))
        if column is None:
            left_out.append(f"column {shown} was left out: {why}")
        else:
            columns.append({"name": name, **column})
            if why:
                left_out.append(f"column {shown}: {why}")
    return columns, left_out


def encode(cells: pa.ChunkedArray, column: dict[str, Any]) -> tuple[np.ndarray, int]:
    """((n,) float32 as stored, how many cells are not missing but hold nothing that the column knows)."""
    cells = plain(cells)
    if "values" in column:
        text = text_of(cells)
        codes = pc.index_in(text, value_set=pa.array(column["values"], pa.string()), skip_nulls=True)
        stored = codes.fill_null(-1).to_numpy().astype(np.float32)
        return stored, int((stored < 0).sum()) - text.null_count
    numbers = _days(cells) if "unit" in column else _numbers(cells)
    with np.errstate(over="ignore"):
        stored = numbers.astype(np.float32)
    stored[np.isinf(stored)] = np.nan
    return stored, int(np.isnan(stored).sum()) - _gaps(cells)


def text_of(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Every cell as text, trimmed; missing where it says so."""
    cells = plain(cells)
    if types.is_floating(cells.type):
        cells = pc.if_else(pc.is_nan(cells), pa.scalar(None, cells.type), cells)
    text = pc.utf8_trim_whitespace(pc.cast(cells, pa.string(), safe=False))
    return pc.if_else(pc.is_in(text, value_set=pa.array(MISSING)), pa.scalar(None, pa.string()), text)


def plain(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Without a dictionary (pandas' categories), and bytes as text."""
    if types.is_dictionary(cells.type):
        cells = pc.cast(cells, cells.type.value_type)
    if types.is_binary(cells.type) or types.is_large_binary(cells.type):
        cells = pa.chunked_array([pa.array([None if v is None else v.decode("utf-8", "backslashreplace") for v in cells.to_pylist()], pa.string())])
    return cells


def _describe(cells: pa.ChunkedArray, infer: bool, total: int) -> tuple[dict[str, Any] | None, str]:
    """(what the column holds, a remark), or (None, why it cannot be used)."""
    cells = plain(cells)
    kind = cells.type
    if types.is_nested(kind):
        return None, f"nested values ({kind})"
    if types.is_null(kind) or _gaps(cells) == len(cells):
        return None, "no training row has a value"
    if types.is_boolean(kind):
        return {"values": ["false", "true"]}, ""
    if types.is_date(kind) or types.is_timestamp(kind):
        return {"integer": types.is_date(kind), "unit": "days since 1970-01-01"}, ""
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_time(kind) or types.is_duration(kind):
        return _number(cells, types.is_integer(kind), total)
    if not (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)):
        return None, f"values of type {kind}"
    text = text_of(cells)
    if infer or text.null_count > cells.null_count:  # a column of numbers turns into text by its "?"
        for target, integer in ((pa.int64(), True), (pa.float64(), False)):
            if (numbers := _cast(text, target)) is not None:
                return _number(numbers, integer, total)
        if infer and _cast(text, pa.timestamp("us")) is not None:
            return {"integer": bool(pc.all(pc.equal(pc.utf8_length(text), 10)).as_py()), "unit": "days since 1970-01-01"}, ""
    return _category(text)


def _number(cells: pa.ChunkedArray, integer: bool, total: int) -> tuple[dict[str, Any] | None, str]:
    numbers = _numbers(cells)
    known = numbers[np.isfinite(numbers)]
    if len(known) == 0:
        return None, "no training row has a finite value"
    if integer and len(numbers) > 10 and numbers[0] >= 0 and numbers[-1] <= total and (np.diff(numbers) > 0).all():
        return None, "it counts the rows"
    large = float(np.abs(known).max())
    return {"integer": integer}, f"whole numbers up to {large:.0f} are kept to 24 bits" if integer and large > EXACT else ""


def _category(text: pa.ChunkedArray) -> tuple[dict[str, Any] | None, str]:
    counts = pc.value_counts(text.drop_null())
    values = dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True))
    many, share = NAMES_ABOVE
    if len(values) > many and len(values) > share * (len(text) - text.null_count):
        return None, f"it holds names rather than categories ({len(values):,} different values in {len(text):,} rows)"
    kept = sorted(values, key=lambda v: (-values[v], v))[:VALUES_AT_MOST]
    remark = "" if len(kept) == len(values) else f"only the {VALUES_AT_MOST} most frequent of {len(values):,} values are kept, the others count as missing"
    return {"values": sorted(kept)}, remark


def _numbers(cells: pa.ChunkedArray) -> np.ndarray:
    """(n,) float64, NaN where missing or no number."""
    if types.is_string(cells.type) or types.is_large_string(cells.type):
        text = text_of(cells)
        if (cast := _cast(text, pa.float64())) is None:  # numbers in training, other text here
            import pandas as pd

            return pd.to_numeric(pd.Series(text.to_pylist(), dtype=object), errors="coerce").to_numpy(np.float64)
        cells = cast
    elif types.is_time(cells.type) or types.is_duration(cells.type):
        cells = pc.cast(cells, pa.int64() if cells.type.bit_width == 64 else pa.int32())
    return pc.cast(cells, pa.float64(), safe=False).to_numpy()


def _days(cells: pa.ChunkedArray) -> np.ndarray:
    """(n,) float64 days since 1970, NaN where missing or no date."""
    if not (types.is_date(cells.type) or types.is_timestamp(cells.type)):
        text = text_of(cells)
        if (cast := _cast(text, pa.timestamp("us"))) is None:
            import pandas as pd

            stamps = pd.to_datetime(pd.Series(text.to_pylist(), dtype=object), errors="coerce", format="ISO8601", utc=True)
            cast = pa.chunked_array([pa.array(stamps.dt.tz_localize(None), pa.timestamp("us"), from_pandas=True, safe=False)])
        cells = cast
    micros = pc.cast(pc.cast(cells, pa.timestamp("us"), safe=False), pa.int64())
    return pc.cast(micros, pa.float64(), safe=False).to_numpy() / DAYS


def _cast(text: pa.ChunkedArray, target: pa.DataType) -> pa.ChunkedArray | None:
    try:
        return pc.cast(text, target)
    except pa.ArrowInvalid:
        return None


def _gaps(cells: pa.ChunkedArray) -> int:
    """How many cells are missing, by any of its names."""
    if types.is_string(cells.type) or types.is_large_string(cells.type) or types.is_string_view(cells.type):
        return text_of(cells).null_count
    return cells.null_count + (pc.sum(pc.is_nan(cells)).as_py() or 0 if types.is_floating(cells.type) else 0)
