"""Does any method end in NaN, or with a learned rate that is not positive? Every data set, one item per class, default settings of a CPU.

    DATADISTILL_DATA=../shared/data OMP_NUM_THREADS=1 python benchmarks/stability.py [--data magic adult ...] [--methods mtt tesla ...]

Each cell distils once (seed 0), unless board.py has made that very set, and is looked at: every logged value finite, every stored value finite, the learned step size positive, and
how often a step was undone because a loss was not finite. A number after the name of the data is the side that pictures are made.
results/stability.json; cells that are there are not run again. Series of equal length and fingerprints of molecules
are rows of a table; sets whose kind of data the project does not read yet are not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from common import MADE, RESULTS, attempt, machine, made_set, real, sized, threads

SETS = ["magic", "htru2", "adult", "GunPoint", "ItalyPowerDemand", "ArrowHead", "OSULeaf", "ACSF1", "BasicMotions", "bbbp", "bace"]
SETS += ["pneumoniamnist", "fashion_mnist", "cifar10", "galaxy_zoo1:32", "imagenette128:32"]
LIMIT = 420.0


def looked_at(name: str, method: str) -> dict:
    import math

    import torch

    from datadistill import allocator, api
    from datadistill.synthetic.artifact import Artifact

    allocator.tune()
    threads(1)
    data, side = sized(name)
    path, label = real(data)
    made = made_set(path, side, 1, method, 0)
    if (made / "manifest.json").exists():
        artifact = Artifact.load(made)
    else:
        artifact = api.distill(path, method, ipc=1, label=label, side=side)
    stored = artifact.read(torch.arange(len(artifact)))
    values = [value for row in artifact.about["curve"] for value in row.values()]
    rate = (artifact.about.get("recipe") or {}).get("lr")
    undone = [note for note in artifact.about["notes"] if "not finite" in note]
    good = all(map(math.isfinite, values)) and bool(torch.isfinite(stored).all()) and (rate is None or rate > 0)
    return {"good": good, "seconds": round(artifact.about["cost"]["seconds"], 1), "learned_rate": rate, "undone": undone}


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(looked_at(*sys.argv[2:])))
        return
    from datadistill import methods
    from datadistill.data import load
    from datadistill.errors import UsageError

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=SETS)
    parser.add_argument("--methods", nargs="+", default=[name for name, m in methods.all_methods().items() if m.family != "selection"])
    args = parser.parse_args()
    os.environ.setdefault("DATADISTILL_CACHE", str(MADE / "cache"))
    path = RESULTS / "stability.json"
    cells = json.loads(path.read_text())["cells"] if path.exists() else {}
    for name in args.data:
        data, side = sized(name)
        source, label = real(data)
        modality = load(source, label=label, size=side).train.modality
        for method in args.methods:
            cell = f"{name} {method}"
            if cell in cells:
                continue
            try:
                methods.get(method).preset("quick", modality).check(modality)
                cells[cell] = attempt(__file__, name, method, limit=LIMIT)
            except UsageError as error:
                cells[cell] = {"refused": error.got}
            print(cell, cells[cell], flush=True)
            command = "DATADISTILL_DATA=../shared/data OMP_NUM_THREADS=1 python benchmarks/stability.py"
            path.write_text(json.dumps({"command": command, "machine": machine(), "cells": cells}, indent=1) + "\n")


if __name__ == "__main__":
    main()
