"""What stands in each section of the page, from the manifest, the evaluation and the previews; wording in `words`."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from ..text import safe
from . import words
from .charts import Dots, curves
from .words import NONE, ends, get, number, percent, show

if TYPE_CHECKING:
    from . import Item

ARMS = {"distilled": "This set", "random": "Random real items", "coreset": "Best coreset", "full": "Full data", "full_equal_steps": "Full data, equal steps"}
SHORT = {"distilled": "set", "random": "random", "coreset": "coreset", "full": "full", "full_equal_steps": "full, equal steps"}
GALLERY = 100  # items at most,
GALLERY_BYTES = 12_000_000  # and bytes of pictures
GALLERY_OPEN = 24  # shown before one unfolds the rest
COLUMNS = 40  # of a row of cells
CLASSES_OPEN = 30  # rows of a table with one row per class
NUMERIC = re.compile(r"[+-]?\d[\d.,]*(e[+-]?\d+)?")


def context(manifest: Mapping[str, Any], previews: Sequence[Item], evaluation: Mapping[str, Any] | None, loading: Mapping[str, str]) -> dict[str, Any]:
    """Everything the template says."""
    classes = [str(name) for name in get(manifest, "spec", "classes") or ()]
    return {
        "source": get(manifest, "data", "source") or "data",
        "method": get(manifest, "method", "name") or "",
        "originals": bool(get(manifest, "contains_originals")),
        "verdict": words.verdict(manifest, evaluation),
        "facts": facts(manifest, evaluation),
        "accuracy": accuracy(evaluation),
        "gallery": gallery(previews, get(manifest, "budget", "items")),
        "recall": recall(evaluation, classes),
        "curves": curves(get(manifest, "curve") or []),
        "cost": cost(manifest, evaluation),
        "data": data(manifest, classes),
        "loading": [(title, code.strip("\n").expandtabs(4).split("\n")) for title, code in loading.items()],
        "provenance": provenance(manifest, evaluation),
        "notes": [show(note) for note in get(manifest, "notes") or ()],
        "doubts": doubts(manifest, evaluation),
    }


def doubts(manifest: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> list[str]:
    """What a reader should know before believing the verdict."""
    found = [show(note) for note in get(evaluation, "notes") or ()]
    judged = get(evaluation, "artifact")
    if judged and get(manifest, "sha256") and judged != manifest["sha256"]:
        found.append("This verdict is about another version of the set: evaluate it again.")
    if get(evaluation, "data", "same_as_distilled") is False:
        found.append(f"Judged on other data than it was made from: {show(get(evaluation, 'data', 'source'))}.")
    return found


def facts(manifest: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> list[tuple[str, str, str]]:
    """The handful of numbers at the top: (name, value, beside what)."""
    items, real = get(manifest, "budget", "items"), words.real_items(manifest)
    own, all_ = get(manifest, "budget", "bytes"), real_bytes(manifest, evaluation)
    found = [("Items", words.count(items), f"of {words.count(real)} real ({percent(items / real, 2 if items < real / 100 else 1)})" if items and real else "")]
    smaller = f"of {words.n_bytes(all_)} real ({percent(own / all_, 2 if own < all_ / 100 else 1)})" if own and all_ else ""
    found.append(("Size with labels", words.n_bytes(own), smaller))
    if evaluation:
        full = get(evaluation, "arms", "full", "accuracy", "mean")
        found.append(("Accuracy", percent(get(evaluation, "arms", "distilled", "accuracy", "mean")), f"full data: {percent(full)}"))
        n = number(get(evaluation, "cost", "break_even_trainings"))
        found.append(("Pays for itself", NONE if n is None else f"after {max(1, math.ceil(n)):,}", "see cost" if n is None else "trainings of a student"))
    else:
        found.append(("Time to make", words.seconds(get(manifest, "cost", "seconds")), get(manifest, "method", "name") or ""))
    return found


def real_bytes(manifest: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> int | None:
    """Bytes of the real training set: as judged, else examples times the stored bytes of one."""
    if known := number(get(evaluation, "arms", "full", "bytes")):
        return int(known)
    n, stored = words.real_items(manifest), get(manifest, "spec", "stored")
    width = {"uint8": 1, "float16": 2, "float32": 4}.get(str(get(manifest, "spec", "dtype")))
    return n * math.prod(stored) * width if n and stored and width else None


def accuracy(evaluation: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Arms as rows of a dot-and-whisker chart and of a table, and students beside each other."""
    arms = get(evaluation, "arms")
    if not isinstance(arms, Mapping):
        return None
    rows = []
    for key in [k for k in ARMS if k in arms] + [k for k in arms if k not in ARMS]:
        arm = arms[key]
        method = get(arm, "method")
        difference = get(evaluation, "differences", key)
        mean = number(get(arm, "accuracy", "mean"))
        rows.append({
            "key": key if key in ARMS else "other",
            "name": ARMS.get(key, key) + (f": {method}" if method else ""),
            "mean": mean,
            "ends": ends(get(arm, "accuracy", "ci95")),
            "runs": [r for r in map(number, get(arm, "accuracy", "runs") or ()) if r is not None],
            "text": percent(mean),
            "interval": words.interval(get(arm, "accuracy", "ci95")),
            "n": words.count(get(arm, "items")),
            "bytes": words.n_bytes(get(arm, "bytes")),
            "steps": f"{words.count(steps)} steps" if (steps := get(arm, "steps")) else "",
            "lead": NONE if number(get(difference, "mean")) is None else words.signed(100 * difference["mean"], plus=True),
            "lead_interval": words.interval(get(difference, "ci95")) if difference else "",
            "students": get(arm, "students") or {},
            "rates": get(arm, "lr") or {},
        })
    drawn = [row for row in rows if row["mean"] is not None]
    axis = Dots([v for row in drawn for v in (row["mean"], *(row["ends"] or ()), *row["runs"])]) if drawn else None
    names = list(dict.fromkeys(name for row in rows for name in row["students"]))
    for row in rows:
        row["by_student"] = [student(row["students"].get(name), row["rates"].get(name)) for name in names]
    return {"rows": rows, "axis": axis, "students": names, "reason": get(evaluation, "reason"), "protocol": protocol_line(evaluation)}


