"""The commands. Results go to standard output, everything else to standard error."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from .. import __version__
from ..errors import BadInput, DistillError, Resources, UsageError
from ..progress import Progress, stderr_progress
from ..text import duration, safe, size
from . import settings
from .experts import experts
from .labels import labels
from .options import (
    Number,
    device_option,
    engine_options,
    flip_option,
    json_option,
    label_option,
    option,
    quiet_option,
    seed_option,
    side_option,
    test_option,
    val_option,
)
from .plan import plan
from .signals import Stop
from .teacher import teacher

SOURCE_HELP = "A folder of pictures, an .npz, .csv, .tsv or .parquet file, hf:NAME, or digits."

SHARED = ("distill", "experts")  # what several processes of torchrun can do together
out_option = option("--out", type=click.Path(path_type=Path), required=True, help="Where to write.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="datadistill")
@click.option("--recipe", type=click.Path(path_type=Path), envvar="DATADISTILL_RECIPE", help="Settings from this TOML file instead of ./recipe.toml.")
@click.pass_context
def cli(ctx: click.Context, recipe: Path | None) -> None:
    """Make a small data set that trains models nearly as well as the big one, and say honestly whether it does."""
    ctx.default_map = settings.from_recipe(recipe, cli.commands)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and ctx.invoked_subcommand not in SHARED:
        raise UsageError(f"{ctx.invoked_subcommand} by several processes of torchrun", f"one process; several share {' and '.join(SHARED)}", "without torchrun, with --workers where there is work for several")


cli.add_command(experts)
cli.add_command(labels)
cli.add_command(plan)
cli.add_command(teacher)


@cli.command()
@click.argument("source", required=False)
@option("--method", "-m", default="dm", help="See `datadistill methods`.")
@option("--ipc", help="Items per class: a number, sqrt, proportional, or cat=3,dog=10.  [default: 10]")
@option("--size", type=int, help="Items in all.")
@option("--ratio", type=Number(), help="Share of the real training set, such as 0.01.")
@option("--bytes", help="Samples and labels as stored, such as 5MB.")
@option("--preset", type=click.Choice(["auto", "paper", "quick"]), default="auto", help="The hyper-parameters to start from; auto: quick on a CPU, else the paper's.")
@option("--set", multiple=True, metavar="NAME=VALUE", help="A hyper-parameter of the method; any number of times.")
@out_option
@label_option
@side_option
@flip_option
@val_option
@test_option
@option("--license", help="Licence of the real data, carried into the card.")
@option("--source-url", help="Where the real data come from, carried into the card.")
@option("--resume", type=click.Choice(["auto", "never", "must"]), default="auto", help="Go on from a snapshot of the same configuration.")
@click.option("--from", type=click.Path(path_type=Path), help="Repeat the run of this recipe.lock.")
@seed_option
@device_option
@click.option("--dry-run", is_flag=True, help="Read the data and say what would be done.")
@engine_options
@json_option
@quiet_option
@click.pass_context
def distill(ctx: click.Context, **flags: Any) -> None:
    """Distil SOURCE into a small set in the folder --out."""
    from .. import api
    from ..allocator import tune
    from ..engine import opened

    tune()
    progress = stderr_progress(flags["quiet"])
    job, promised = _job(ctx, flags)
    with Stop(progress) as stop, opened(flags["engine"], flags["workers"], flags["address"], job.threads) as engine:
        artifact = api.run_job(
            job, out=flags["out"], resume=flags["resume"], license=flags["license"], source_url=flags["source_url"], progress=progress, started=stop.watch, dry_run=flags["dry_run"],
            engine=engine,
        )  # fmt: skip
    manifest, about = artifact.manifest, artifact.about
    if promised is not None and promised != artifact.sha256 and not flags["dry_run"]:
        progress.say(f"warning: this run came to sha256 {artifact.sha256}, recipe.lock names {safe(promised)}: other versions or another machine")
    if flags["as_json"]:
        keys = ("sha256", "budget", "method", "seed", "cost", "contains_originals", "notes")
        click.echo(json.dumps({"out": safe(flags["out"], 4096), "dry_run": flags["dry_run"], **{k: manifest[k] for k in keys if k in manifest}}))
    elif flags["dry_run"]:
        click.echo(f"would distil {artifact.items} items, {size(artifact.bytes)}, by {about['method']['name']} into {safe(flags['out'], 4096)}")
    else:
        click.echo(f"{artifact.items} items, {size(artifact.bytes)} in {safe(flags['out'], 4096)} after {duration(about['cost']['seconds'])}")
        click.echo(f"report: {safe(flags['out'] / 'report.html', 4096)}")


def _job(ctx: click.Context, flags: dict[str, Any]):
    """The job that the flags describe, and the sha256 that a recipe.lock promised."""
    from ..job import Job

    ipc, n_bytes = settings.parse_ipc(flags["ipc"]), settings.parse_bytes(flags["bytes"])
    given = {
        "source": flags["source"], "label": flags["label"], "side": flags["side"], "flip": flags["flip"], "val": flags["val"], "test": flags["test"], "seed": flags["seed"],
        "method": flags["method"], "preset": flags["preset"], "settings": settings.parse_settings(flags["set"]), "ipc": ipc, "size": flags["size"], "ratio": flags["ratio"],
        "bytes": n_bytes, "device": flags["device"],
    }  # fmt: skip
    if flags["from"] is None:
        if flags["source"] is None:
            raise UsageError("no SOURCE", SOURCE_HELP, "datadistill distill digits --out tiny")
        if (ipc, flags["size"], flags["ratio"], n_bytes) == (None, None, None, None):
            given["ipc"] = 10
        return Job(**given), None
    job, promised = Job.from_lock(flags["from"])
    typed = {"set": "settings"}
    changed = {typed.get(n, n): given[typed.get(n, n)] for n in flags if typed.get(n, n) in given and ctx.get_parameter_source(n) is click.core.ParameterSource.COMMANDLINE}
    if set(changed) - {"source", "device"}:
        raise UsageError(f"--from with --{' --'.join(sorted(set(changed) - {'source', 'device'}))}", "--from alone: it repeats a run", "leave them out, or leave out --from")
    job = replace(job, **changed)
    if job.source is None:
        raise UsageError("this recipe.lock is of data given in memory", "a SOURCE with the same data", "datadistill distill SOURCE --from recipe.lock --out DIR")
    return job, promised


@cli.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@option("--data", "source", required=True, help="The data that the set stands for. " + SOURCE_HELP)
@option("--protocol", default="standard", help="quick, standard or paper.")
@option("--nets", help="The students to train, such as resnet18,vgg:16,vit,mlp (16: its width); without it the protocol chooses.")
@option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", help="In which students are trained; bfloat16 is faster for wide ones on devices that have instructions for it.")
@click.option("--require-pass", is_flag=True, help="Exit with 3 unless the verdict is PASS.")
@click.option("--dry-run", is_flag=True, help="Read everything and say what would be trained.")
@label_option
@side_option
@seed_option
@device_option
@engine_options
@json_option
@quiet_option
def evaluate(artifact: Path, source: str, protocol: str, nets: str | None, precision: Any, require_pass: bool, dry_run: bool, label: str | None, side: int | None, seed: int, device: str, as_json: bool,
             quiet: bool, **who: Any) -> int:  # fmt: skip
    """Train students from scratch on ARTIFACT, random examples, the best coreset and full data, and say PASS, USE-CORESET or FAIL."""
    from .. import api
    from ..allocator import tune
    from ..engine import opened
    from ..evaluate.protocol import protocol_named

    tune()
    progress = stderr_progress(quiet)
    chosen = replace(protocol_named(protocol), precision=precision)
    chosen = chosen.with_nets(nets) if nets is not None else chosen
    with Stop(progress):
        loaded = api.load(artifact)
        data = api.load_as_distilled(loaded, source, label=label, side=side, progress=progress)
        for line in data.found.lines():
            progress.say(line)
        if dry_run:
            students = chosen.students(loaded.modality, tuple(loaded.about.get("method", {}).get("nets", ())))
            click.echo(f"would train {', '.join(students)} by protocol {chosen.name} ({chosen.hash}) on 5 arms, {chosen.seeds} seeds each")
            return 0
        with opened(**who) as engine:
            result = api.judge_artifact(loaded, data, chosen, seed=seed, device=device, progress=progress, engine=engine)
        kept = artifact.is_dir() and _keep(result, loaded, artifact, progress)
    if as_json:
        click.echo(json.dumps(result))
    else:
        click.echo("\n".join(table(result)))
        if kept:
            click.echo(f"report: {safe(artifact / 'report.html', 4096)}")
    return 3 if require_pass and result["verdict"] != "PASS" else 0


def _keep(result: dict[str, Any], loaded: Any, path: Path, progress: Progress) -> bool:
    """Write a verdict into the artifact it is about. After hours of work a disk that refuses, or another artifact under that name, is no reason to lose it."""
    from .. import api, store

    try:
        with store.lock(path):
            if api.load(path).sha256 != loaded.sha256:
                raise BadInput("another artifact has been put there meanwhile")
            loaded.files["evaluation.json"] = json.dumps(result, indent=1).encode()
            api.add_page(loaded)
            loaded.save(path)
            return True
    except (BadInput, Resources) as error:
        progress.say(f"warning: the verdict is not kept in {safe(path, 500)}: {error.got}")
        return False


def table(result: dict[str, Any]) -> list[str]:
    """An evaluation as lines for a terminal."""
    lines = [f"{result['verdict']}: {safe(result['reason'], 500)}", "", f"{'arm':<26}{'items':>8}  accuracy, 95% interval over {len(result['seeds'])} seeds"]
    titles = {"distilled": "this set", "random": "random", "full": "full data", "full_equal_steps": "full data, equal steps"}
    for name, arm in result["arms"].items():
        title = f"coreset ({arm['method']})" if name == "coreset" else titles[name]
        low, high = arm["accuracy"]["ci95"]
        each = ", ".join(f"{s} {v['mean']:.1%}" for s, v in arm["students"].items())
        lines.append(f"{title:<26}{arm['items']:>8}  {arm['accuracy']['mean']:6.1%}  [{low:.1%}, {high:.1%}]   {each}")
    cost = result["cost"]
    pays = f"after {cost['break_even_trainings']:.0f} trainings" if cost["break_even_trainings"] is not None else "never: training on it is not cheaper"
    lines += ["", f"{result['budget']['items']} items, {size(result['budget']['bytes'])} with labels; a student takes {duration(cost['student']['seconds'])}, on full data {duration(cost['full']['seconds'])}; pays for itself {pays}"]
    return lines


@cli.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@json_option
def verify(artifact: Path, as_json: bool) -> None:
    """Check every file of ARTIFACT (a folder or its zip) against its manifest. Integrity, not innocence."""
    from ..synthetic.artifact import Artifact
    from ..synthetic.artifact import verify as check

    wrong = check(artifact)
    if as_json:
        click.echo(json.dumps({"ok": not wrong, "problems": wrong}))
    if wrong:
        raise BadInput(f"{safe(artifact)} is damaged: " + "; ".join(wrong[:10]), "the files that the manifest lists", "get it again, or distil again")
    if not as_json:
        click.echo(f"whole: {Artifact.load(artifact)!r}")


@cli.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Write the page there instead of into the artifact.")
@json_option
def report(artifact: Path, out: Path | None, as_json: bool) -> None:
    """Write ARTIFACT's page again and print where it lies."""
    from .. import api, store

    loaded = api.load(artifact)
    api.add_page(loaded)
    if out is None and artifact.is_dir():
        with store.lock(artifact):
            loaded.save(artifact)
        out = artifact / "report.html"
    elif out is None:
        raise UsageError("a zip is not written into", "--out FILE", "--out report.html")
    else:
        store.write_file(out, loaded.files["report.html"])
    click.echo(json.dumps({"page": safe(out, 4096)}) if as_json else safe(out, 4096))


