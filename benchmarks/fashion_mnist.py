"""Distil Fashion-MNIST on a CPU at 1 and 10 items per class with default settings, and judge it: one JSON per budget.

    DATADISTILL_DATA=../shared/data python benchmarks/fashion_mnist.py [--ipc 1 10] [--protocol quick]

Both commands are the user's own, in processes of their own; seconds are wall time. What a run printed is kept whole.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def call(*argv: str) -> tuple[dict, float]:
    """What a datadistill command printed as JSON, and the seconds it took."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "datadistill", *argv, "--json"], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout), time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--protocol", default="quick")
    args = parser.parse_args()
    data = Path(os.environ.get("DATADISTILL_DATA", HERE.parent.parent / "shared" / "data")) / "fashion_mnist"
    for ipc in args.ipc:
        with tempfile.TemporaryDirectory() as folder:
            out = str(Path(folder) / "set")
            distil = ["distill", str(data), "--method", "dm", "--ipc", str(ipc), "--out", out]
            made, distil_seconds = call(*distil)
            judged, judge_seconds = call("evaluate", out, "--data", str(data), "--protocol", args.protocol)
        made["out"] = judged["data"]["source"] = "fashion_mnist"
        result = {
            "command": f"DATADISTILL_DATA=../shared/data python benchmarks/fashion_mnist.py --ipc {ipc} --protocol {args.protocol}",
            "cpus": os.cpu_count(),
            "distill_wall_seconds": distil_seconds,
            "evaluate_wall_seconds": judge_seconds,
            "distill": made,
            "evaluation": judged,
        }
        (HERE / "results" / f"fashion_mnist_dm_ipc{ipc}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
