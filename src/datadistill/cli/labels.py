"""`datadistill labels`: write other labels for a set, and keep them in fewer bytes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from ..progress import Progress, stderr_progress
from ..text import safe, size
from .options import Number, device_option, engine_options, json_option, label_option, option, quiet_option, seed_option, side_option, together
from .signals import Stop

if TYPE_CHECKING:
    from ..synthetic.artifact import Artifact

out_option = option("--out", type=click.Path(path_type=Path), help="A new folder; without it ARTIFACT is replaced.")
data_help = "The data that the set stands for."
protocol_option = option("--protocol", default="quick", help="By which students are trained, on validation data alone: quick, standard or paper.")
common = together(
    label_option,
    side_option,
    seed_option,
    device_option,
    click.option("--dry-run", is_flag=True, help="Say what would come of it, and write nothing."),
    json_option,
    quiet_option,
)


@click.group()
def labels() -> None:
    """Labels of a set: write them anew, or keep them in fewer bytes."""


@labels.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@option("--to", required=True, help="A share of the views (2.5%), fp16, int8, top10, mr10 or codes256, or a share and one of these: 2.5%,top10.")
@option("--data", "source", help=data_help + " With it the accuracy on its validation split is measured before and after.")
@protocol_option
@out_option
@common
def compress(artifact: Path, to: str, source: str | None, protocol: str, out: Path | None, label: str | None, side: int | None, seed: int, device: str,
             dry_run: bool, as_json: bool, quiet: bool) -> None:  # fmt: skip
    """Keep the labels of ARTIFACT's views in fewer bytes, and say what that costs."""
    from .. import api
    from ..allocator import tune
    from ..bench.labels import compressed

    tune()
    progress = stderr_progress(quiet)
    with Stop(progress):
        before = api.load(artifact)
        after = compressed(before, to, seed=seed)
        told = after.about["labels"]
        result: dict[str, Any] = {"to": to, "bytes_before": told["bytes_before"], "bytes": told["bytes"], "set_bytes": after.bytes, "dry_run": dry_run}
        if source is not None:
            result["accuracy_before"], result["accuracy"] = _measured([before, after], source, protocol, label, side, seed, device, progress)
            after.about["labels"] |= {k: result[k] for k in ("accuracy_before", "accuracy")}
        if not dry_run:
            result["out"] = _save(after, artifact, out)
            result["sha256"] = after.sha256
    if as_json:
        click.echo(json.dumps(result))
        return
    share = result["bytes"] / result["bytes_before"]
    click.echo(f"labels: {size(result['bytes_before'])} -> {size(result['bytes'])} ({share:.1%}), {size(result['set_bytes'])} with the examples")
    if source is not None:
        click.echo("\n".join(_changes(result["accuracy_before"], result["accuracy"])))
    if not dry_run:
        click.echo(f"in {result['out']}")


