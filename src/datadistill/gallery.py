"""The synthetic examples worth showing, each beside its nearest real neighbour."""

from __future__ import annotations

import base64
import json

import torch
from torch import Tensor

from .data.task import Real
from .modalities import Preview
from .report import Item
from .synthetic.artifact import Artifact

MOST = 100


def chosen(artifact: Artifact, most: int = MOST) -> Tensor:
    """At most `most` examples, the same number of each class as far as it goes, in class order."""
    classes = max(1, len(artifact.spec.classes))
    each = max(1, most // classes)
    rows = [(artifact.y == c).nonzero().squeeze(1)[:each] for c in range(classes)]
    return torch.cat(rows)[:most]


@torch.no_grad()
def nearest(x: Tensor, real: Real, piece: int = 2048) -> tuple[Tensor, Tensor]:
    """(distance, index) of the nearest real example to each row of x, Euclidean in network space, per feature root mean square."""
    x = x.flatten(1)
    best = torch.full((len(x),), torch.inf)
    where = torch.zeros(len(x), dtype=torch.long)
    for rows in torch.arange(len(real)).split(max(1, min(piece, 50_000_000 // max(1, x.shape[1])))):
        distance, at = torch.cdist(x, real.read(rows).flatten(1)).min(1)
        closer = distance < best
        best, where = torch.where(closer, distance, best), torch.where(closer, rows[at], where)
    return best / x.shape[1] ** 0.5, where


def gallery(artifact: Artifact, real: Real) -> bytes:
    """gallery.json: which examples are shown, and their neighbours' label, distance and preview."""
    rows = chosen(artifact)
    distance, where = nearest(artifact.read(rows), real) if len(rows) else (torch.zeros(0), torch.zeros(0, dtype=torch.long))
    items = []
    for row, d, at in zip(rows.tolist(), distance.tolist(), where.tolist(), strict=True):
        preview = artifact.modality.preview(real.stored[at])
        items.append({
            "row": row,
            "distance": round(d, 6),
            "neighbour_class": int(real.labels[at]),
            "png": base64.b64encode(preview.png).decode() if preview.png is not None else None,
            "cells": preview.cells,
        })
    return json.dumps(items).encode()


def items(artifact: Artifact) -> list[Item]:
    """The gallery of an artifact as the page shows it; without neighbours if it was made without the real data at hand."""
    names = artifact.spec.classes
    if "gallery.json" not in artifact.files:
        return [Item(names[artifact.y[r]], artifact.modality.preview(artifact.x[r]), None, None, None) for r in chosen(artifact).tolist()]
    shown = []
    for entry in json.loads(artifact.files["gallery.json"]):
        row = entry["row"]
        neighbour = Preview(base64.b64decode(entry["png"]) if entry["png"] else None, tuple((a, b) for a, b in entry["cells"]))
        shown.append(Item(names[artifact.y[row]], artifact.modality.preview(artifact.x[row]), neighbour, names[entry["neighbour_class"]], entry["distance"]))
    return shown