@cli.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@option("--to", required=True, help="imagefolder, npz, parquet, csv or hf.")
@out_option
@click.option("--dry-run", is_flag=True, help="Read the artifact and say what would be written.")
@json_option
def export(artifact: Path, to: str, out: Path, dry_run: bool, as_json: bool) -> None:
    """Write ARTIFACT in a form that other tools read."""
    from ..synthetic.artifact import Artifact
    from ..synthetic.export import FORMATS
    from ..synthetic.export import export as write

    if to not in FORMATS:
        raise UsageError(f"no export format {safe(to)!r}", f"one of {', '.join(FORMATS)}")
    loaded = Artifact.load(artifact)
    if not dry_run:
        write(loaded, to, out)
    if as_json:
        click.echo(json.dumps({"out": safe(out, 4096), "format": to, "items": len(loaded), "dry_run": dry_run}))
    else:
        click.echo(f"would write {len(loaded)} items as {to} to {safe(out, 4096)}" if dry_run else safe(out, 4096))


@cli.command()
@click.argument("source")
@label_option
@side_option
@seed_option
@val_option
@test_option
@json_option
@quiet_option
def inspect(source: str, label: str | None, side: int | None, seed: int, val: float, test: float, as_json: bool, quiet: bool) -> None:
    """Say what SOURCE is: its kind, shapes, classes, split and rejects."""
    from .. import data

    found = data.load(source, label=label, seed=seed, val=val, test=test, size=side, progress=stderr_progress(quiet)).found
    click.echo(json.dumps(found.to_json()) if as_json else "\n".join(safe(line, 2000) for line in found.lines()))