@labels.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@option("--data", "source", required=True, help=data_help + " The teacher is trained on its training split.")
@option("--kind", type=click.Choice(["hard", "soft", "views", "teacher"]), default="views", help="The class alone; one soft label each; one for each view that a student is shown; the teacher itself.")
@option("--views", type=click.IntRange(1), default=20, help="Views of each example that are labelled.")
@option("--crop", type=Number(0, 1, min_open=True), default=0.08, help="The least share of the area that a view is cropped to.")
@option("--mix", type=click.Choice(["cutmix", "none"]), default="cutmix", help="Whether a view is mixed with another example.")
@option("--loss", type=click.Choice(["kl", "mse_ce", "gift", "hald", "lpqld"]), default="kl", help="What a student that is shown views is trained with.")
@option("--temperature", type=Number(0, min_open=True), default=20.0, help="Of kl and hald, and lpqld's first.")
@option("--teacher", type=click.Path(path_type=Path), help="A file that `datadistill teacher` wrote, instead of training one.")
@option("--net", default="auto", help="The teacher's family; auto: the first with batch norm for the kind of data.")
@option("--width", type=click.IntRange(1), help="Of the teacher's layers; without it the family's own.")
@option("--epochs", type=click.IntRange(1), default=60, help="How long the teacher is trained.")
@protocol_option
@click.option("--measure", is_flag=True, help="Measure the accuracy on validation data before and after.")
@out_option
@engine_options
@common
def write(artifact: Path, source: str, kind: str, views: int, crop: float, mix: str, loss: str, temperature: float, teacher: Path | None, net: str, width: int | None, epochs: int,
          protocol: str, measure: bool, out: Path | None, label: str | None, side: int | None, seed: int, device: str, dry_run: bool, as_json: bool, quiet: bool,
          **who: Any) -> None:  # fmt: skip
    """Have a teacher write the labels of ARTIFACT, whatever method made it; its examples stay as they are."""
    from .. import api, nets, store
    from ..allocator import tune
    from ..bench.labels import label_bytes, rewritten
    from ..bench.verdict import same_space
    from ..engine import opened
    from ..labels import Objective
    from ..run import Run
    from ..training.relabel import Relabel
    from ..training.statistics import fingerprint
    from ..training.teachers import Squeeze
    from ..training.teachers import teacher as train
    from ..training.weights import unpack

    tune()
    progress = stderr_progress(quiet)
    with Stop(progress) as stop, opened(**who) as engine:
        before = api.load(artifact)
        run = Run(seed, device=api.choose_device(device), snapshots=store.Cache(), progress=progress)
        stop.watch(run)
        flip = bool(before.spec.facts.get("flip", True))
        how = Relabel(kind, views, crop, flip, mix, Objective(loss, temperature))
        result: dict[str, Any] = {"kind": kind, "views": views if kind == "views" else 0, "bytes_before": label_bytes(before.labels), "dry_run": dry_run}
        if not dry_run:
            teachers = []
            if teacher is not None:
                teachers = [unpack(teacher, before.modality, run.device)]
            elif kind != "hard":
                data = api.load_as_distilled(before, source, label=label, side=side, progress=progress)
                kinds = before.modality.nets
                family = next((name for name in kinds if nets.FAMILIES[name].batch_norm), kinds[0]) if net == "auto" else net
                teachers = [train(same_space(before, data.train), run, Squeeze(epochs=epochs), net=family, width=width)]
            decides = {"artifact": before.sha256, "how": asdict(how), "teachers": list(map(fingerprint, teachers)), "seed": seed, "device": str(run.device)}
            work = api.working_folder("labels", decides)
            run = Run(seed, device=run.device, snapshots=work, progress=progress, engine=engine)
            stop.watch(run)
            after = rewritten(before, teachers, how, run)
            if work is not None:
                work.finish()
            result |= {"bytes": after.about["labels"]["bytes"], "set_bytes": after.bytes}
            if measure:
                result["accuracy_before"], result["accuracy"] = _measured([before, after], source, protocol, label, side, seed, device, progress)
                after.about["labels"] |= {k: result[k] for k in ("accuracy_before", "accuracy")}
            result["out"] = _save(after, artifact, out)
            result["sha256"] = after.sha256
    if as_json:
        click.echo(json.dumps(result))
    elif dry_run:
        click.echo(f"would write {kind} labels for {len(before)} examples of {safe(artifact, 4096)}")
    else:
        click.echo(f"labels: {size(result['bytes_before'])} -> {size(result['bytes'])}, {size(result['set_bytes'])} with the examples")
        if measure:
            click.echo("\n".join(_changes(result["accuracy_before"], result["accuracy"])))
        click.echo(f"in {result['out']}")


def _measured(sets: list[Artifact], source: str, protocol: str, label: str | None, side: int | None, seed: int, device: str, progress: Progress) -> list[dict[str, float]]:
    from .. import api
    from ..bench.labels import accuracy
    from ..bench.verdict import same_space
    from ..evaluate.protocol import protocol_named

    chosen = protocol_named(protocol)
    data = api.load_as_distilled(sets[0], source, label=label, side=side, progress=progress)
    val = same_space(sets[0], data.val)
    if not len(val):
        raise UsageError(f"{safe(source, 300)} has no validation split to measure on", "data of which some are held out", "leave out --data, or --measure")
    return [accuracy(one, val, chosen, seed=seed, device=api.choose_device(device), progress=progress) for one in sets]


def _changes(before: dict[str, float], after: dict[str, float]) -> list[str]:
    """Accuracy on validation data, a line for each student."""
    return [f"{student:<12}{before[student]:6.1%} -> {after[student]:6.1%} ({100 * (after[student] - before[student]):+.1f} points) on validation data" for student in after]


def _save(after: Artifact, source: Path, out: Path | None) -> str:
    """Write the set, page included, to `out` or in place; where it lies."""
    from .. import api, store

    if out is None and not source.is_dir():
        raise UsageError("a zip is not written into", "--out DIR", "--out smaller")
    target = out or source
    with store.lock(target):
        api.add_page(after)
        after.save(target)
    return safe(target, 4096)
