"""`datadistill teacher`: a net trained on the real data, as a file that decoupled methods and labels can use."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from ..progress import stderr_progress
from ..text import safe, size
from .options import Number, data_options, json_option, option, quiet_option
from .signals import Stop


@click.command()
@click.argument("source")
@option("--net", default="auto", help="A net family; auto: the first with batch norm for the kind of data.")
@option("--width", type=click.IntRange(1), help="Channels or units of its layers; without it the family's own.")
@option("--weights", help="Begin with these: a .safetensors file, or from the Hub resnet18, resnet34, resnet50 (torchvision's), or a name of timm (resnet18.a1_in1k).")
@option("--sha256", help="What the file of --weights must have; for one from the Hub it must be said.")
@option("--epochs", type=click.IntRange(0), help="How long it is trained.  [default: 60; with --weights 0, or 10 where its classes are others]")
@option("--batch", type=click.IntRange(2), default=128, help="Examples per step.")
@option("--optimizer", type=click.Choice(["sgd", "adamw"]), default="sgd", help="SGD with Nesterov momentum, or AdamW.")
@option("--lr", type=Number(0, min_open=True), help="Peak learning rate; without it 0.1 for sgd, 0.001 for adamw, and a tenth of these with --weights.")
@option("--ema", type=Number(0, 1, max_open=True), default=0.0, help="Decay per step of an average of the weights, which then is the teacher.")
@option("--patience", type=click.IntRange(1), help="Stop after so many epochs without a better validation accuracy, and take the best epoch.")
@data_options
@option("--out", type=click.Path(path_type=Path), required=True, help="The file to write.")
@click.option("--dry-run", is_flag=True, help="Say what would be trained.")
@json_option
@quiet_option
def teacher(source: str, out: Path, net: str, width: int | None, weights: str | None, sha256: str | None, epochs: int | None, label: str | None, side: int | None, flip: bool, val: float, test: float, seed: int, device: str,
            dry_run: bool, as_json: bool, quiet: bool, **how: Any) -> None:  # fmt: skip
    """Train a teacher on SOURCE and write it to --out, for `distill --set teacher=FILE` and `labels write --teacher FILE`.

    With --weights it begins with those of a ResNet that torchvision or timm has published: as they are where SOURCE has as many classes (taken
    to be the same, in the order of their names), else under a new head. On a GPU it trains in bfloat16, channels last.

    Stopped and begun again, it goes on; a method with the same seed, net and width that trains its own finds it in the cache.
    """
    from .. import data as sources
    from .. import nets, store
    from ..allocator import tune
    from ..api import choose_device
    from ..run import Run
    from ..training.fit import accuracy
    from ..training.pretrained import pretrained, shown
    from ..training.teachers import Squeeze
    from ..training.teachers import teacher as train
    from ..training.weights import pack

    tune()
    progress = stderr_progress(quiet)
    if sha256 is not None and weights is None:
        raise UsageError("--sha256 without --weights", "the hash of what --weights names")
    if weights is not None and width is not None:
        raise UsageError("--width with --weights, which have one", "one of them")
    known = pretrained(weights, sha256) if weights is not None else None
    with Stop(progress) as stop, store.lock(out):
        store.reap(out)
        found = sources.load(source, label=label, seed=seed, val=val, test=test, size=side, flip=flip, progress=progress)
        for line in found.found.lines():
            progress.say(line)
        kinds = found.train.modality.nets
        family = next((name for name in kinds if nets.FAMILIES[name].batch_norm), kinds[0]) if net == "auto" else net
        train_on, judge_on, start = found.train, found.val, None
        if known is not None:
            if net not in ("auto", known.family, known.family.removesuffix("-224")):
                raise UsageError(f"--net {safe(net)}, and weights of a {known.family}", "the same net, or --net auto", f"--net {known.family}")
            family, train_on, judge_on, start = known.family, shown(found.train), shown(found.val), known.starts(found.train.modality.spec)
            whole = known.classes == len(found.found.classes)
            progress.say(f"{known.family} with weights {safe(weights, 500)}, sha256 {known.sha256}: " + ("head included, its classes taken to be these, in this order" if whole else f"for {known.classes:,} classes, so the head is new"))
            epochs = (0 if whole else 10) if epochs is None else epochs
            how["lr"] = how["lr"] or {"sgd": 0.01, "adamw": 0.0001}[how["optimizer"]]
            if epochs == 0 and not whole:
                raise UsageError(f"weights for {known.classes:,} classes, {len(found.found.classes)} in the data, and no epochs", "some epochs, in which a new head is trained", "--epochs 10")
        squeeze = Squeeze(epochs=60 if epochs is None else epochs, **how)
        if squeeze.epochs == 0 and known is None:
            raise UsageError("no epochs and no weights", "--epochs of at least 1, or --weights")
        result: dict[str, Any] = {"net": family, "width": width, "epochs": squeeze.epochs, "out": safe(out, 4096), "dry_run": dry_run}
        result |= {"weights": safe(weights, 4096), "weights_sha256": known.sha256} if known is not None else {}
        if not dry_run:
            cache = store.Cache()
            run = Run(seed, device=choose_device(device), snapshots=cache, progress=progress)
            stop.watch(run)
            phi = train(train_on, run, squeeze, net=family, width=width, val=judge_on, start=start)
            reached = accuracy(phi, judge_on, judge_on.labels, device=run.device) if len(judge_on) else None
            about = {"squeeze": asdict(squeeze), "seed": seed, "fingerprint": found.train.fingerprint, "validation_accuracy": reached}
            about |= {"weights": known.where, "weights_sha256": known.sha256} if known is not None else {}
            data = pack(phi, width, train_on.modality.spec, about)
            store.write_file(out, data)
            for note in [*run.notes, *cache.notes]:
                progress.say(note)
            cost = {"seconds": run.seconds, "flops": run.flops}
            result |= {"parameters": nets.parameter_count(phi), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "validation_accuracy": reached, "cost": cost}
    if as_json:
        click.echo(json.dumps(result))
    elif dry_run:
        what = f"train {safe(family)} for {squeeze.epochs} epochs" if squeeze.epochs else f"take {safe(family)} as it is"
        click.echo(f"would {what} and write {safe(out, 4096)}")
    else:
        right = f"{result['validation_accuracy']:.1%} of validation" if result["validation_accuracy"] is not None else "no validation split"
        click.echo(f"{safe(family)}, {result['parameters']:,} parameters, {size(result['bytes'])} in {safe(out, 4096)}: {right}")
