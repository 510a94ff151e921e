"""Kinds of data. `of(spec)` rebuilds the modality that made a spec."""

from __future__ import annotations

from ..errors import BadInput
from ..spec import Spec
from .base import Augmentation, Modality, Normalise, Preview
from .image import Image
from .tabular import Tabular

ALL: dict[str, type[Modality]] = {m.name: m for m in (Image, Tabular)}


def of(spec: Spec) -> Modality:
    """The modality of a spec, e.g. one read from a manifest."""
    if spec.modality not in ALL:
        raise BadInput(f"the modality {spec.modality!r}", f"one of {', '.join(ALL)}", "a newer datadistill may know it")
    return ALL[spec.modality](spec)


__all__ = ["ALL", "Augmentation", "Image", "Modality", "Normalise", "Preview", "Tabular", "of"]
