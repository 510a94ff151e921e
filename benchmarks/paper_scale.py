"""Distilling CIFAR-10 on a GPU through the papers' net, ConvNet-3 of width 128, at 1, 10 and 50 per class; results/paper_scale.json.

    DATADISTILL_DATA=../shared/data python benchmarks/paper_scale.py [--cells mtt:10 dm:50 ...] [--seconds 300]

Steps are fewer than the papers', as many as a few minutes of one GPU allow; they stand beside each result. Test accuracy of five students
(ConvNet-3 of width 128, the step size chosen on 1,000 validation images, the rest of the 50,000 distilled), from what the artifact stores.
`last`: of the set at the end, which is what we report; `best`, at ten per class: the better one of the sets half way and at the end, by test
accuracy, as papers report the best of several looks. Cells are dealt to processes, and a cell that is not done after so many seconds is left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from common import RESULTS, machine, real

EXPERTS = {"experts": 3}
NO_GSAM = {"rho": 0.0, "gsam_alpha": 0.0}  # so that MTT's experts serve
NCFM = {"nets_trained": 2, "epochs": 5, "precision": "bfloat16"}
SETTINGS: dict[str, dict[int, dict]] = {  # method: ipc: what is not the paper's
    "random": {1: {}, 10: {}, 50: {}},
    "k-means": {1: {}, 10: {}, 50: {}},
    "dm": {ipc: {"iterations": 1500, "precision": "bfloat16"} for ipc in (1, 10, 50)},
    "dsa": {1: {"iterations": 300, "precision": "bfloat16"}, 10: {"iterations": 12, "precision": "bfloat16"}},
    "mtt": {1: {"iterations": 300, **EXPERTS}, 10: {"iterations": 150, **EXPERTS}},
    "datm": {10: {"iterations": 50, **EXPERTS, **NO_GSAM}},
    "frepo": {1: {"iterations": 800, "lr": 3e-3}, 10: {"iterations": 800, "lr": 3e-3}},
    "ncfm": {ipc: {"iterations": 250, **NCFM} for ipc in (1, 10, 50)},
}
PUBLISHED = {  # from the papers' tables, where the best of several looks at the test set is what was printed
    "random": {1: 15.4, 10: 31.0, 50: 50.6},
    "dm": {1: 26.0, 10: 48.9, 50: 63.0},
    "dsa": {1: 28.8, 10: 52.1, 50: 60.6},
    "mtt": {1: 46.2, 10: 65.4, 50: 71.6},
    "datm": {1: 46.9, 10: 66.8, 50: 76.1},
    "frepo": {1: 46.8, 10: 65.5, 50: 71.7},
    "ncfm": {1: 49.5, 10: 71.8, 50: 77.4},
}
WORKERS = [  # who does which cells, in which order; experts and trained nets are shared within a worker
    ["mtt:10", "mtt:1", "datm:10"],
    ["random:10", "dm:10", "dm:1", "k-means:10", "dm:50", "k-means:1", "k-means:50"],
    ["ncfm:10", "frepo:1", "frepo:10", "dsa:1", "random:1", "dsa:10", "random:50", "ncfm:1", "ncfm:50"],
]


def cells(names: list[str], device: str, steps: int) -> None:
    """What a worker does: a line of JSON for each cell, as it is done."""
    import torch

    from datadistill import data, methods
    from datadistill.data.task import Budget, Task
    from datadistill.evaluate import Arm, Protocol, Sealed, score
    from datadistill.evaluate.verdict import summary
    from datadistill.run import Nowhere, Run
    from datadistill.synthetic.artifact import Artifact

    split = data.load(real("cifar10")[0], seed=0, val=0.02)
    protocol = Protocol("paper-scale", steps=steps, full_steps=steps, lrs=(0.01, 0.1), batch=256).with_nets("convnet:128")
    shared = Nowhere()  # experts and trained nets, made once

    class Looking(Run):
        half = None

        def log(self, it, **values):
            super().log(it, **values)
            if it == self.until // 2:
                with torch.no_grad():
                    self.half = Artifact.of(self.saved[0], {})

    for name, ipc in ((name, int(ipc)) for name, _, ipc in (cell.partition(":") for cell in names)):
        began = time.perf_counter()
        try:
            settings = SETTINGS[name][ipc]
            method = methods.get(name, **settings)
            task, run = Task.of(split.train, split.val, Budget(ipc)), Looking(0, device=device, snapshots=shared)
            run.until = settings.get("iterations", 0) * (method.loops(task)[0] if name == "dsa" else 1)
            torch.cuda.reset_peak_memory_stats()
            if name == "random":
                from datadistill.bench.verdict import rows_of

                arms = [Arm("last", lambda k, method=method, task=task: rows_of(method.distill(task, Run(k))), protocol.steps)]
            else:
                artifact = Artifact.of(method.distill(task, run).cpu(), {})
                sets = {"last": artifact}
                if run.half is not None and ipc == 10 and name not in ("datm", "frepo"):  # whose labels are there at the end only
                    sets["half"] = run.half
                arms = [Arm(which, lambda _, a=a: (a, a.labels), protocol.steps) for which, a in sets.items()]
            seconds, memory = time.perf_counter() - began, torch.cuda.max_memory_allocated()
            scores = {which: summary(found.accuracy()) for which, found in score(arms, ["convnet"], split.val, Sealed(split.test), protocol, 0, device=device).items()}
            means = {which: s["mean"] for which, s in scores.items()}
            row = {"settings": settings, "accuracy": scores, "last": means["last"], "best": max(means.values()), "published": PUBLISHED.get(name, {}).get(ipc),
                   "seconds": round(seconds, 1), "judging_seconds": round(time.perf_counter() - began - seconds, 1), "memory_mib": round(memory / 2**20),
                   "flops": run.flops, "notes": list(run.notes)}  # fmt: skip
        except Exception as error:
            row = {"failed": f"{type(error).__name__}: {error}"[:500], "seconds": round(time.perf_counter() - began, 1)}
        print(json.dumps({"cell": f"{name}:{ipc}", **row}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="*", help="METHOD:IPC, instead of all of them")
    parser.add_argument("--seconds", type=float, default=340.0)
    parser.add_argument("--steps", type=int, default=500, help="that a student trains")
    parser.add_argument("--out", type=Path, default=RESULTS / "paper_scale.json")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        cells(args.cells, "cuda", args.steps)
        return
    import torch

    workers = [[c for c in own if args.cells is None or c in args.cells] for own in WORKERS]
    real("cifar10")  # written once, for all
    began = time.monotonic()
    running = []
    for k, own in enumerate(own for own in workers if own):
        told = args.out.with_suffix(f".{k}.jsonl")
        command = [sys.executable, __file__, "--worker", "--steps", str(args.steps), "--cells", *own]
        running.append((told, subprocess.Popen(command, stdout=told.open("w"))))
    for _, worker in running:
        try:
            worker.wait(max(1.0, args.seconds - (time.monotonic() - began)))
        except subprocess.TimeoutExpired:
            worker.kill()
    rows = json.loads(args.out.read_text())["cells"] if args.out.exists() else {}
    for told, _ in running:
        for line in told.read_text().splitlines():
            row = json.loads(line)
            rows[row.pop("cell")] = row
        told.unlink()
    command = " ".join(["DATADISTILL_DATA=../shared/data python", *sys.argv])
    about = {"command": command, "gpu": torch.cuda.get_device_name(), "together": len(running), "machine": machine(), "student_steps": args.steps}
    args.out.write_text(json.dumps({**about, "cells": rows}, indent=1) + "\n")
    for cell, row in rows.items():
        print(cell, row.get("last", row.get("failed")), row.get("best"), row.get("published"), row["seconds"], row.get("judging_seconds"))


if __name__ == "__main__":
    main()