def student(score: Any, rate: Any) -> tuple[str, str, str]:
    """(mean, interval, learning rate) of one student on one arm."""
    rate = number(get(score, "lr")) if rate is None else number(rate)
    score = get(score, "accuracy") or score
    return percent(get(score, "mean")), words.interval(get(score, "ci95")), "" if rate is None else f"lr {rate:g}"


def protocol_line(evaluation: Mapping[str, Any] | None) -> str:
    """How it was judged, in one line."""
    seeds, students = get(evaluation, "seeds"), get(evaluation, "protocol", "students")
    parts = [f"Protocol {show(get(evaluation, 'protocol', 'name'))} ({str(show(get(evaluation, 'protocol', 'hash')))[:12]}), the same for every arm"]
    if isinstance(students, Sequence) and not isinstance(students, str):
        parts.append(f"students {', '.join(safe(s, 40) for s in students)}")
    if isinstance(seeds, Sequence) and not isinstance(seeds, str):
        parts.append(words.plural(len(seeds), "training seed"))
    if tried := get(evaluation, "arms", "coreset", "candidates"):
        parts.append(f"the best coreset was chosen on validation data ({', '.join(f'{safe(m, 40)} {percent(v)}' for m, v in tried.items())})")
    return "; ".join(parts) + "."


def gallery(previews: Sequence[Item], total: Any) -> dict[str, Any]:
    """At most GALLERY items, taken from the classes in turn so that each is seen, then put side by side by class."""
    by_class: dict[str, list[Item]] = {}
    for item in previews:
        by_class.setdefault(item.label, []).append(item)
    turns = [item for k in range(max(map(len, by_class.values()), default=0)) for group in by_class.values() for item in group[k : k + 1]]
    chosen, n_bytes = [], 0
    for item in turns[:GALLERY]:
        n_bytes += sum(len(p.png) for p in (item.preview, item.neighbour) if p is not None and p.png)
        if chosen and n_bytes > GALLERY_BYTES:
            break
        chosen.append(item)
    order = {label: k for k, label in enumerate(by_class)}
    parts = [sorted(part, key=lambda item: order[item.label]) for part in (chosen[:GALLERY_OPEN], chosen[GALLERY_OPEN:])]
    columns: dict[str, list[str]] = {}
    for item in chosen:
        for name, text in (cell for p in (item.preview, item.neighbour) if p is not None and not p.png for cell in p.cells):
            columns.setdefault(name, []).append(text)
    return {
        "parts": [[shown(item) for item in part] for part in parts if part],
        "pictures": any(item.preview.png for item in chosen),
        "neighbours": any(item.neighbour is not None for item in chosen),
        "columns": [(name, all(NUMERIC.fullmatch(t) for t in texts if t)) for name, texts in list(columns.items())[:COLUMNS]],
        "more_columns": max(0, len(columns) - COLUMNS),
        "count": len(chosen),
        "total": max(int(number(total) or 0), len(previews)),
    }


