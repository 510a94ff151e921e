"""Numbers and verdicts in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..text import duration, safe, size

NONE = "–"


def number(value: Any) -> float | None:
    """A finite number, or None for anything else that JSON may hold."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) else None


def get(data: Any, *keys: str) -> Any:
    """data[k1][k2]..., or None where the way ends."""
    for key in keys:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def percent(value: Any, digits: int = 1) -> str:
    """0.876 -> '87.6%'."""
    value = number(value)
    return NONE if value is None else f"{100 * value:.{digits}f}%"


def interval(bounds: Any, scale: float = 100) -> str:
    """[0.86, 0.882] -> '86.0 to 88.2'."""
    if (pair := ends(bounds)) is None:
        return NONE
    return f"{signed(scale * pair[0])} to {signed(scale * pair[1])}"


def ends(bounds: Any) -> tuple[float, float] | None:
    """The two ends of an interval, if it has two finite ones."""
    if not isinstance(bounds, Sequence) or len(bounds) != 2:
        return None
    low, high = number(bounds[0]), number(bounds[1])
    return None if low is None or high is None else (low, high)


def signed(value: float, plus: bool = False) -> str:
    """One decimal with a real minus sign, and never -0.0."""
    text = f"{abs(value):.1f}"
    sign = "" if text == "0.0" else "−" if value < 0 else "+" if plus else ""
    return sign + text


def count(value: Any) -> str:
    """12345 -> '12,345'."""
    value = number(value)
    return NONE if value is None else f"{value:,.0f}"


def plural(n: Any, noun: str) -> str:
    """(2, 'item') -> '2 items'."""
    return f"{count(n)} {noun}" + ("" if number(n) == 1 else "s")


def seconds(value: Any) -> str:
    """A duration for people, in milliseconds where it is short."""
    value = number(value)
    return NONE if value is None else f"{1000 * value:.0f} ms" if value < 0.1 else duration(value)


def n_bytes(value: Any) -> str:
    """1536 -> '1.5 KiB'."""
    value = number(value)
    return NONE if value is None else size(value)


def flops(value: Any) -> str:
    """1.23e12 -> '1.23 TFLOP'."""
    value = number(value)
    if value is None:
        return NONE
    power = min(max(int(math.log10(value)) // 3, 0), 6) if value > 0 else 0
    return f"{value / 1000**power:.3g} {' kMGTPE'[power].strip()}FLOP"


def show(value: Any, depth: int = 3) -> str:
    """Any JSON value on one line."""
    if value is None or value == {} or value == [] or value == "":
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping) and depth:
        return ", ".join(f"{key}: {show(v, depth - 1)}" for key, v in list(value.items())[:50])
    if isinstance(value, Sequence) and not isinstance(value, str) and depth:
        return ", ".join(show(v, depth - 1) for v in value[:50]) + (", …" if len(value) > 50 else "")
    return str(value)


def shape(value: Any) -> str:
    """[8, 8, 1] -> '8 × 8 × 1'."""
    if isinstance(value, Sequence) and not isinstance(value, str) and value and all(isinstance(n, int) for n in value):
        return " × ".join(map(str, value))
    return show(value)


def verdict(manifest: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> dict[str, str]:
    """`word` as the evaluation gives it, `kind` for its colour, `title` what to do, `sentence` why, with the numbers."""
    if not evaluation:
        return {
            "word": "Not evaluated",
            "kind": "none",
            "title": "Nobody has checked yet whether this set trains well.",
            "sentence": "Not evaluated yet: run",
            "command": "datadistill evaluate DIR --data SOURCE",
        }
    word = show(evaluation.get("verdict"))
    arms = evaluation.get("arms")
    items = get(evaluation, "budget", "items") or get(manifest, "budget", "items")
    real = get(arms, "full", "items") or real_items(manifest)
    own, chance, core = (get(arms, arm, "accuracy", "mean") for arm in ("distilled", "random", "coreset"))
    method = safe(get(arms, "coreset", "method") or "selection", 40)
    everything = f"; all {count(real)} real items give {percent(get(arms, 'full', 'accuracy', 'mean'))}" if real else ""
    these = "this 1 item" if items == 1 else f"these {count(items)} items"
    bounds = get(arms, "distilled", "accuracy", "ci95")
    spread = f" (95% interval {interval(bounds)}%)" if ends(bounds) else ""
    reach = f"Students trained on {these} reach {percent(own)} accuracy on unseen test data{spread}"
    versus = f"{percent(chance)} with as many random real items and {percent(core)} with the best coreset ({method})"
    difference = get(evaluation, "differences", "random")
    if word == "PASS":
        return {"word": word, "kind": "good", "title": "This set is worth using.", "sentence": f"{reach}, against {versus}{everything}."}
    if word == "USE-CORESET":
        others = f"random real items give {percent(chance)}{everything}."
        if number(own) is not None and number(core) is not None and own > core:
            sentence = f"{reach}, which is not clearly more than the {percent(core)} of as many real items chosen by {method}; {others}"
        else:
            sentence = f"As many real items chosen by {method} train students to {percent(core)} accuracy on unseen test data, and {these} to {percent(own)}{spread}; {others}"
        return {"word": word, "kind": "fair", "title": "Use a coreset of real items instead.", "sentence": sentence}
    if word == "FAIL":
        gap = ""
        if ends(get(difference, "ci95")) and (mean := number(get(difference, "mean"))) is not None:
            gap = f", a difference of {signed(100 * mean, plus=True)} points with a 95% interval from {interval(difference['ci95'])}"
        return {
            "word": word,
            "kind": "bad",
            "title": "Do not use this set.",
            "sentence": f"{reach}, which is not shown to be better than as many random real items ({percent(chance)}{gap}){everything}.",
        }
    return {"word": word, "kind": "none", "title": f"Verdict: {word}.", "sentence": f"{reach}, against {versus}{everything}."}


def break_even(evaluation: Mapping[str, Any] | None) -> str:
    """After how many trainings the distillation has paid for itself, in a sentence."""
    cost = get(evaluation, "cost")
    if cost is None:
        return "After how many trainings the set pays for itself is known once it is evaluated."
    student, full = number(get(cost, "student", "seconds")), number(get(cost, "full", "seconds"))
    both = f"{seconds(student)} on this set, {seconds(full)} on the full data"
    if (n := number(get(cost, "break_even_trainings"))) is not None:
        return f"The set pays for itself after {plural(max(1, math.ceil(n)), 'training')} of a student" + (f" ({both})." if student is not None and full is not None else ".")
    if student is not None and full is not None and student >= full:
        return f"The set never pays for itself in time, because training a student on it takes no less than on the full data ({both})."
    return "After how many trainings the set pays for itself is not known."


def real_items(manifest: Mapping[str, Any]) -> int | None:
    """How many real training examples the set stands for."""
    counts = get(manifest, "data", "counts", "train")
    return int(sum(number(n) or 0 for n in counts.values())) or None if isinstance(counts, Mapping) else None
