"""What was found in a source, as printed and as JSON, and the list of items that could not be read."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from ..modalities import Modality
from ..text import csv_cell, safe
from .task import Real

SHOWN = 12  # classes named on one line


@dataclass(frozen=True)
class Found:
    """Everything sniffed.

    source   path or name, shown safely          kind      "image folder", "npz", "csv", "digits", ...
    counts   split -> class name -> items        classes   names by class number (hostile text: show through text.safe)
    shape    of one stored example               dtype     of what is stored
    modes    what was met -> how often (image modes and sizes; kinds of columns)
    mode     the one stated mode all were converted to ("" where there is none)
    split    {"found": [..], "made": {name: fraction of the training split}, "seed": seed}
    rejects  (name, reason) of each item left out      warnings  what a user should know
    """

    source: str
    kind: str
    modality: str
    classes: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    shape: tuple[int, ...]
    dtype: str
    modes: dict[str, int]
    mode: str
    split: dict[str, Any]
    rejects: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        """For a person: what it is, the modes met, items per split and class, which splits were made, and the warnings."""
        shape = "x".join(map(str, self.shape))
        sizes = {split: sum(counts.values()) for split, counts in self.counts.items()}
        lines = [f"{self.source}: {self.kind}, {sum(sizes.values()):,} items, {len(self.classes)} classes, {shape} {self.dtype}"]
        if self.mode:
            lines[0] += f", mode {self.mode}"
        if self.modes:
            common = sorted(self.modes.items(), key=lambda item: (-item[1], item[0]))
            more = f", and {len(common) - 6} more kinds" if len(common) > 6 else ""
            lines.append("met: " + ", ".join(f"{n:,} {safe(mode)}" for mode, n in common[:6]) + more)
        for split, counts in self.counts.items():
            lines.append(f"{split} {sizes[split]:,}: {_counts(counts)}")
        made = self.split["made"]
        if made:
            parts = " and ".join(f"{name} ({fraction:.0%})" for name, fraction in made.items())
            lines.append(f"splits found: {', '.join(self.split['found'])}; made from train, stratified, seed {self.split['seed']}: {parts}")
        else:
            lines.append(f"splits found: {', '.join(self.split['found'])}; none made")
        return lines + [f"warning: {w}" for w in self.warnings]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def restored(cls, source: str, modality: Modality) -> Found:
        """What is still known where only the splits themselves were handed on."""
        spec = modality.spec
        return cls(source, "splits", spec.modality, spec.classes, {}, spec.stored, spec.dtype, {}, spec.facts.get("mode", ""), {"found": [], "made": {}, "seed": None}, (), ())


def _counts(counts: dict[str, int]) -> str:
    named = [f"{safe(name, 40)} {n:,}" for name, n in counts.items()]
    if len(named) <= SHOWN:
        return ", ".join(named)
    return ", ".join(named[: SHOWN - 2]) + f", ... ({len(named)} classes, {min(counts.values()):,} to {max(counts.values()):,} items each)"


@dataclass(frozen=True)
class Data:
    """The three splits of a source, and what was found."""

    train: Real
    val: Real
    test: Real
    found: Found


def rejects_csv(rejects: Iterable[tuple[str, str]]) -> bytes:
    """Items left out as a CSV of name and reason, UTF-8, that no spreadsheet reads as formulas."""
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(["name", "reason"])
    rows.writerows([csv_cell(name), csv_cell(reason)] for name, reason in rejects)
    return text.getvalue().encode()


def write_rejects(path: str | os.PathLike[str], rejects: Iterable[tuple[str, str]]) -> None:
    """`rejects_csv` in a file."""
    with open(path, "wb") as file:
        file.write(rejects_csv(rejects))
