"""How students are trained and scored: frozen, named and hashed, the same for every arm."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import UsageError
from ..modalities import Modality
from ..text import safe
from ..training import Schedule

VERSION = 1  # raised when the meaning of a field changes


@dataclass(frozen=True)
class Protocol:
    """steps        optimiser steps of a student on a small set, and on full data at equal compute
    full_steps      optimiser steps of a student on full data
    lrs             learning rates, of which each arm and student family takes its best on validation data
    seeds           training seeds; random selection is drawn anew for each
    unseen          student families that the method did not look through, beside the one it did
    sizes           net sizes by family; these are the first choice of students, in this order, others take their own defaults
    """

    name: str
    steps: int
    full_steps: int
    lrs: tuple[float, ...] = (0.01, 0.03, 0.1)
    seeds: int = 5
    unseen: int = 2
    batch: int = 128
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: bool = True
    sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.seeds < 5:
            raise UsageError(f"{self.seeds} training seeds", "at least 5, for an interval that means something")

    @property
    def hash(self) -> str:
        """The first 16 hex digits of the sha256 of every field: results compare only where it is equal."""
        return hashlib.sha256(json.dumps({"version": VERSION, **asdict(self)}, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        return {"hash": self.hash, "version": VERSION, **asdict(self)}

    def schedule(self, lr: float, *, steps: int | None = None, augment: bool = True) -> Schedule:
        return Schedule(steps or self.steps, self.batch, lr, self.momentum, self.weight_decay, augment=self.augment and augment)

    def students(self, modality: Modality, used: tuple[str, ...]) -> list[str]:
        """The families to score with: one that the method looked through, then `unseen` that it did not, one of them without
        batch norm."""
        from ..nets import FAMILIES

        seen = [f for f in modality.nets if f in used][:1]
        fits = [f for f in (*self.sizes, *modality.nets, *FAMILIES) if len(modality.spec.shape) in FAMILIES[f].axes]
        unseen = [f for f in dict.fromkeys(fits) if f not in used]
        plain = [f for f in unseen if not FAMILIES[f].batch_norm][:1]
        fresh = plain + [f for f in unseen if f not in plain][: self.unseen - len(plain)]
        fresh.sort(key=unseen.index)
        if len(fresh) < self.unseen or all(FAMILIES[f].batch_norm for f in fresh):
            raise UsageError(f"only {fresh} are left as unseen students", f"{self.unseen} families, one without batch norm", "another --method net")
        return seen + fresh


PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol("quick", steps=100, full_steps=200, lrs=(0.03, 0.1), sizes={"convnet": {"width": 16}, "vgg": {"width": 8}, "mlp": {}}),
        Protocol("standard", steps=400, full_steps=2000, sizes={"convnet": {"width": 32}, "resnet": {}, "mlp": {}}),
        Protocol("paper", steps=1000, full_steps=10_000, batch=256, sizes={"convnet": {"width": 128}, "resnet": {"width": 64, "blocks": (2, 2, 2, 2)}, "mlp": {}}),
    )
}


def protocol_named(name: str) -> Protocol:
    """The protocol of that name."""
    if name not in PROTOCOLS:
        raise UsageError(f"no protocol {safe(name)!r}", f"one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
