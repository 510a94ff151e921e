"""Which set is best depends on how long a student trains: accuracy by the number of its steps; results/steps.json.

    DATADISTILL_DATA=../shared/data OMP_NUM_THREADS=1 python benchmarks/steps.py [--data digits fashion_mnist] [--methods mtt dm ...] [--steps 10 30 ...]

The sets are those of board.py (quick settings, one seed), and so is the judge, but that a student trains for so many steps, on `full`, which is all of
the training data, too. Each number of steps has its own learning rate, chosen on validation data. Cells that are there are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from board import LIMIT, judged, protocol_for
from common import MADE, RESULTS, attempt, machine, real

METHODS = ["full", "random", "k-means", "dm", "dsa", "mtt", "datm", "rat-bptt", "frepo"]


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        source, ipc, name, seed, nets, steps = sys.argv[2:]
        found = judged(source, int(ipc), name, int(seed), nets, steps=int(steps))
        print(json.dumps({key: found[key] for key in ("accuracy", "lr")}))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["digits", "fashion_mnist"])
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 30, 100, 300, 1000])
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nets", default="convnet")
    args = parser.parse_args()
    os.environ.setdefault("DATADISTILL_CACHE", str(MADE / "cache"))
    path = RESULTS / "steps.json"
    kept = json.loads(path.read_text()) if path.exists() else {"protocols": {}, "cells": {}}
    cells, protocols = kept["cells"], kept["protocols"] | {str(steps): protocol_for(args.nets, steps).to_json() for steps in args.steps}
    command = f"DATADISTILL_DATA=../shared/data OMP_NUM_THREADS=1 python benchmarks/steps.py --ipc {args.ipc} --seed {args.seed} --nets {args.nets}"
    for data in args.data:
        for method in args.methods:
            for steps in args.steps:
                cell = f"{data} {args.ipc} {method} {steps}"
                if "accuracy" in cells.get(cell, {}):
                    continue
                cells[cell] = attempt(__file__, real(data)[0], args.ipc, method, args.seed, args.nets, steps, limit=2 * LIMIT)
                print(cell, cells[cell], flush=True)
                path.write_text(json.dumps({"command": command, "machine": machine(), "protocols": protocols, "cells": cells}, indent=1) + "\n")


if __name__ == "__main__":
    main()
