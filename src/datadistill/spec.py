"""What one example looks like: enough to store it, to show it to a network and to rebuild its modality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Spec:
    """The shape of one example, stored and as a network sees it.

    modality  name of the modality that reads and writes such examples
    shape     of one example in network space (float32, normalised)
    stored    of one example as stored; `dtype` its stored type ("uint8" or "float32")
    classes   the class names, by class number; hostile text: show them through `text.safe`
    facts     JSON-able facts from which the modality rebuilds itself (means, deviations, columns, ...)
    """

    modality: str
    shape: tuple[int, ...]
    stored: tuple[int, ...]
    dtype: str
    classes: tuple[str, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Spec:
        return cls(
            modality=data["modality"],
            shape=tuple(data["shape"]),
            stored=tuple(data["stored"]),
            dtype=data["dtype"],
            classes=tuple(data["classes"]),
            facts=dict(data["facts"]),
        )
