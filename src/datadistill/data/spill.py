"""The three splits on disk as safetensors, to hand them to another process."""

from __future__ import annotations

import json
from pathlib import Path

from .. import modalities, store
from ..spec import Spec
from .found import Data, Found
from .task import Real

SPLITS = ("train", "val", "test")


def spill(data: Data, folder: Path) -> None:
    """Write `data` to `folder`, as it is held: stored bytes, labels, spec, and what was found."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in SPLITS:
        real: Real = getattr(data, name)
        store.write_file(folder / f"{name}.safetensors", store.to_bytes({"stored": real.stored, "labels": real.labels}))
    store.write_file(folder / "data.json", json.dumps({"spec": data.train.modality.spec.to_json(), "source": data.found.source}).encode())


def unspill(folder: Path) -> Data:
    """What `spill` wrote."""
    about = json.loads((folder / "data.json").read_text())
    modality = modalities.of(Spec.from_json(about["spec"]))
    parts = [store.from_bytes((folder / f"{name}.safetensors").read_bytes()) for name in SPLITS]
    return Data(*(Real(p["stored"], p["labels"], modality) for p in parts), found=Found.restored(about["source"], modality))
