"""The options that several commands have, each in one place."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import click


class Number(click.FloatRange):
    """A finite one, within a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        return number if math.isfinite(number) else self.fail(f"{number} is not a finite number", param, ctx)


def option(*names: str, **kwargs: Any):
    """A click option that can also be set by DATADISTILL_<NAME>."""
    longest = max((n for n in names if n.startswith("--")), key=len).split("/")[0]
    kwargs.setdefault("envvar", "DATADISTILL_" + longest.lstrip("-").replace("-", "_").upper())
    kwargs.setdefault("show_default", True)
    return click.option(*names, **kwargs)


def together(*options: Callable) -> Callable:
    """One decorator for all of them, in this order."""
    return lambda command: reduce(lambda command, one: one(command), reversed(options), command)


label_option = option("--label", help="The column of a table that holds the class.")
side_option = option("--side", type=click.IntRange(4, 1024), help="Resize pictures to this many pixels a side.")
flip_option = option("--flip/--no-flip", default=True, help="Whether a mirrored picture is still of its class; not for letters and digits.")
val_option = option("--val", type=Number(0, 0.5), default=0.1, help="Share of training data held out for choices, where no val split exists.")
test_option = option("--test", type=Number(0, 0.9), default=0.2, help="Share held out for the verdict, where no test split exists.")
seed_option = option("--seed", type=int, default=0, help="Names every random draw, the split included.")
device_option = option("--device", default="auto", help="auto, cpu, cuda or mps.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
quiet_option = option("--quiet", "-q", is_flag=True, help="No progress and no messages: the result alone, and errors.")
data_options = together(label_option, side_option, flip_option, val_option, test_option, seed_option, device_option)
engine_options = together(  # who does the work that is made of units
    option("--workers", type=click.IntRange(1), help="How many units are worked on at a time, each on OMP_NUM_THREADS threads, or one."),
    option("--engine", type=click.Choice(["local", "ray"]), help="Who does work that is made of units (docs/scale.md).  [default: local]"),
    option("--address", help="Of a Ray cluster: auto for the one that this machine belongs to, or HOST:PORT; without it one is started here."),
)
