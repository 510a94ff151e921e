"""The board: every method on one data set at one budget, by the same judge as `datadistill evaluate`; results/board_DATA_ipcN.json.

    DATADISTILL_DATA=../shared/data OMP_NUM_THREADS=1 python benchmarks/board.py --data fashion_mnist --ipc 1 [--methods dm lpld:labels=hard] [--nets mlp]

Each method runs with its quick settings (small nets, few steps: a CPU's budget, not the papers'), once, with one seed that nobody chose,
in a process of its own. Its set is then what a student is trained on from stored bytes; the learning rate is chosen on validation
data and the test split read once per training seed, as for every verdict. `random` is drawn anew for each training seed.
Methods that are in the file already, judged by the same protocol, are not run again: an interrupted board goes on. Expert
trajectories and teachers are made once for all methods that share them; their seconds are counted for each. With several --nets the same sets
are scored by students of other families, into results/cross_DATA_ipcN.json. Methods that refuse the data are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from typing import Any

from common import MADE, RESULTS, attempt, machine, made_set, real

WIDTHS = {"convnet": "convnet:16", "resnet18": "resnet18:8", "vgg": "vgg:8", "vit": "vit:32"}  # of students, where none is given
LIMIT = 420.0  # seconds for a method, distilling and judging by one family of students; all of the data have longer, as their students do
SETTINGS = {"steps": 150, "full_steps": 600, "lrs": (0.03, 0.1), "seeds": 5}


def protocol_for(nets: str, steps: int | None = None) -> Any:
    """The board's, with students named as for `evaluate --nets`; on full data too they train for `steps`, where these are given."""
    from datadistill.evaluate import Protocol

    protocol = Protocol("board", **{**SETTINGS, **({"steps": steps, "full_steps": steps} if steps else {})})
    return protocol.with_nets(",".join(WIDTHS.get(n, n) for n in nets.split(",")))


def judged(source: str, ipc: int, name: str, seed: int, nets: str, side: int | None = None, label: str | None = None, steps: int | None = None) -> dict:
    """One method, with quick settings but for those after a colon: distilled, stored, scored. `full` is all of the training data."""
    import torch

    from datadistill import allocator, api, data, methods
    from datadistill.evaluate import Arm, Sealed, score
    from datadistill.evaluate.verdict import summary
    from datadistill.labels import Hard
    from datadistill.progress import Quiet
    from datadistill.run import Run
    from datadistill.synthetic.artifact import Artifact

    allocator.tune()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    protocol = protocol_for(nets, steps)
    students = list(protocol.nets)
    split, about = data.load(source, seed=seed, size=side, label=label), {}
    if name == "full":
        arm = Arm(name, lambda _: (split.train, Hard(split.train.labels, len(split.train.modality.spec.classes))), protocol.full_steps)
    elif name == "random":
        from datadistill.bench.verdict import rows_of
        from datadistill.data.task import Budget, Task

        task = Task.of(split.train, split.val, Budget(ipc))
        arm = Arm(name, lambda k: rows_of(methods.get("random").distill(task, Run(k))), protocol.steps)
        about = {"bytes": api.distill(source, name, ipc=ipc, seed=seed, side=side, label=label).bytes, "seconds": 0.0}
    else:
        start = time.process_time()
        method, _, given = name.partition(":")
        settings = dict(pair.split("=") for pair in given.split(",") if pair)
        made = made_set(source, side, ipc, name, seed)
        artifact = Artifact.load(made) if (made / "manifest.json").exists() else api.distill(source, method, ipc=ipc, seed=seed, side=side, label=label, preset="quick", out=made, **settings)
        cost, recipe = artifact.about["cost"], artifact.about.get("recipe", {})
        about = {
            "family": artifact.about["method"]["family"],
            "settings": artifact.about["method"]["hyperparameters"],
            "bytes": artifact.bytes,
            "items": artifact.items,
            "seconds": round(cost["seconds"], 2),
            "cpu_seconds": round(time.process_time() - start, 2),
            "peak_memory_bytes": cost["peak_memory_bytes"],
            "flops": cost["flops"],
            "notes": artifact.about.get("notes", []),
        }
        arm = Arm(name, lambda _: (artifact, artifact.labels), protocol.steps, bool(recipe.get("augment", True)))
    found = score([arm], students, split.val, Sealed(split.test), protocol, seed, device="cpu", progress=Quiet())[name]
    about["accuracy"] = summary(found.accuracy())
    if len(students) > 1:
        about["students"] = {student: summary(found.accuracy(student)) for student in students}
    return {**about, "lr": found.lr, "student_seconds": {n: round(t, 2) for n, t in found.seconds.items()}, "process_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def board(data: str, ipc: int, wanted: list[str], seed: int, nets: str) -> None:
    from datadistill import methods
    from datadistill.data import load

    stem = "cross" if "," in nets else "board"
    path, protocol = RESULTS / f"{stem}_{data}_ipc{ipc}.json", protocol_for(nets)
    kept = json.loads(path.read_text()) if path.exists() else {}
    rows = kept.get("methods", {}) if kept.get("protocol", {}).get("hash") == protocol.hash else {}
    source, label = real(data)
    modality = load(source, label=label).train.modality.name
    for name in wanted or ["full", *(name for name, method in methods.all_methods().items() if modality in method.takes())]:
        if "accuracy" in rows.get(name, {}):
            continue
        others = [json.loads(other.read_text()) for other in RESULTS.glob(f"{stem}_{data}_ipc*.json")]
        same = [other["methods"][name] for other in others if name == "full" and "accuracy" in other["methods"].get(name, {}) and other["protocol"]["hash"] == protocol.hash]
        limit = LIMIT * len(protocol.nets) * (protocol.full_steps / protocol.steps if name == "full" else 1)
        rows[name] = same[0] if same else attempt(__file__, source, ipc, name, seed, nets, label or "", limit=limit)
        print(data, ipc, name, rows[name].get("accuracy", rows[name]), rows[name].get("seconds"), flush=True)
        command = f"DATADISTILL_DATA=../shared/data OMP_NUM_THREADS=1 python benchmarks/board.py --data {data} --ipc {ipc} --seed {seed} --nets {nets}"
        result = {"command": command, "machine": machine(), "data": data, "modality": modality, "ipc": ipc, "seed": seed, "protocol": protocol.to_json()}
        path.write_text(json.dumps({**result, "methods": rows}, indent=1) + "\n")


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        source, ipc, name, seed, nets, label = sys.argv[2:]
        print(json.dumps(judged(source, int(ipc), name, int(seed), nets, label=label or None)))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=["fashion_mnist", "cifar10"])
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--methods", nargs="*", default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nets", default="convnet")
    args = parser.parse_args()
    os.environ.setdefault("DATADISTILL_CACHE", str(MADE / "cache"))
    for data in args.data:
        for ipc in args.ipc:
            board(data, ipc, args.methods, args.seed, args.nets)


if __name__ == "__main__":
    main()
