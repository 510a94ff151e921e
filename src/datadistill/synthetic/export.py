"""Other forms of a set, for other people's loaders: a folder of pictures by class, npz, parquet, CSV, a Hub folder."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

import torch

from .. import store
from ..errors import UsageError
from ..text import csv_cell, safe
from .artifact import Artifact, csv_bytes

FORMATS = ("imagefolder", "npz", "parquet", "csv", "hf")


def export(artifact: Artifact, to: str, out: str | Path) -> Path:
    """Write the set in one of FORMATS to `out`, which must not exist yet (a file for npz, parquet and csv, else a folder)."""
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{safe(out)} exists", "a path that does not exist yet", "another --out")
    if to == "npz":
        _write(out, _npz(artifact))
    elif to == "parquet":
        _write(out, _parquet(artifact))
    elif to == "csv":
        columns = {**artifact.modality.columns(artifact.x, plain=True), artifact.modality.label_column: _names(artifact)}
        rows = [[csv_cell(c) if isinstance(c, str) else "" if c is None else c for c in row] for row in zip(*columns.values(), strict=True)]
        _write(out, csv_bytes([[csv_cell(name) for name in columns], *rows]))
    elif to == "hf":
        store.replace_folder(out, {"data/train-00000-of-00001.parquet": _parquet(artifact, hub=True), "README.md": _hub_card(artifact)})
    elif to == "imagefolder":
        store.replace_folder(out, _pictures(artifact))
    else:
        raise UsageError(f"no export format {safe(to)!r}", f"one of {', '.join(FORMATS)}")
    return out


def _write(out: Path, data: bytes) -> None:
    if out.is_dir():
        shutil.rmtree(out)  # it is empty
    store.write_file(out, data)


def _names(artifact: Artifact) -> list[str]:
    return [artifact.spec.classes[c] for c in artifact.y.tolist()]


def _npz(artifact: Artifact) -> bytes:
    """x_train as stored (pictures channels last), y_train class numbers, classes as UTF-8 JSON bytes; no object arrays."""
    import numpy as np

    x, y = artifact.numpy()
    if x.ndim == 4:  # Keras keeps channels last, and grey pictures without a channel axis
        x = x[:, 0] if x.shape[1] == 1 else np.moveaxis(x, 1, -1)
    arrays = {"x_train": x, "y_train": y, "classes_json": np.frombuffer(json.dumps(artifact.spec.classes).encode(), np.uint8)}
    if "logits" in artifact.labels.tensors():
        arrays["soft_labels_train"] = artifact.labels.targets(torch.arange(len(artifact))).numpy()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _parquet(artifact: Artifact, *, hub: bool = False) -> bytes:
    """The modality's columns and the label: its name, or for the Hub its number with the names in the schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = artifact.modality.columns(artifact.x, plain=False)
    label = artifact.modality.label_column
    table = pa.table({**columns, label: artifact.y.tolist() if hub else [_utf8(n) for n in _names(artifact)]})
    if hub:
        pictures = [name for name, values in columns.items() if isinstance(values[0], dict)]
        features = {f.name: {"dtype": _hub_type(str(f.type)), "_type": "Value"} for f in table.schema}
        features |= {name: {"_type": "Image"} for name in pictures}
        features[label] = {"names": _unique([_utf8(c) for c in artifact.spec.classes]), "_type": "ClassLabel"}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _utf8(name: str) -> str:
    """A name that parquet can hold: bytes that were not UTF-8 become escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def _hub_type(arrow: str) -> str:
    return {"double": "float64", "float": "float32"}.get(arrow, arrow)


def _hub_card(artifact: Artifact) -> bytes:
    from .artifact import card

    text = card(artifact).replace("---\n", '---\nconfigs: [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}]\n', 1)
    return text.encode("utf-8", "replace")


def _pictures(artifact: Artifact) -> dict[str, bytes]:
    previews = [artifact.modality.preview(one) for one in artifact.x]
    if any(p.png is None for p in previews):
        raise UsageError(f"{artifact.modality.name} examples are no pictures", "one of npz, parquet, csv, hf", "--to csv")
    folders = folder_names(artifact.spec.classes)
    return {f"{folders[c]}/{k:05d}.png": p.png or b"" for k, (p, c) in enumerate(zip(previews, artifact.y.tolist(), strict=True))}


def folder_names(classes: tuple[str, ...]) -> list[str]:
    """One folder name per class: separators, NUL and control characters become _, `.` and `..` too, and none occurs twice."""
    clean = []
    for name in classes:
        text = "".join("_" if ch in '/\\:*?"<>|' or ord(ch) < 32 or ord(ch) == 127 else ch for ch in name)[:100]
        text = text.rstrip(". ") or "_"
        while len(os.fsencode(text)) > 200:
            text = text[:-1]
        clean.append("_" + text[1:] if text.startswith(".") else text)
    return _unique(clean)


def _unique(names: list[str]) -> list[str]:
    seen: dict[str, int] = {}
    result = []
    for name in names:
        key = name.casefold()
        seen[key] = seen.get(key, 0) + 1
        result.append(name if seen[key] == 1 else f"{name}_{seen[key]}")
    return result
