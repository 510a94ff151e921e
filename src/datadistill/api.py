"""The library in three verbs: `distill`, `evaluate`, `load`. The command line is a thin cover over these."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from . import data as sources
from . import dist, methods, report, store
from . import engine as engines
from .bench import evaluate as evaluate_splits
from .data import Data
from .data.task import Budget, Task
from .engine import Engine
from .engine.ranks import Ranks
from .errors import BadInput, DistillError, NotFinite, UsageError
from .evaluate import Protocol
from .evaluate.protocol import protocol_named
from .gallery import gallery, items
from .job import Job, packages
from .memory import peak_bytes
from .progress import Progress, Quiet
from .run import Run
from .synthetic import SyntheticSet
from .synthetic.artifact import Artifact, loading_code
from .text import safe

Resume = Literal["auto", "never", "must"]


def distill(
    source: Any,
    method: str = "dm",
    *,
    ipc: int | str | Mapping[str, int] | None = None,
    size: int | None = None,
    ratio: float | None = None,
    bytes: int | None = None,
    label: str | None = None,
    side: int | None = None,
    flip: bool = True,
    val: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    device: str = "auto",
    out: str | Path | None = None,
    resume: Resume = "auto",
    license: str | None = None,
    source_url: str | None = None,
    preset: Literal["auto", "paper", "quick"] = "auto",
    progress: Progress | None = None,
    workers: int | None = None,
    engine: str | None = None,
    address: str | None = None,
    **settings: Any,
) -> Artifact:
    """Distil a source into a small set.

    source    a path or name (see docs/data.md), or arrays (X, y), tensors, a torch Dataset, a pandas frame with `label`
    method    a name from `datadistill methods`; its hyper-parameters are further keyword arguments
    preset    what those that are not given start from: "paper" (the defaults), "quick" (minutes on a CPU), "auto" (quick on a CPU)
    ipc, size, ratio, bytes     the budget, see `Budget`; ipc=10 if none is given
    out       a folder to publish the artifact to; with it the run is locked, snapshotted and resumable
    workers, engine, address    who does the work that is made of units: see `engine.engine` and docs/scale.md
    Returns the Artifact. Raises DistillError (UsageError, BadInput, Resources, NotFinite, Interrupted).
    """
    path = None if not isinstance(source, (str, Path)) else str(source)
    if (ipc, size, ratio, bytes) == (None, None, None, None):
        ipc = 10
    job = Job(path, label, side, flip, val, test, seed, method, preset, settings, ipc, size, ratio, bytes, device)
    with engines.opened(engine, workers, address) as opened:
        return run_job(job, source=source, out=out, resume=resume, license=license, source_url=source_url, progress=progress, engine=opened)


def run_job(
    job: Job,
    *,
    source: Any = None,
    out: str | Path | None = None,
    resume: Resume = "auto",
    license: str | None = None,
    source_url: str | None = None,
    progress: Progress | None = None,
    started: Callable[[Run], None] = lambda run: None,
    dry_run: bool = False,
    engine: Engine | None = None,
) -> Artifact:
    """`distill` from a Job. `started` is given the Run before it begins (for signal handlers); dry_run stops before it.

    As one of several ranks: all read the data and do the same steps; the first alone locks, keeps and publishes.
    """
    progress = progress or Quiet()
    device = choose_device(job.device)
    method = methods.get(job.method)
    preset = method.preset_on(job.preset, device)
    method.preset(preset).with_settings(job.settings)  # what is wrong with them is said before anything is read
    budget = Budget(job.ipc, job.size, job.ratio, job.bytes)
    if job.threads and job.threads != torch.get_num_threads():
        torch.set_num_threads(job.threads)
    first = dist.rank() == 0
    with store.lock(out) if out is not None and not dry_run and first else _nothing() as _:
        if out is not None and not dry_run and first:
            _ready(out, progress)
        try:
            data = sources.load(job.source if source is None else source, label=job.label, seed=job.seed, val=job.val, test=job.test, size=job.side, flip=job.flip, progress=progress)
        except sources.Unreadable as error:
            if out is not None:
                kept = Path(f"{out}.rejects.csv")
                sources.write_rejects(kept, error.rejects)
                error.fix = f"{error.fix}; every item and its reason is in {safe(kept, 500)}".removeprefix("; ")
            raise
        for line in data.found.lines():
            progress.say(line)
        method = method.preset(preset, data.train.modality).with_settings(job.settings)
        if preset == "quick":
            changed = ", ".join(f"{k}={getattr(method, k)}" for k in method.quick_for(data.train.modality))
            progress.say(f"{method.name} with its quick settings for a CPU: {changed} (--preset paper for the paper's)")
        method.check(data.train.modality)
        task = Task.of(data.train, data.val, budget, method.label_bytes(data.train))
        if job.fingerprint not in (None, task.train.fingerprint):
            raise BadInput(f"the real data have fingerprint {task.train.fingerprint[:16]}…", f"{job.fingerprint[:16]}…, as in recipe.lock", "the same source and versions")
        job = replace(job, fingerprint=task.train.fingerprint, threads=torch.get_num_threads(), device=device, preset=preset)
        notes = short_classes(task, budget)
        for note in notes:
            progress.say("warning: " + note)
        about = {
            "method": {"name": method.name, "family": method.family, "paper": str(method.paper), "preset": preset, "hyperparameters": _fields(method), "nets": list(method.nets_used(task.modality))},
            "seed": job.seed,
            "data": {**data.found.to_json(), "fingerprint": job.fingerprint, "license": license, "source_url": source_url},
            "packages": packages(),
        }
        if dry_run:
            return Artifact.of(SyntheticSet.init(task, "real", Run(job.seed).rng("init")), about)
        workspace = None
        if out is not None:
            store.check_room(out, 4 * int(task.quota.sum()) * task.train.stored[0].numel() * 4 + 2**20)
            versions = {name: version for name, version in packages().items() if name != "platform"}  # a new kernel changes no result
            workspace = store.Workspace(Path(out), {**job.to_json(), "hyperparameters": _fields(method), "packages": versions})
            if first:
                workspace.begin(resume)
            dist.most(0)  # wait for the first
            for note in workspace.notes:
                progress.say(note)
        run = Run(job.seed, device=device, snapshots=Ranks(workspace) if workspace and dist.ranks() > 1 else workspace, progress=progress, engine=engine)
        started(run)
        try:
            syn = method.distill(task, run)
        except NotFinite as error:
            if first:
                _keep_last_finite(run, about, out, error)
            raise
        about |= {
            "cost": {"seconds": run.seconds, "flops": run.flops, "peak_memory_bytes": peak_bytes(device)},
            "curve": run.curve,
            "notes": notes + run.notes,
        }
        artifact = Artifact.of(syn, about)
        artifact.files["gallery.json"] = gallery(artifact, task.train)
        artifact.files["recipe.lock"] = job.lock(artifact.sha256)
        if data.found.rejects:
            artifact.files["rejects.csv"] = sources.rejects_csv(data.found.rejects)
        add_page(artifact)
        if out is not None:
            if first:
                artifact.save(out)
            dist.most(0)  # it is published
            workspace.finish()
    return artifact


def evaluate(artifact: Artifact | str | Path, source: Any, protocol: str | Protocol = "standard", *, label: str | None = None, side: int | None = None, seed: int = 0, device: str = "auto", progress: Progress | None = None, workers: int | None = None, engine: str | None = None, address: str | None = None) -> dict[str, Any]:
    """The verdict on an artifact, as the JSON of `datadistill evaluate --json`, scored from its stored bytes in a fresh process.

    source    the data that the set stands for; the split is made again from the seed the artifact was distilled with
    workers, engine, address    who trains the students: see docs/scale.md
    """
    protocol = protocol_named(protocol) if isinstance(protocol, str) else protocol
    progress = progress or Quiet()
    with tempfile.TemporaryDirectory(prefix="datadistill-") as folder:
        path = Path(artifact) if isinstance(artifact, (str, Path)) else artifact.save(Path(folder) / "set")
        loaded = Artifact.load(path)
        data = load_as_distilled(loaded, source, label=label, side=side, progress=progress)
        job = Path(folder) / "job"
        sources.spill(data, job)
        (job / "job.json").write_text(json.dumps({"artifact": str(path.absolute()), "protocol": protocol.to_json(), "seed": seed, "device": choose_device(device), "engine": [engine, workers, address]}))
        done = subprocess.run([sys.executable, "-m", "datadistill.fresh", str(job)], capture_output=True, check=False)
        if done.returncode != 0:
            raise _retold(done.returncode, done.stderr.decode("utf-8", "replace"))
        return json.loads(done.stdout)


def judge_artifact(artifact: Artifact, data: Data, protocol: Protocol, *, seed: int, device: str, progress: Progress, cache: bool = True, engine: Engine | None = None) -> dict[str, Any]:
    """The verdict in this process: what the command line and the fresh process run. What is finished is kept until the end: one that is killed
    and begun again goes on.
    """
    device = choose_device(device)
    splits = [real.fingerprint for real in (data.train, data.val, data.test)]
    work = working_folder("evaluation", {"artifact": artifact.sha256, "protocol": protocol.to_json(), "seed": seed, "device": device, "splits": splits}) if cache else None
    result = evaluate_splits(artifact, data, protocol, seed=seed, device=device, snapshots=work, progress=progress, engine=engine)
    if work is not None:
        work.finish()
    return result


def working_folder(what: str, config: dict[str, Any]) -> store.Workspace | None:
    """Where a command that has no output folder of its own keeps what is finished until it ends, by all that decides it."""
    folder = store.cache_folder()
    if folder is None:
        return None
    versions = {name: version for name, version in packages().items() if name != "platform"}
    config = {**config, "threads": torch.get_num_threads(), "packages": versions}
    name = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:24]
    return store.Workspace(folder / f"{what}-{name}", config)


def load(path: str | Path) -> Artifact:
    """An artifact from its folder or zip, checked against its manifest; nothing is ever unpickled."""
    return Artifact.load(path)


def load_as_distilled(artifact: Artifact, source: Any, *, label: str | None, side: int | None, progress: Progress) -> Data:
    """The data with the split that the artifact was distilled from: same seed and fractions."""
    lock = json.loads(artifact.files["recipe.lock"])["job"] if "recipe.lock" in artifact.files else {}
    data = sources.load(
        source,
        label=label or lock.get("label") or artifact.spec.facts.get("label"),
        seed=lock.get("seed", 0),
        val=lock.get("val", 0.1),
        test=lock.get("test", 0.2),
        size=side or lock.get("side"),
        flip=lock.get("flip", True),
        progress=progress,
    )
    if (was := artifact.about.get("data", {}).get("fingerprint")) and was != data.train.fingerprint:
        progress.say("note: these are not the data that the set was distilled from; the verdict is about these data")
    return data


def add_page(artifact: Artifact) -> None:
    """Write (or write again) report.html into the artifact's files."""
    page = report.html(artifact.manifest, items(artifact), artifact.evaluation, loading=loading_code(artifact))
    artifact.files["report.html"] = page.encode("utf-8", "replace")


