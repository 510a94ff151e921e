"""Decoupled methods against random examples, by their labels and at their bytes; results/decoupled_DATA.json.

    DATADISTILL_DATA=../shared/data OMP_NUM_THREADS=1 python benchmarks/decoupled.py [--data cifar10 imagenette128:64] [--ipc 1 10 50]

A number after the name of the data is the side that pictures are made. One teacher, a narrow ResNet-18 that we train, serves all; recovery is
short (ITERATIONS). Labels are of 20 views of each example, as in the papers but fewer, except for random examples, which stand there with hard
labels, one soft label each, and labels of views. The judge is the board's (see board.py), one seed of distillation; rows that are in the file are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from board import judged, protocol_for
from common import MADE, RESULTS, attempt, machine, real, sized

TEACHER, ITERATIONS, LIMIT = "net=resnet18,width=8", 100, 1200.0
STARTS = {"SRe2L": "sre2l:init=noise,lr=0.25,", "CDA": "cda:init=noise,lr=0.4,", "EDC": "edc:init=real,lr=0.05,", "FADRM": "fadrm:"}  # the papers', where quick settings have another
ARMS = {
    "full": "full",
    "random, hard labels": "random",
    "random, a soft label each": f"random-labelled:labels=soft,{TEACHER}",
    "random, labels of views": f"random-labelled:labels=views,{TEACHER}",
    "RDED, labels of views": f"rded:labels=views,{TEACHER}",
    **{f"{title}, labels of views": f"{start}labels=views,iterations={ITERATIONS},{TEACHER}" for title, start in STARTS.items()},
}


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        source, side, ipc, name, seed = sys.argv[2:]
        print(json.dumps(judged(source, int(ipc), name, int(seed), "convnet", int(side) or None)))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=["cifar10", "imagenette128:64"])
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10, 50])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault("DATADISTILL_CACHE", str(MADE / "cache"))
    for data, side in map(sized, args.data):
        path, protocol = RESULTS / f"decoupled_{data}.json", protocol_for("convnet")
        rows = json.loads(path.read_text())["rows"] if path.exists() else {}
        for ipc in args.ipc:
            for arm, name in ARMS.items():
                key = arm if name == "full" else f"{arm}, {ipc} per class"
                if "accuracy" in rows.get(key, {}):
                    continue
                rows[key] = {"ipc": ipc, "arm": arm, **attempt(__file__, real(data)[0], side or 0, ipc, name, args.seed, limit=LIMIT)}
                print(data, key, rows[key].get("accuracy", rows[key]), rows[key].get("seconds"), flush=True)
                command = f"DATADISTILL_DATA=../shared/data OMP_NUM_THREADS=1 python benchmarks/decoupled.py --data {data}{f':{side}' if side else ''}"
                about = {"command": command, "machine": machine(), "data": data, "side": side, "seed": args.seed, "protocol": protocol.to_json(), "arms": ARMS}
                path.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
