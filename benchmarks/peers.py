"""The reference implementations of DM, DC, DSA and MTT, unmodified, and ours, in turns on one machine, and whether they compute the same.

    PEERS=FOLDER OMP_NUM_THREADS=1 python benchmarks/peers.py [--jobs dm dc dsa mtt epoch] [--rounds 2] [--steps 2]

FOLDER holds clones of github.com/VICO-UoE/DatasetCondensation and github.com/GeorgeCazenavette/mtt-distillation, as `DatasetCondensation` and
`mtt-distillation`; nothing of them is kept here. Both sides get random pixels in the reference setting (3x32x32, 10 classes, 256 real
examples per class, ConvNet-3 of width 128, ipc 10; mtt: ipc 1, 50 steps). One job is one outer step (a fresh network, all classes matched,
S moved; mtt: a segment), or an evaluation epoch on S and a test pass over 10,000 images (scaled from fewer).

Theirs is run as they ship it and, to say where the gain comes from, once more with the allocator tuned as ours is; ours in float32, as
theirs, and all but mtt once more with bfloat16 convolutions (`precision=bfloat16`). Every turn is a fresh process. results/peers.json; jobs that are not asked for stay as they were.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict

from common import RESULTS, Peak, child, machine, matrix_product, middle, reference_task, threads, write

JOBS = {"dm": 10, "dc": 10, "dsa": 10, "mtt": 1, "epoch": 10}  # and their ipc
SEGMENT = 50  # steps of mtt
OURS = {"ours": "float32", "ours-bfloat16": "bfloat16"}


def ours(job: str, ipc: int, steps: int, test: int, precision: str) -> dict:
    """CPU and wall seconds of each of `steps` outer steps, peak memory over what was there, operations of a step."""
    import torch

    from datadistill import nets
    from datadistill.methods import DC, DM, DSA, MTT
    from datadistill.rng import rng
    from datadistill.run import Run
    from datadistill.training import Schedule, accuracy, fit
    from datadistill.training.experts import Experts
    from datadistill.training.fit import hard_labels

    task = reference_task(ipc)
    cpu, wall = [], []

    def mark() -> None:
        cpu.append(time.process_time())
        wall.append(time.perf_counter())

    def result(memory: Peak, first: int, **more: float) -> dict:
        between = lambda marks: [b - a for a, b in zip(marks[first:], marks[first + 1 :], strict=False)]  # noqa: E731
        return {"cpu_seconds": between(cpu), "seconds": between(wall), "memory_mib": round(memory.peak - memory.base), **more}

    if job == "epoch":

        def timed(n: int):
            for step in range(n):
                mark()
                yield step
            mark()

        small, held_out = task.train.subset(torch.arange(10 * ipc)), task.train.subset(torch.arange(test))
        net = nets.build("convnet", task.spec, rng(0, "net"))
        with Peak() as memory:
            fitted = fit(net, small, hard_labels(small), Schedule(steps + 2, batch=256, precision=precision), 0, steps=timed)
            start = time.process_time()
            accuracy(net, held_out, held_out.labels)
            tested = time.process_time() - start
        return result(memory, 2, flops=fitted.flops / (steps + 2), test_per_10000=tested * 10_000 / test)

    class Timed(Run):
        def log(self, it, **values):
            mark()

    paths = [walk(k) for k in range(2)]  # experts are random walks: nothing of a step depends on how good they are
    Experts.prepare, Experts.at = lambda self, epochs: None, lambda self, k, epoch: paths[k][epoch]
    method = {
        "dm": lambda n: DM(iterations=n, precision=precision),
        "dc": lambda n: DC(iterations=n, outer=1, init="real", precision=precision),
        "dsa": lambda n: DSA(iterations=n, outer=1, precision=precision),
        "mtt": lambda n: MTT(iterations=n, steps=SEGMENT, expert_epochs=2, max_start=2, experts=2, alpha=0.01, optimizer="sgd", lr=100.0),
    }[job](steps + 1)
    run = Timed(0)
    with Peak() as memory:
        method.distill(task, run)
    return result(memory, 0, flops=run.flops / (steps + 1))  # the first step counts its operations


def walk(seed: int, epochs: int = 5):
    """(epochs, P) the parameters of a ConvNet-3 on its way to nowhere."""
    import torch

    from datadistill import nets
    from datadistill.rng import rng
    from datadistill.training.unroll import Flat

    theta = Flat.of(nets.build("convnet", reference_task(1, per_class=10).spec, rng(seed, "net")))
    return theta + (2e-3 * torch.randn((epochs, len(theta)), generator=rng(seed, "walk"))).cumsum(0)


def as_lists(thetas) -> list:
    """The snapshots (epochs, P) as the reference implementation keeps them: a list of tensors for each epoch."""
    from datadistill import nets
    from datadistill.rng import rng
    from datadistill.training.unroll import Flat

    flat = Flat(nets.build("convnet", reference_task(1, per_class=10).spec, rng(0)))
    return [[part.view(shape) for part, shape in zip(theta.split(flat.sizes), flat.shapes, strict=True)] for theta in thetas]


def one(who: str, job: str, n_threads: int, steps: int, test: int) -> dict:
    """What a child does: one turn of a job, and the rate of a matrix product before it."""
    from datadistill import allocator

    allocator.tune()
    threads(n_threads)
    rate, ipc = matrix_product(), JOBS[job]
    if who == "same":
        import peers_same

        return peers_same.CHECKS[job]()
    if who in OURS:
        found = ours(job, ipc, steps, test, OURS[who])
    else:
        import peers_theirs

        if job == "mtt":
            found = peers_theirs.trajectory(ipc, steps, SEGMENT, [as_lists(walk(k)) for k in range(2)])
        else:
            found = peers_theirs.epoch(ipc, steps, test) if job == "epoch" else peers_theirs.condensation(job, ipc, steps)
    return {**found, "matrix_product": rate}


def table(sides: dict[str, list[dict]]) -> dict[str, object]:
    """The turns of one job, side by side."""
    rows: dict[str, object] = {}
    for side, turns in sides.items():
        cpu = [t for turn in turns for t in turn["cpu_seconds"]]
        rate, product = turns[0]["flops"] / min(cpu) / 1e9, max(turn["matrix_product"] for turn in turns)
        rows[side] = {
            "cpu_seconds": middle(cpu),
            "seconds": middle([t for turn in turns for t in turn["seconds"]]),
            "memory_mib": max(turn["memory_mib"] for turn in turns),
            "gflop": round(turns[0]["flops"] / 1e9, 1),
            "share_of_matrix_product": round(rate / product, 2),
            **({"test_per_10000": round(min(turn["test_per_10000"] for turn in turns), 2)} if "test_per_10000" in turns[0] else {}),
        }
    for measure in ("median", "least"):
        rows[f"times as fast ({measure})"] = round(rows["theirs"]["cpu_seconds"][measure] / rows["ours"]["cpu_seconds"][measure], 2)
    if "ours, bfloat16" in rows:
        rows["times as fast (median), bfloat16"] = round(rows["theirs"]["cpu_seconds"]["median"] / rows["ours, bfloat16"]["cpu_seconds"]["median"], 2)
    if "test_per_10000" in rows["ours"]:
        rows["times as fast (test)"] = round(rows["theirs"]["test_per_10000"] / rows["ours"]["test_per_10000"], 2)
    rows["share of their memory"] = round(rows["ours"]["memory_mib"] / rows["theirs"]["memory_mib"], 2)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2, help="timed in each turn, after one that warms up")
    parser.add_argument("--test", type=int, default=1280)
    parser.add_argument("--child", choices=[*OURS, "theirs", "same"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if "PEERS" not in os.environ:
        parser.error("set PEERS to the folder that holds the clones")
    if args.child:
        print("\n" + json.dumps(one(args.child, args.jobs[0], args.threads, args.steps, args.test)))
        return
    sides = {"ours": ("ours", True), "theirs": ("theirs", False), "theirs, allocator tuned": ("theirs", True), "ours, bfloat16": ("ours-bfloat16", True)}
    path = RESULTS / "peers.json"
    result = {k: v for k, v in json.loads(path.read_text()).items() if k in JOBS} if path.exists() else {}
    for job in args.jobs:
        load = machine()["load"]
        more = ("--jobs", job, "--threads", args.threads, "--steps", args.steps, "--test", args.test)
        turns: dict[str, list[dict]] = defaultdict(list)
        for _ in range(args.rounds):
            for side, (who, tune) in sides.items():
                if (job, who) == ("mtt", "ours-bfloat16"):
                    continue
                turns[side].append(child(__file__, who, *more, tune=tune))
        same = child(__file__, "same", *more)
        result[job] = {"ipc": JOBS[job], "threads": args.threads, "load": load, **table(turns), "same_numbers": same}
        write("peers", {k: result[k] for k in JOBS if k in result})


if __name__ == "__main__":
    main()
