"""How students are trained and scored: frozen, named and hashed, the same for every arm."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

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
    nets            the student families, as the user named them (`with_nets`); none: chosen by the two rules above
    precision       in which students are trained; they are tested in float32
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
    nets: tuple[str, ...] = ()
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if self.seeds < 5:
            raise UsageError(f"{self.seeds} training seeds", "at least 5, for an interval that means something")

    @property
    def hash(self) -> str:
        """The first 16 hex digits of the sha256 of every field (of `nets` where there are any, of `precision` where it is not float32): results compare only where it is equal."""
        fields = asdict(self)
        if not self.nets:
            del fields["nets"]
        if self.precision == "float32":
            del fields["precision"]
        return hashlib.sha256(json.dumps({"version": VERSION, **fields}, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        return {"hash": self.hash, "version": VERSION, **asdict(self)}

    def schedule(self, lr: float, *, steps: int | None = None, augment: bool = True) -> Schedule:
        return Schedule(steps or self.steps, self.batch, lr, self.momentum, self.weight_decay, augment=self.augment and augment, precision=self.precision)

    def students(self, modality: Modality, used: tuple[str, ...]) -> list[str]:
        """The families to score with: one that the method looked through, then `unseen` that it did not, one of them without
        batch norm. Or those that were named."""
        from ..nets import FAMILIES

        if self.nets:
            unfit = [f for f in self.nets if len(modality.spec.shape) not in FAMILIES[f].axes]
            if unfit:
                fit = [f for f in FAMILIES if len(modality.spec.shape) in FAMILIES[f].axes]
                raise UsageError(f"student {unfit[0]!r} on {modality.name} data of shape {modality.spec.shape}", f"one of {', '.join(fit)}")
            return list(self.nets)
        seen = [f for f in modality.nets if f in used][:1]
        fits = [f for f in (*self.sizes, *modality.nets, *FAMILIES) if len(modality.spec.shape) in FAMILIES[f].axes]
        unseen = [f for f in dict.fromkeys(fits) if f not in used]
        plain = [f for f in unseen if not FAMILIES[f].batch_norm][:1]
        fresh = plain + [f for f in unseen if f not in plain][: self.unseen - len(plain)]
        fresh.sort(key=unseen.index)
        if len(fresh) < self.unseen or all(FAMILIES[f].batch_norm for f in fresh):
            raise UsageError(f"only {fresh} are left as unseen students", f"{self.unseen} families, one without batch norm", "another --method net")
        return seen + fresh

    def with_nets(self, names: str) -> Protocol:
        """This protocol with the students of a text like "resnet18,vgg:16,vit,mlp": families, each with its width after a colon where it
        is not to have the protocol's own size."""
        from ..nets import FAMILIES

        sizes: dict[str, Mapping[str, Any]] = {}
        for name in names.split(","):
            family, _, width = name.strip().partition(":")
            if family not in FAMILIES or family in sizes or not (width == "" or (width.isascii() and width.isdigit() and int(width) > 0)):
                raise UsageError(f"--nets {safe(names)!r}", f"different ones of {', '.join(FAMILIES)}, a width after a colon where one is wanted", "--nets resnet18,vgg:16,vit,mlp")
            if width and "width" not in inspect.signature(FAMILIES[family].__init__).parameters:
                raise UsageError(f"--nets {safe(name)!r}: {family} has no width", family, f"--nets {family}")
            own = self.sizes.get(family, CPU_SIZES.get(self.name, {}).get(family, {}))
            sizes[family] = {**own, "width": int(width)} if width else own
        return replace(self, sizes=sizes, nets=tuple(sizes))


PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol("quick", steps=100, full_steps=200, lrs=(0.03, 0.1), sizes={"convnet": {"width": 16}, "vgg": {"width": 8}, "mlp": {}}),
        Protocol("standard", steps=400, full_steps=2000, sizes={"convnet": {"width": 32}, "resnet": {}, "mlp": {}}),
        Protocol("paper", steps=1000, full_steps=10_000, batch=256, sizes={"convnet": {"width": 128}, "resnet": {"width": 64, "blocks": (2, 2, 2, 2)}, "mlp": {}}),
    )
}


CPU_SIZES: dict[str, dict[str, dict[str, Any]]] = {  # of students that a protocol takes only when they are named
    "quick": {"vit": {"width": 64, "depth": 2}, "resnet18": {"width": 8}},
    "standard": {"vit": {"width": 64, "depth": 4}, "vgg": {"width": 16}, "resnet18": {"width": 16}},
}


def protocol_named(name: str) -> Protocol:
    """The protocol of that name."""
    if name not in PROTOCOLS:
        raise UsageError(f"no protocol {safe(name)!r}", f"one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
