"""Predicted and measured: what `datadistill plan` says of a job, and what the job then takes.

    OMP_NUM_THREADS=1 python benchmarks/plan.py [--seconds 6] [--only dm,herding]

Prints and writes results/plan.json. Both sides are in processes of their own, on one thread, in CPU seconds (other work on the machine changes them
less than the time on the wall) and MiB of VmHWM. Pixels are random: the cost does not depend on what is on them. Jobs are small, and the
last three have many classes, which are predicted from fewer of them.
"""

from __future__ import annotations

import argparse
import json
import time

from common import child, reference_task, threads, write

# name -> (method, settings, classes, images, side, ipc); 10 classes of 1,000 images of 3x32x32 where nothing is said
JOBS = {
    "herding": ("herding", {"steps": 150}, None),
    "dm": ("dm", {"iterations": 60, "width": 32, "real_batch": 64}, None),
    "mtt": ("mtt", {"iterations": 40, "experts": 2, "steps": 5, "expert_epochs": 1, "max_start": 3, "width": 16, "alpha": 0.02}, None),
    "sre2l": ("sre2l", {"iterations": 120, "epochs": 3, "width": 8, "label_epochs": 20}, None),
    "rded": ("rded", {"epochs": 3, "width": 8, "label_epochs": 20}, None),
    "dm, 100 classes": ("dm", {"iterations": 12, "width": 16, "real_batch": 32}, (100, 10_000, 32, 2)),
    "sre2l, 1000 classes": ("sre2l", {"iterations": 20, "epochs": 2, "width": 8}, (1000, 20_000, 16, 1)),
    "random-labelled, 300 classes": ("random-labelled", {"epochs": 2, "width": 8, "label_epochs": 4}, (300, 9_000, 32, 2)),
}


def job(name: str):
    from datadistill import methods
    from datadistill.data.imagined import imagined
    from datadistill.data.task import Budget, Task

    method, settings, shape = JOBS[name]
    known = methods.get(method).hyperparameters()
    made = methods.get(method, **{k: v for k, v in settings.items() if k in known})
    if shape is None:
        return made, reference_task(ipc=10)
    classes, images, side, ipc = shape
    train, val = imagined((3, side, side), classes, images)
    return made, Task.of(train, val, Budget(ipc=ipc))


def predict(name: str, seconds: float) -> dict:
    from datadistill import allocator
    from datadistill.plan import plan

    allocator.tune()
    threads(1)
    method, task = job(name)
    found = plan(method, task, budget=seconds, clock=time.process_time)
    return {"seconds": round(found.seconds, 2), "low": round(found.low, 2), "high": round(found.high, 2), "MiB": round(found.memory / 2**20), "bytes": found.bytes,
            "cache": found.cache, "looked": round(found.looked, 2)}  # fmt: skip


def measure(name: str) -> dict:
    from datadistill import allocator
    from datadistill.memory import peak_bytes
    from datadistill.run import Nowhere, Run
    from datadistill.synthetic.artifact import Artifact

    allocator.tune()
    threads(1)
    method, task = job(name)
    kept, begun = Nowhere(), time.process_time()
    artifact = Artifact.of(method.distill(task, Run(0, snapshots=kept)), {})
    return {"seconds": round(time.process_time() - begun, 2), "MiB": round(peak_bytes() / 2**20), "bytes": artifact.bytes, "cache": kept.bytes()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--child", nargs="+")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--only", default=",".join(JOBS).replace(", ", "/"))
    args = parser.parse_args()
    if args.child:
        what, name = args.child[0], args.child[1]
        print(json.dumps(predict(name, args.seconds) if what == "predict" else measure(name)))
        return
    lines = []
    for name in (part.replace("/", ", ") for part in args.only.split(",")):
        predicted, measured = child(__file__, "predict", name, "--seconds", args.seconds), child(__file__, "measure", name)
        method, settings, shape = JOBS[name]
        lines.append({"job": name, "settings": settings, "classes, images, side, ipc": shape or (10, 10_000, 32, 10), "predicted": predicted, "measured": measured,
                      "seconds, predicted over measured": round(predicted["seconds"] / measured["seconds"], 2),
                      "memory, predicted over measured": round(predicted["MiB"] / measured["MiB"], 2), "bytes equal": predicted["bytes"] == measured["bytes"]})  # fmt: skip
        print(json.dumps(lines[-1]), flush=True)
    write("plan", {"lines": lines})


if __name__ == "__main__":
    main()
