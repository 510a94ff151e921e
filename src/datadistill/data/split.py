"""Class names from label values, and stratified splits by name of a seed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import BadInput, UsageError
from ..rng import numpy_rng
from ..text import safe
from .guard import Unreadable

WHOLE = re.compile(r"[+-]?\d{1,18}(\.0*)?", re.ASCII)


def class_numbers(labels: Mapping[str, np.ndarray], declared: tuple[str, ...] = ()) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """(class names, split -> (n,) class numbers, -1 where the label is missing). Names in sorted order, numbers by value; names that
    the source declares stay in its order, and its labels count into them."""
    if declared:
        if len(set(declared)) < len(declared):
            raise BadInput("two classes with the same name", "one name per class")
        for split, values in labels.items():
            if len(values) and int(values.max()) >= len(declared):
                raise BadInput(f"label {int(values.max())} in {split}, but {len(declared)} class names", "labels from 0 to the number of names - 1")
        return declared, {split: np.where(values < 0, -1, values).astype(np.int64) for split, values in labels.items()}
    texts: dict[str, list[str | None]] = {}
    inverse: dict[str, np.ndarray] = {}
    for split, values in labels.items():
        if values.dtype.kind == "O":
            values = np.array(["\0" if v is None else str(v) for v in values], dtype=object)  # NUL stands for missing: no table holds one
        unique, inverse[split] = np.unique(values, return_inverse=True)
        texts[split] = [_text(v) for v in unique.tolist()]
    known = {t for found in texts.values() for t in found if t is not None}
    if all(WHOLE.fullmatch(t) for t in known):  # "1", "1.0" and "01" of different files are one class
        texts = {split: [None if t is None else str(int(t.split(".")[0])) for t in found] for split, found in texts.items()}
        names = sorted({t for found in texts.values() for t in found if t is not None}, key=int)
    else:
        names = sorted(known)
    _refuse_measures(len(names), len(labels["train"]))
    number = {name: k for k, name in enumerate(names)}
    codes = {s: np.array([-1 if t is None else number[t] for t in texts[s]], dtype=np.int64) for s in labels}
    return tuple(names), {s: codes[s][inverse[s].reshape(-1)] if len(codes[s]) else np.zeros(0, np.int64) for s in labels}


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return None if value == "\0" or value != value else str(value)


def _refuse_measures(classes: int, rows: int) -> None:
    if classes > 100 and classes > 0.5 * rows:
        raise BadInput(
            f"the label has {classes:,} different values in {rows:,} training rows",
            "a label that names a class: few values, each many times",
            "another --label, or numbers put into bins first",
        )


def check_classes(classes: tuple[str, ...], train: np.ndarray, rejects: Sequence[tuple[str, str]] = ()) -> None:
    """Every class has a training example (no split takes the last one), and there are at least two classes."""
    counts = np.bincount(train[train >= 0], minlength=len(classes))
    empty = [safe(classes[c]) for c in np.flatnonzero(counts == 0)]
    if empty:
        more = f" and {len(empty) - 10} more" if len(empty) > 10 else ""
        raise Unreadable(
            f"class{'es' * (len(empty) > 1)} {', '.join(empty[:10])}{more} with 0 training items",
            "at least one readable item of every class in the training split",
            "add items, or take the class out",
            rejects,
        )
    if len(classes) < 2:
        raise BadInput(f"{len(classes)} class{'es' * (len(classes) != 1)}: {', '.join(safe(c) for c in classes)}", "at least two classes")


def check_fractions(val: float, test: float) -> None:
    """Refuse shares that leave nothing to train on."""
    if not (0 <= val < 1 and 0 <= test < 1 and val + test < 1):
        raise UsageError(f"val={val}, test={test}", "fractions from 0 up to, and together below, 1", "val=0.1, test=0.2")


def stratified(labels: np.ndarray, fractions: Mapping[str, float], seed: int) -> dict[str, np.ndarray]:
    """name -> ascending indices into labels (n,), for "train" (the rest) and each name of `fractions`, drawn class by class.

    Each part gets round(fraction n) items, shared among the classes by largest remainder (equal remainders: by lot), and no class gives
    its last item away: one with a single item stays in train. Items whose label is negative are in no part.
    """
    by_class = np.argsort(labels, kind="stable")[int((labels < 0).sum()) :]
    counts = np.bincount(labels[by_class])
    order = [numpy_rng(seed, "split", c).permutation(own) for c, own in enumerate(np.split(by_class, np.cumsum(counts)[:-1]))]
    left, used = counts.copy(), np.zeros_like(counts)
    parts: dict[str, np.ndarray] = {}
    for name, fraction in fractions.items():
        take = _shares(counts, fraction, np.maximum(left - 1, 0), numpy_rng(seed, "split", name))
        parts[name] = np.sort(np.concatenate([order[c][used[c] : used[c] + take[c]] for c in range(len(counts))]))
        used, left = used + take, left - take
    parts["train"] = np.sort(np.concatenate([order[c][used[c] :] for c in range(len(counts))]))
    return parts


def _shares(counts: np.ndarray, fraction: float, most: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(classes,) whole numbers near fraction * counts, at most `most`, that sum to round(fraction * total), at least 1, where that can be."""
    if fraction <= 0:
        return np.zeros_like(counts)
    goal = fraction * counts
    share = np.minimum(np.floor(goal).astype(np.int64), most)
    total = min(max(1, round(fraction * int(counts.sum()))), int(most.sum()))
    by_remainder = np.lexsort((rng.random(len(counts)), -np.round(goal - share, 9)))
    while (missing := total - int(share.sum())) > 0:
        able = by_remainder[share[by_remainder] < most[by_remainder]][:missing]
        share[able] += 1
    return share