@cli.command("methods")
@json_option
def list_methods(as_json: bool) -> None:
    """List the methods: family, paper, the kinds of data they take, what they scale over, hyper-parameters."""
    from ..methods import all_methods

    rows = [
        {"name": m.name, "family": m.family, "paper": str(m.paper), "modalities": m.takes(), "scales_over": m.scales_over, "about": (m.__doc__ or "").strip().splitlines()[0], "stores": m.stores, "when": m.when, "hyperparameters": m.hyperparameters(), "quick": dict(m.quick), "quick_table": dict(m.quick_table)}
        for m in all_methods().values()
    ]
    if as_json:
        click.echo(json.dumps(rows, default=str))
        return
    for row in rows:
        values = ", ".join(f"{k}={v}" for k, v in row["hyperparameters"].items()) or "none"
        click.echo(f"{row['name']}  ({row['family']}; {', '.join(row['modalities'])}; scales over {row['scales_over'] or 'nothing'})")
        click.echo(f"    {row['about']}\n    for: {row['when'] or 'not said'}; stores {row['stores']}\n    {row['paper']}\n    {values}")
        for key, label in (("quick", "quick"), ("quick_table", "and for tables")):
            if row[key]:
                click.echo(f"    {label}: " + ", ".join(f"{k}={v}" for k, v in row[key].items()))


@cli.command()
@json_option
def doctor(as_json: bool) -> None:
    """Say what this machine offers: versions, devices, memory, disk, extras."""
    from .doctor import facts

    found = facts()
    click.echo(json.dumps(found) if as_json else "\n".join(f"{k:<18}{v}" for k, v in found.items()))


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for a shell, e.g. `source <(datadistill completion bash)`."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise DistillError(f"click has no completion for {shell}")
    click.echo(kind(cli, {}, "datadistill", "_DATADISTILL_COMPLETE").source())
