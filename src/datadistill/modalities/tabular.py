"""Tables: one row is a vector of cells, numbers as they are and categories as codes.

Stored    (columns,) float32: a number (NaN where missing), or a category's code (-1 where missing).
Natural   (features,): a number (0 where missing) and, if the column has gaps, a 0/1 "is missing" feature beside it; a
          category as one feature per value, plus one for "missing" if the column has gaps.
Network   natural, each number standardised with the training set's statistics (a missing one becomes its mean), each 0/1 feature centred
          and divided by its deviation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from ..spec import Spec
from ..text import safe
from .base import Augmentation, Modality, Preview


@final
class Tabular(Modality):
    name: ClassVar = "tabular"
    traits: ClassVar = frozenset({"continuous", "averages"})
    nets: ClassVar = ("mlp", "linear", "tabresnet")

    @classmethod
    def spec_of(cls, stored: Tensor, columns: list[dict[str, Any]], classes: tuple[str, ...], label: str) -> Spec:
        """The spec of a training table: stored (N, columns) float32. Each column is {"name": str} plus, for a category,
        {"values": [str, ...]}, or, for a number, {"integer": bool}; gaps and statistics are added from the data here.
        """
        columns = [dict(c) for c in columns]
        mean: list[float] = []
        deviation: list[float] = []

        def feature(values: Tensor) -> None:
            mean.append(float(values.double().mean()) if len(values) else 0.0)
            deviation.append(max(float(values.double().std(correction=0)) if len(values) else 1.0, 1e-6) if len(values) else 1.0)

        for k, column in enumerate(columns):
            cells = stored[:, k]
            gap = cells.isnan() if "values" not in column else cells < 0
            column["gaps"] = bool(gap.any())
            if "values" in column:
                for code in range(len(column["values"])):
                    feature((cells == code).float())
            else:
                known = cells[~gap]
                feature(known)
                if len(known):
                    column["low"], column["high"] = float(known.min()), float(known.max())
                else:
                    column["low"] = column["high"] = 0.0
                column["mean"] = mean[-1]
            if column["gaps"]:
                feature(gap.float())
        deviation = [1.0 if d <= 1e-6 else d for d in deviation]  # a constant feature stays where it is
        facts = {"columns": columns, "label": label, "mean": mean, "deviation": deviation}
        return Spec(cls.name, (len(mean),), (len(columns),), "float32", classes, facts)

    @property
    def schema(self) -> list[dict[str, Any]]:
        return self.spec.facts["columns"]

    def decode(self, stored: Tensor) -> Tensor:
        parts: list[Tensor] = []
        for k, column in enumerate(self.schema):
            cells = stored[:, k]
            if "values" in column:
                codes = torch.arange(len(column["values"]), device=stored.device, dtype=stored.dtype)
                parts.append((cells[:, None] == codes).float())
                gap = cells < 0
            else:
                gap = cells.isnan()
                parts.append(torch.where(gap, torch.full_like(cells, column["mean"]), cells)[:, None])
            if column["gaps"]:
                parts.append(gap.float()[:, None])
        return torch.cat(parts, 1)

    def encode(self, natural: Tensor) -> Tensor:
        parts: list[Tensor] = []
        at = 0
        for column in self.schema:
            width = (len(column["values"]) if "values" in column else 1) + column["gaps"]
            cells = natural[:, at : at + width]
            at += width
            if "values" in column:
                code = cells.argmax(1).float() if width else torch.full((len(natural),), -1.0)
                parts.append(torch.where(code >= len(column["values"]), torch.full_like(code, -1.0), code))
            else:
                number = cells[:, 0].clamp(column["low"], column["high"])
                number = number.round() if column["integer"] else number
                parts.append(torch.where(cells[:, 1] > 0.5, torch.full_like(number, torch.nan), number) if column["gaps"] else number)
        return torch.stack(parts, 1)

    def statistics(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.spec.facts["mean"]), torch.tensor(self.spec.facts["deviation"])

    def noise(self, n: int, rng: torch.Generator) -> Tensor:
        x = torch.randn((n, *self.spec.shape), generator=rng)
        self.clamp_(x)
        return x

    @torch.no_grad()
    def clamp_(self, x: Tensor) -> None:
        """Numbers stay within the range seen in training; 0/1 features stay between 0 and 1."""
        mean, deviation = self._statistics_on(x.device)
        low, high = self._range.to(x)
        x.copy_(torch.minimum(torch.maximum(x, (low - mean) / deviation), (high - mean) / deviation))

    @property
    def _range(self) -> Tensor:
        low: list[float] = []
        high: list[float] = []
        for column in self.schema:
            flags = (len(column["values"]) if "values" in column else 0) + column["gaps"]
            if "values" not in column:
                low.append(column["low"])
                high.append(column["high"])
            low += [0.0] * flags
            high += [1.0] * flags
        return torch.tensor([low, high])

    def augment(self, rng: torch.Generator, groups: int) -> Augmentation:
        features = self.spec.shape[0]
        return Jitter(torch.randn((groups, features), generator=rng), torch.rand((groups, features), generator=rng))

    def columns(self, stored: Tensor, *, plain: bool) -> dict[str, Any]:
        """The table's own columns: text for categories, whole numbers where the column has only such, None where missing."""
        table: dict[str, Any] = {}
        for k, column in enumerate(self.schema):
            cells = stored[:, k].tolist()
            if "values" in column:
                table[column["name"]] = [column["values"][int(v)] if v >= 0 else None for v in cells]
            else:
                whole = column["integer"]
                table[column["name"]] = [None if v != v else int(v) if whole else v for v in cells]
        return table

    def preview(self, stored: Tensor) -> Preview:
        return Preview(cells=tuple((safe(c["name"]), self.cell(k, float(stored[k]))) for k, c in enumerate(self.schema)))

    def cell(self, k: int, value: float) -> str:
        """What stands in column k for a stored value, as text; missing is empty."""
        column = self.schema[k]
        if "values" in column:
            return safe(column["values"][int(value)]) if value >= 0 else ""
        if value != value:
            return ""
        return str(int(value)) if column["integer"] else f"{value:.6g}"


@dataclass(frozen=True)
class Jitter:
    """Siamese augmentation of rows: every feature shifted by 0.1 deviations of noise, and one in ten set to its mean.

    shift (G, features) standard normal; drop (G, features) uniform in [0, 1). Ours: no paper of the field augments tables.
    """

    shift: Tensor
    drop: Tensor

    def __call__(self, x: Tensor, group: Tensor) -> Tensor:
        group = group.cpu()
        keep = (self.drop[group] >= 0.1).to(x)
        return (x + 0.1 * self.shift[group].to(x)) * keep
