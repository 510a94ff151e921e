"""Tables: one row is a vector of cells, numbers as they are and categories as codes.

Stored    (columns,) float32: a number (NaN where missing), or a category's code (-1 where missing, or unknown in training).
Natural   (features,): a number (the training mean where missing) and, if the column has gaps, a 0/1 "is missing" feature beside it; a
          category as one 0/1 feature per value, plus one for "missing" if the column has gaps.
Network   natural, centred on the training mean; numbers divided by their deviation. 0/1 features keep their unit: divided by its
          deviation a rare category would be a huge input (one in 30,000: 171), and students came out worse on Adult, by 0.4 points
          of accuracy trained on all rows and by 1 to 3 points trained on 20 or 100.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, final

import torch
from torch import Tensor

from ..errors import BadInput
from ..replay import sent
from ..spec import Spec
from ..text import safe
from .base import Augmentation, Modality, Preview

NUMBER, VALUE, GAP = 0, 1, 2  # kinds of features


@final
class Tabular(Modality):
    """Rows of tables; see the top of this file."""

    name: ClassVar = "tabular"
    traits: ClassVar = frozenset({"continuous", "averages"})
    nets: ClassVar = ("mlp", "linear", "tabresnet")

    @classmethod
    def spec_of(cls, stored: Tensor, columns: list[dict[str, Any]], classes: tuple[str, ...], label: str) -> Spec:
        """The spec of a training table: stored (N, columns) float32. Each column is {"name": str} plus, for a category,
        {"values": [str, ...]}, or, for a number, {"integer": bool} (a date also has {"unit": "days since 1970-01-01"}); gaps and
        statistics are added from the data here.
        """
        columns = [dict(c) for c in columns]
        mean: list[float] = []
        deviation: list[float] = []
        n = max(1, len(stored))
        for k, column in enumerate(columns):
            cells = stored[:, k]
            gap = cells.isnan() if "values" not in column else cells < 0
            column["gaps"] = bool(gap.any())
            if "values" in column:
                counts = torch.bincount(cells[~gap].long(), minlength=len(column["values"]))
                mean += (counts.double() / n).tolist()
                deviation += [1.0] * len(counts)
            else:
                known = cells[~gap].double()
                column["low"], column["high"] = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
                column["mean"] = float(known.mean()) if len(known) else 0.0
                constant = column["low"] == column["high"]  # stays where it is
                mean.append(column["mean"])
                deviation.append(1.0 if constant else max(float(known.std(correction=0)), 1e-30))
            if column["gaps"]:
                mean.append(int(gap.sum()) / n)
                deviation.append(1.0)
        facts = {"columns": columns, "label": label, "mean": mean, "deviation": deviation}
        return Spec(cls.name, (len(mean),), (len(columns),), "float32", classes, facts)

    @property
    def schema(self) -> list[dict[str, Any]]:
        return self.spec.facts["columns"]

    @cached_property
    def _features(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """For each feature: its column, its kind, the code it stands for (a VALUE), and whether its column is a category."""
        rows: list[tuple[int, int, float, bool]] = []
        for k, column in enumerate(self.schema):
            category = "values" in column
            rows += [(k, VALUE, float(code), True) for code in range(len(column["values"]))] if category else [(k, NUMBER, 0.0, False)]
            rows += [(k, GAP, 0.0, category)] * column["gaps"]
        column, kind, code, category = zip(*rows, strict=True)
        return torch.tensor(column), torch.tensor(kind), torch.tensor(code), torch.tensor(category)

    def decode(self, stored: Tensor) -> Tensor:
        column, kind, code, category = self._on(stored.device, "features", lambda: self._features)
        cells = stored[:, column]
        gap = torch.where(category, cells < 0, cells.isnan())
        flag = torch.where(kind == VALUE, cells == code, gap).float()
        return torch.where(kind == NUMBER, torch.where(gap, self._statistics_on(stored.device)[0], cells), flag)

    def encode(self, natural: Tensor) -> Tensor:
        parts: list[Tensor] = []
        at = 0
        for column in self.schema:
            width = (len(column["values"]) if "values" in column else 1) + column["gaps"]
            cells = natural[:, at : at + width]
            at += width
            if "values" in column:
                code = cells.argmax(1).float()
                parts.append(torch.where(code >= len(column["values"]), torch.full_like(code, -1.0), code))
            else:
                number = cells[:, 0].clamp(column["low"], column["high"])
                number = number.round() if column["integer"] else number
                parts.append(torch.where(cells[:, 1] > 0.5, torch.full_like(number, torch.nan), number) if column["gaps"] else number)
        return torch.stack(parts, 1)

    def statistics(self) -> tuple[Tensor, Tensor]:
        return self._moments

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.spec.facts["mean"]), torch.tensor(self.spec.facts["deviation"])

    def adopt(self, stored: Tensor, spec: Spec) -> Tensor:
        """Columns are found by name, categories by value; a value that this spec does not know counts as missing."""
        theirs = {c["name"]: k for k, c in enumerate(spec.facts["columns"])}
        parts = []
        for column in self.schema:
            k = theirs.get(column["name"])
            if k is None or ("values" in column) != ("values" in spec.facts["columns"][k]):
                kind = "category" if "values" in column else "number"
                raise BadInput(f"the table has no {kind} column {safe(column['name'])!r}", "the columns that the set was distilled from")
            cells = stored[:, k]
            if "values" in column:
                code = {value: n for n, value in enumerate(column["values"])}
                here = torch.tensor([code.get(v, -1) for v in spec.facts["columns"][k]["values"]] + [-1], dtype=stored.dtype)
                cells = here[cells.long()]  # missing is -1, the last
            parts.append(cells)
        return torch.stack(parts, 1)

    def noise(self, n: int, rng: torch.Generator) -> Tensor:
        x = torch.randn((n, *self.spec.shape), generator=rng)
        self.clamp_(x)
        return x

    @torch.no_grad()
    def clamp_(self, x: Tensor) -> None:
        """Numbers stay within the range seen in training; 0/1 features stay between 0 and 1."""
        mean, deviation = self._statistics_on(x.device)
        low, high = (limit.to(x.dtype) for limit in self._on(x.device, "range", lambda: tuple(self._range)))
        x.copy_(torch.minimum(torch.maximum(x, (low - mean) / deviation), (high - mean) / deviation))

    @cached_property
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
            elif "unit" in column:
                table[column["name"]] = [None if v != v else _date(v, column["integer"]) for v in cells]
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
        if "unit" in column:
            return _date(value, column["integer"])
        return str(int(value)) if column["integer"] else f"{value:.6g}"


def _date(days: float, whole: bool) -> str:
    """Days since 1970 as text, ISO 8601; the clock is left out where the column has only whole days."""
    moment = datetime(1970, 1, 1) + timedelta(days=max(-719_162.0, min(2_932_896.0, days)))  # the years 1 to 9999
    return moment.date().isoformat() if whole else moment.isoformat(sep=" ", timespec="seconds")


class Jitter(NamedTuple):
    """Siamese augmentation of rows: every feature shifted by 0.1 units of noise (for a number a deviation), and one in ten set to its mean.

    shift (G, features) standard normal; drop (G, features) uniform in [0, 1). Ours: no paper of the field augments tables.
    """

    shift: Tensor
    drop: Tensor

    def __call__(self, x: Tensor, group: Tensor) -> Tensor:
        shift, drop, group = (sent(t, x.device) for t in (*self, group))
        return (x + 0.1 * shift[group].to(x.dtype)) * (drop[group] >= 0.1).to(x.dtype)
