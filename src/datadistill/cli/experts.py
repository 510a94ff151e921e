"""`datadistill experts`: the nets that trajectory methods follow, trained ahead."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from ..progress import Bar, Progress, stderr_progress
from ..text import safe, size
from .options import Number, data_options, engine_options, json_option, option, quiet_option
from .signals import Stop


@click.command()
@click.argument("source")
@option("--net", default="auto", help="A net family without batch norm; auto: the first for the kind of data.")
@option("--width", type=click.IntRange(1), help="Channels or units of its layers; without it the family's own.")
@option("--experts", "count", type=click.IntRange(1), default=100, help="How many.")
@option("--epochs", type=click.IntRange(1), default=50, help="How long each is trained; a method needs max_start - 1 + expert_epochs.")
@option("--lr", type=Number(0, min_open=True), default=0.01, help="Learning rate.")
@option("--batch", type=click.IntRange(1), default=256, help="Examples per step.")
@option("--flat", is_flag=True, help="Towards flat minima, as ftd and datm take them: GSAM with rho 0.01, alpha 0.3.")
@data_options
@click.option("--dry-run", is_flag=True, help="Say what would be made, and how large it is.")
@json_option
@engine_options
@quiet_option
def experts(source: str, net: str, width: int | None, count: int, epochs: int, lr: float, batch: int, flat: bool, label: str | None, side: int | None, flip: bool,
            val: float, test: float, seed: int, device: str, dry_run: bool, as_json: bool, quiet: bool, **who: Any) -> None:  # fmt: skip
    """Train experts on SOURCE and keep their parameters of every epoch in the cache, for mtt, tesla, att, selmatch, ftd and datm.

    A method with the same seed, net and width finds them there, and makes what is missing. Stopped and begun again, it goes on.
    """
    from .. import data as sources
    from .. import store
    from ..allocator import tune
    from ..api import choose_device
    from ..engine import opened
    from ..run import Run
    from ..training.experts import Experts, Teaching

    tune()
    progress = stderr_progress(quiet)
    chosen = choose_device(device)
    with Stop(progress), opened(**who) as engine:
        found = sources.load(source, label=label, seed=seed, val=val, test=test, size=side, flip=flip, progress=progress)
        for line in found.found.lines():
            progress.say(line)
        cache = store.Cache()
        overall = Overall(progress)
        run = Run(seed, device=chosen, snapshots=cache, progress=overall, engine=engine)
        teaching = Teaching(lr=lr, batch=batch, rho=0.01 if flat else 0.0, alpha=0.3 if flat else 0.0)
        family = found.train.modality.nets[0] if net == "auto" else net
        pool = Experts(found.train, run, net=family, width=width, count=count, teaching=teaching)
        room, steps = pool.missing(epochs, cache.has)
        folder = store.cache_folder()
        progress.say(f"{count} experts of {safe(family)} ({len(pool.net):,} parameters) for {epochs} epochs: {size(room)} and {steps:,} training steps to make, in {safe(folder, 4096)}")
        if folder is not None and room:
            store.check_room(folder / "experts", room)
        if not dry_run and steps:
            with overall.begin("training experts", count * epochs * pool.per_epoch):
                pool.prepare(epochs)
        for note in [*run.notes, *cache.notes]:
            progress.say(note)
    result = {"experts": count, "epochs": epochs, "net": family, "parameters": len(pool.net), "steps": steps, "bytes": room, "dry_run": dry_run}
    click.echo(json.dumps(result) if as_json else f"{count} experts, {epochs} epochs each{', would be made' if dry_run else ''}: {steps:,} steps, {size(room)} new")


class Overall:
    """Progress that shows one bar over all that is trained, and none for each expert."""

    def __init__(self, progress: Progress):
        self.progress, self._bar = progress, None

    def say(self, message: str) -> None:
        self.progress.say(message)

    @contextmanager
    def begin(self, label: str, total: int) -> Iterator[None]:
        with self.progress.bar(label, total) as self._bar:
            yield

    @contextmanager
    def bar(self, label: str, total: int, done: int = 0) -> Iterator[Overall]:
        yield self

    def advance(self, n: int, values: Mapping[str, float] | None = None) -> None:
        bar: Bar | None = self._bar
        if bar is not None:
            bar.advance(n)
