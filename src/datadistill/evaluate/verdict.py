"""From scores to one word: PASS, USE-CORESET or FAIL, by rules that stand here and nowhere else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from .score import Score

Word = Literal["PASS", "USE-CORESET", "FAIL"]


def interval(runs: list[float]) -> tuple[float, float, float]:
    """(mean, low, high): the mean and its two-sided 95% Student t-interval."""
    from scipy.stats import t

    n = len(runs)
    mean = sum(runs) / n
    spread = math.sqrt(sum((r - mean) ** 2 for r in runs) / (n - 1) / n)
    half = float(t.ppf(0.975, n - 1)) * spread
    return mean, mean - half, mean + half


def summary(runs: list[float]) -> dict[str, Any]:
    """Mean, 95% interval and the runs themselves, as JSON."""
    mean, low, high = interval(runs)
    return {"mean": mean, "ci95": [low, high], "runs": runs}


def paired(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """The difference ours - theirs, seed by seed."""
    return summary([a - b for a, b in zip(ours, theirs, strict=True)])


@dataclass(frozen=True)
class Verdict:
    """PASS         the set's lower bound is above random's mean, the paired difference from random is above zero at 95%, and the
                    lower bound is not below the best coreset's mean
    USE-CORESET     not PASS, but the set beats random (then the coreset is as good and cheaper), or the coreset does
    FAIL            not PASS, and the coreset does not reliably beat random either: random examples would do
    """

    word: Word
    reason: str


def judge(distilled: Score, random: Score, coreset: Score, coreset_method: str, *, own_method: str = "") -> Verdict:
    """The word, and the figures it rests on in one sentence."""
    ours, theirs, best = distilled.accuracy(), random.accuracy(), coreset.accuracy()
    mean, low, _ = interval(ours)
    random_mean, best_mean = interval(theirs)[0], interval(best)[0]
    gain = paired(ours, theirs)
    figures = f"{mean:.1%} (at least {low:.1%}), random {random_mean:.1%}, coreset ({coreset_method}) {best_mean:.1%}"
    beats_random = low > random_mean and gain["ci95"][0] > 0
    if beats_random and low >= best_mean:
        level = "" if low > best_mean else "is level with "
        return Verdict("PASS", f"The set beats random selection and {level}the best coreset at the same budget: {figures}.")
    if beats_random or paired(best, theirs)["ci95"][0] > 0:
        why = "is not clearly better than" if best_mean < mean else "is no better than"
        same = " (this set is such a selection itself)" if own_method == coreset_method else ""
        return Verdict("USE-CORESET", f"The set {why} the coreset that {coreset_method} picks at the same budget{same}: {figures}.")
    return Verdict("FAIL", f"The set is not reliably better than random examples at the same budget: {figures}.")
