"""Learning rates over the steps of a training."""

from __future__ import annotations

import math


def half_cosine(step: float, steps: float = 1) -> float:
    """The part of a rate that is left after so many of the steps: from 1 down half a cosine to 0."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def warmed(peak: float, step: int, steps: int, warmup: float) -> float:
    """The rate at a step: linear from zero over this share of the steps, at least one, then half a cosine from the peak to zero."""
    begin = max(1, round(warmup * steps))
    return peak * (step + 1) / begin if step < begin else peak * half_cosine(step - begin, max(1, steps - begin))