def shown(item: Item) -> dict[str, Any]:
    """One item of the gallery, as the template takes it."""
    near = item.neighbour
    return {
        "label": item.label,
        "picture": picture(item.preview.png),
        "cells": dict(item.preview.cells),
        "neighbour": near is not None,
        "neighbour_label": item.neighbour_label,
        "neighbour_picture": picture(near.png) if near else None,
        "neighbour_cells": dict(near.cells) if near else {},
        "distance": "" if number(item.distance) is None else f"{item.distance:#.3g}".removesuffix("."),
    }


def picture(png: bytes | None) -> dict[str, Any] | None:
    """A data: URI and a size to show it at: small ones enlarged by a whole factor, so that every pixel stays a square."""
    if not png:
        return None
    wide, high = (int.from_bytes(png[at : at + 4], "big") or 1 for at in (16, 20))  # IHDR
    longest = max(wide, high)
    scale = max(1, 72 // longest) if longest <= 72 else 72 / longest
    uri = Markup("data:image/png;base64,") + base64.b64encode(png).decode("ascii")
    return {"uri": uri, "width": max(1, round(wide * scale)), "height": max(1, round(high * scale)), "crisp": longest <= 72}


def recall(evaluation: Mapping[str, Any] | None, classes: Sequence[str]) -> dict[str, Any] | None:
    """One row per class, one column per arm that has it; with many classes the worst of this set first, the rest folded."""
    arms = {key: get(evaluation, "arms", key, "recall") for key in ARMS}
    arms = {key: value for key, value in arms.items() if isinstance(value, Mapping) and value}
    if not arms:
        return None
    place = {name: k for k, name in enumerate(classes)}
    names = sorted(dict.fromkeys(name for value in arms.values() for name in value), key=lambda name: place.get(name, len(place)))
    many = len(names) > CLASSES_OPEN
    if many:
        first = next(iter(arms.values()))
        names.sort(key=lambda name: value if (value := number(first.get(name))) is not None else 2.0)
    low = min((v for value in arms.values() for v in map(number, value.values()) if v is not None), default=0.0)
    rows = [(name, [heat(value.get(name), low) for value in arms.values()]) for name in names]
    return {"arms": [SHORT[key] for key in arms], "parts": [rows[:CLASSES_OPEN], rows[CLASSES_OPEN:]] if many else [rows], "many": many}


def heat(value: Any, low: float) -> tuple[str, float | None]:
    """(text, strength of the colour, from the lowest recall on the page to 1)."""
    value = number(value)
    return (NONE, None) if value is None else (f"{100 * value:.0f}", round(0.04 + 0.46 * min(1.0, max(0.0, (value - low) / (1 - low) if low < 1 else 1)), 3))


def cost(manifest: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> dict[str, Any]:
    """The table of costs, and what they come to."""
    kinds = {
        "Making the set": get(evaluation, "cost", "distill") or get(manifest, "cost"),
        "Training a student on it": get(evaluation, "cost", "student"),
        "Training a student on the full data": get(evaluation, "cost", "full"),
    }
    rows = [(name, words.seconds(c.get("seconds")), words.flops(c.get("flops")), words.n_bytes(c.get("peak_memory_bytes"))) for name, c in kinds.items() if isinstance(c, Mapping)]
    own, all_ = get(manifest, "budget", "bytes"), real_bytes(manifest, evaluation)
    storage = f"The set takes {words.n_bytes(own)}, labels included" + (f"; the real training set takes {words.n_bytes(all_)}." if all_ else ".") if own else ""
    return {"rows": rows, "break_even": words.break_even(evaluation), "storage": storage}


def data(manifest: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """What was found, and a table of counts: one row per class, one column per split and one for the set."""
    found = get(manifest, "data") or {}
    counts = {split: n for split, n in (get(found, "counts") or {}).items() if isinstance(n, Mapping)}
    own = dict(zip(classes, get(manifest, "budget", "per_class") or (), strict=False))
    names = list(dict.fromkeys([*classes, *(name for n in counts.values() for name in n)]))
    columns = [*counts.values(), *([own] if own else [])]
    total = [words.count(sum(number(n) or 0 for n in column.values())) for column in columns]
    rows = [(name, [words.count(column.get(name)) for column in columns]) for name in names]
    lines = {
        "Source": get(found, "source"), "Kind": get(found, "kind"), "Modality": get(found, "modality") or get(manifest, "spec", "modality"),
        "Shape of one example": words.shape(get(found, "shape") or get(manifest, "spec", "stored")), "Modes found": get(found, "modes"), "Converted to": get(found, "mode"),
        "Split": split(get(found, "split")), "Classes": len(names) or None, "Rejected items": rejected(get(found, "rejects")),
    }
    return {
        "lines": [(name, show(value)) for name, value in lines.items() if value not in (None, "", [], {}, NONE)],
        "warnings": [show(w) for w in get(found, "warnings") or ()],
        "splits": [*counts, *(["this set"] if own else [])],
        "parts": [rows[:CLASSES_OPEN], rows[CLASSES_OPEN:]] if len(rows) > CLASSES_OPEN else [rows],
        "total": total,
    }


def split(how: Any) -> str:
    """Which splits were found and which were made from the training split, and the seed."""
    made = get(how, "made")
    if not isinstance(made, Mapping):
        return show(how)
    parts = [f"found: {show(get(how, 'found'))}"]
    if made:
        parts.append(f"made from it, stratified: {', '.join(f'{safe(name, 40)} {percent(share, 0)}' for name, share in made.items())}; seed {show(get(how, 'seed'))}")
    return "; ".join(parts)


def rejected(items: Any) -> str:
    """How many items were left out, and the first few by name and reason."""
    if not isinstance(items, Sequence) or isinstance(items, str):
        return show(items)
    return f"{len(items)}" + "".join(f"; {show(item)}" for item in items[:5]) + ("; …" if len(items) > 5 else "")


def provenance(manifest: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """(heading, lines of (name, text, link or nothing))."""
    method, found = get(manifest, "method") or {}, get(manifest, "data") or {}
    recipe = [(f"recipe: {name}", value) for name, value in (get(manifest, "recipe") or {}).items() if value is not None]
    files = [(name, f"{words.n_bytes(get(file, 'bytes'))}, sha256 {show(get(file, 'sha256'))}") for name, file in (get(manifest, "files") or {}).items()]
    protocol = [(name, value) for name, value in (get(evaluation, "protocol") or {}).items()]
    groups = [
        ("Real data", [("Licence", found.get("license") or "not stated"), ("Source", found.get("source_url") or "not stated"), ("Fingerprint", found.get("fingerprint"))]),
        ("Method", [("Method", method.get("name")), ("Family", method.get("family")), ("Paper", method.get("paper")), ("Networks used", method.get("nets")), ("Parametrisation", get(manifest, "form", "name")), ("Seed", get(manifest, "seed"))]),
        ("Hyper-parameters", [*(get(method, "hyperparameters") or {}).items(), *recipe]),
        ("Evaluation protocol", protocol + ([("training seeds", get(evaluation, "seeds"))] if protocol else [])),
        ("Artifact", [("SHA-256", get(manifest, "sha256")), ("Format", get(manifest, "format")), *files]),
        ("Packages", list((get(manifest, "packages") or {}).items())),
    ]
    known = [(title, [(name, value) for name, value in lines if value is not None or title == "Hyper-parameters"]) for title, lines in groups]
    return [(title, [(name, "none" if value is None else show(value), link(value)) for name, value in lines]) for title, lines in known if lines]


def link(value: Any) -> str:
    """The address itself when it is a plain web address, else nothing."""
    return value if isinstance(value, str) and re.fullmatch(r"https?://[A-Za-z0-9._~:/?#@!$&*+,;=%-]{1,500}", value) else ""
