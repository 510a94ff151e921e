"""`datadistill plan`: what a distillation would cost, before it is done."""

from __future__ import annotations

import json
from typing import Any

import click

from ..errors import UsageError
from ..progress import stderr_progress
from ..text import safe
from . import settings
from .options import Number, device_option, json_option, label_option, option, quiet_option, seed_option, side_option, test_option, val_option
from .signals import Stop

SAMPLE = 256  # pictures that are decoded


@click.command()
@click.argument("source", required=False)
@option("--method", "-m", default="dm", help="See `datadistill methods`.")
@option("--ipc", help="Items per class: a number, sqrt, proportional, or cat=3,dog=10.  [default: 10]")
@option("--size", type=int, help="Items in all.")
@option("--ratio", type=Number(), help="Share of the real training set, such as 0.01.")
@option("--bytes", help="Samples and labels as stored, such as 5MB.")
@option("--preset", type=click.Choice(["auto", "paper", "quick"]), default="auto", help="The hyper-parameters to start from; auto: quick on a CPU, else the paper's.")
@option("--set", multiple=True, metavar="NAME=VALUE", help="A hyper-parameter of the method; any number of times.")
@click.option("--shape", help="In place of SOURCE: pictures of this shape, such as 3x224x224.")
@click.option("--classes", type=click.IntRange(2), help="With --shape: of so many classes.")
@click.option("--images", type=click.IntRange(2), help="With --shape: so many to train on.")
@label_option
@side_option
@val_option
@test_option
@seed_option
@device_option
@option("--seconds", type=Number(0, min_open=True), default=20.0, help="How long to look; a step of each loop is made in any case.")
@json_option
@quiet_option
def plan(source: str | None, method: str, preset: str, shape: str | None, classes: int | None, images: int | None, label: str | None, side: int | None, val: float, test: float,
         seed: int, device: str, seconds: float, as_json: bool, quiet: bool, **budget: Any) -> None:  # fmt: skip
    """Predict time, memory and bytes of distilling SOURCE, or pictures of --shape, from a short look at the method at work here.

    Nothing is written. Of a large source of pictures a few are decoded, the others counted.
    """
    from dataclasses import replace

    from .. import data as sources
    from .. import methods
    from ..allocator import tune
    from ..api import choose_device
    from ..data.decoded import HELD
    from ..data.imagined import imagined
    from ..data.standin import Standin
    from ..data.task import Budget, Task
    from ..plan import plan as predict

    tune()
    progress = stderr_progress(quiet)
    by_hand = (shape, classes, images)
    if (source is None) == (None in by_hand) or (source is not None and by_hand != (None, None, None)):
        raise UsageError("a plan for neither a source nor a shape" if source is None else "a plan for a source and a shape", "SOURCE, or all of --shape, --classes and --images",
                         "datadistill plan --shape 3x224x224 --classes 1000 --images 1281167")  # fmt: skip
    chosen = choose_device(device)
    how = methods.get(method)
    preset = how.preset_on(preset, chosen)
    given = settings.parse_settings(budget["set"])
    how.preset(preset).with_settings(given)  # what is wrong with them is said before anything is read
    ipc, n_bytes = settings.parse_ipc(budget["ipc"]), settings.parse_bytes(budget["bytes"])
    ipc = 10 if (ipc, budget["size"], budget["ratio"], n_bytes) == (None, None, None, None) else ipc
    with Stop(progress):
        if source is None:
            train, held = imagined(_shape(shape or ""), classes or 0, images or 0)
            what = f"{images:,} imagined pictures of {safe(shape)}, {classes:,} classes"
        else:
            found = sources.load(source, label=label, seed=seed, val=val, test=test, size=side, sample=SAMPLE, progress=progress)
            train, held = found.train, found.val
            what = found.found.lines()[0]
        how = how.preset(preset, train.modality).with_settings(given)
        how.check(train.modality)
        task = Task.of(train, held, Budget(ipc, budget["size"], budget["ratio"], n_bytes), how.label_bytes(train))
        seen = predict(how, task, seed=seed, device=chosen, budget=seconds)
        if source is not None and isinstance(train.stored, Standin):
            whole = found.train.stored[0].numel() * sum(map(len, (found.train, found.val, found.test)))
            seen = replace(seen, read=(train.stored.seconds * whole / train.stored[0].numel(), whole if whole > HELD else 0))
    items = int(task.quota.sum())
    if as_json:
        click.echo(json.dumps({"source": safe(source, 4096) if source else None, "method": how.name, "preset": preset, "items": items, "device": chosen, **seen.to_json()}))
        return
    click.echo(what)
    click.echo(f"{how.name} ({preset} settings), {items:,} items, on {safe(chosen)}")
    click.echo("\n".join(seen.lines()))


def _shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        raise UsageError(f"--shape {safe(text)!r}", "channels, height and width", "--shape 3x224x224") from None