def choose_device(name: str) -> str:
    """auto: CUDA, else MPS, else the CPU; anything else is taken at its word, or refused when it is not there."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return next(d for d in ("cuda", "mps", "cpu") if there[d])
    if not there.get(name.split(":")[0], False):
        raise UsageError(f"device {safe(name)!r} is not available", f"one of auto, {', '.join(d for d in there if there[d])}")
    return name


def short_classes(task: Task, budget: Budget) -> list[str]:
    """Which classes have fewer examples than the budget asks for."""
    if not isinstance(budget.ipc, int):
        return []
    short = [f"{safe(task.spec.classes[c])} ({int(task.quota[c])})" for c in task.classes if int(task.quota[c]) < budget.ipc]
    return [f"{len(short)} class(es) have fewer than {budget.ipc} training examples, all of them are the budget: {', '.join(short[:5])}"] if short else []


def _ready(out: str | Path, progress: Progress) -> None:
    store.check_room(out, 2**20)
    if removed := store.reap(out):
        progress.say(f"removed {removed} stale temporary file(s) of an earlier run")


def _keep_last_finite(run: Run, about: dict[str, Any], out: str | Path | None, error: NotFinite) -> None:
    kept = next((s for s in run.saved if isinstance(s, SyntheticSet)), None)
    if out is None or kept is None:
        return
    path = Path(out).with_name(Path(out).name + ".last-finite")
    Artifact.of(kept, {**about, "curve": run.curve, "notes": [*run.notes, error.got]}).save(path)
    error.fix = f"{error.fix}; the last finite set is in {safe(path, 500)}"


def _fields(method: methods.Method) -> dict[str, Any]:
    return {name: getattr(method, name) for name in method.hyperparameters()}


def _retold(code: int, stderr: str) -> DistillError:
    error = DistillError(stderr.strip().removeprefix("error: ") or f"the evaluation ended with exit code {code}")
    error.exit_code = code
    return error


class _nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...
