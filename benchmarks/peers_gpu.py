"""The reference implementations of DM, DC, DSA and MTT, unmodified, and ours, one after the other on one GPU.

    PEERS=FOLDER python benchmarks/peers_gpu.py [--jobs dm dc dsa mtt epoch] [--seconds 3]

The setting is that of `peers.py`, which also says where the clones come from and shows, on a CPU, that both compute the same. A turn times
as many steps as take about so many seconds, after some that warm up, and waits for the GPU only before the first and after the last of
them. Memory is the most that tensors took on the GPU. results/peers_gpu.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

from common import child, machine, reference_task, write
from peers import JOBS, SEGMENT, as_lists, walk

WARM = 4


class Enough(Exception):
    """So many steps were timed."""


class Clock:
    """Called once a step: milliseconds of a step, and MiB."""

    def __init__(self, seconds: float):
        self.seconds, self.calls, self.steps = seconds, 0, None

    def __call__(self) -> None:
        import torch

        self.calls += 1
        if self.calls == WARM - 1:
            torch.cuda.synchronize()
            self.start = time.perf_counter()
        elif self.calls == WARM:
            torch.cuda.synchronize()
            self.steps = max(3, round(self.seconds / (time.perf_counter() - self.start)))
            self.start = time.perf_counter()
        elif self.steps and self.calls == WARM + self.steps:
            torch.cuda.synchronize()
            self.took = time.perf_counter() - self.start
            raise Enough

    def result(self) -> dict:
        import torch

        return {"milliseconds": round(1e3 * self.took / self.steps, 3), "steps": self.steps, "memory_mib": round(torch.cuda.max_memory_allocated() / 2**20)}


def ours(job: str, ipc: int, precision: str, seconds: float) -> dict:
    from datadistill import nets
    from datadistill.methods import DC, DM, DSA, MTT
    from datadistill.rng import rng
    from datadistill.run import Run
    from datadistill.training import Schedule, fit
    from datadistill.training.experts import Experts
    from datadistill.training.fit import hard_labels

    clock, task, endless = Clock(seconds), reference_task(ipc), 10**6
    notes: list[str] = []

    class Timed(Run):
        def log(self, it, **values):
            super().log(it, **values)
            clock()

    def steps(n: int):
        for step in range(n):
            yield step
            clock()

    try:
        if job == "epoch":
            import torch

            small = task.train.subset(torch.arange(10 * ipc))
            fit(nets.build("convnet", task.spec, rng(0, "net")), small, hard_labels(small), Schedule(endless, batch=256, precision=precision), 0, device="cuda", steps=steps)
        paths = [walk(k).cuda() for k in range(2)]
        Experts.prepare, Experts.at = lambda self, epochs: None, lambda self, k, epoch: paths[k][epoch]
        run = Timed(0, device="cuda")
        notes = run.notes
        {
            "dm": lambda: DM(iterations=endless, precision=precision),
            "dc": lambda: DC(iterations=endless, outer=1, init="real", precision=precision),
            "dsa": lambda: DSA(iterations=endless, outer=1, precision=precision),
            "mtt": lambda: MTT(iterations=endless, steps=SEGMENT, expert_epochs=2, max_start=2, experts=2, alpha=0.01, optimizer="sgd", lr=100.0),
        }[job]().distill(task, run)
    except Enough:
        return {**clock.result(), "notes": list(notes)}
    raise RuntimeError("the loop ended")


def theirs(job: str, ipc: int, seconds: float) -> dict:
    import peers_theirs
    import torch

    clock = Clock(seconds)

    class Marks:
        """In the place of their get_network, which opens every iteration."""

        def __init__(self, network, steps):
            self.network = network

        def __call__(self, *args, **kwargs):
            clock()
            return self.network(*args, **kwargs)

    peers_theirs.Marks = Marks
    there, tensor = os.path.exists, torch.Tensor.cuda
    try:
        if job == "mtt":
            peers_theirs.trajectory(ipc, 0, SEGMENT, [as_lists(walk(k)) for k in range(2)])
        elif job == "epoch":
            peers_theirs.epochs(ipc, clock)
        else:
            peers_theirs.condensation(job, ipc, 0)
    except Enough:
        return clock.result()
    finally:
        os.path.exists, torch.Tensor.cuda = there, tensor
    raise RuntimeError("the loop ended")


def product(dtype: str, n: int = 8192) -> float:
    """TFLOP/s of a product of two n x n matrices: in float32 as convolutions compute it by default (TF32), or bfloat16."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = dtype == "float32"
    a, b = (torch.randn(n, n, device="cuda", dtype=getattr(torch, dtype)) for _ in range(2))
    for k in range(13):
        if k == 3:
            torch.cuda.synchronize()
            start = time.perf_counter()
        a @ b
    torch.cuda.synchronize()
    torch.backends.cuda.matmul.allow_tf32 = False
    return round(10 * 2 * n**3 / (time.perf_counter() - start) / 1e12, 1)


def turns(who: str, jobs: list[str], seconds: float) -> dict:
    """What a child does: one side of several jobs."""
    import torch

    found = {}
    for job in jobs:
        torch.cuda.reset_peak_memory_stats()
        out, sys.stdout = sys.stdout, sys.stderr  # their loops print
        try:
            found[job] = theirs(job, JOBS[job], seconds) if who == "theirs" else ours(job, JOBS[job], who, seconds)
        except Exception as error:  # one that fails does not take the others with it
            found[job] = {"failed": f"{type(error).__name__}: {error}"[:500]}
        finally:
            sys.stdout = out
        torch.cuda.empty_cache()
        print(who, job, found[job], file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--child", choices=["float32", "bfloat16", "theirs"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if "PEERS" not in os.environ:
        parser.error("set PEERS to the folder that holds the clones")
    if args.child:
        print("\n" + json.dumps(turns(args.child, args.jobs, args.seconds)))
        return
    import torch

    result: dict = {"gpu": torch.cuda.get_device_name(), "load": machine()["load"], "product_tflops": {d: product(d) for d in ("float32", "bfloat16")}}
    condensed = [job for job in args.jobs if job != "mtt"]
    more = ("--seconds", args.seconds, "--jobs")
    sides = {"ours": child(__file__, "float32", *more, *args.jobs)}
    sides["theirs"] = child(__file__, "theirs", *more, *condensed) if condensed else {}
    if "mtt" in args.jobs:
        sides["theirs"] |= child(__file__, "theirs", *more, "mtt")  # another repository, with modules of the same names
    sides["ours, bfloat16"] = child(__file__, "bfloat16", *more, *condensed) if condensed else {}
    for job in args.jobs:
        rows = {side: found[job] for side, found in sides.items() if job in found}
        result[job] = {"ipc": JOBS[job], **rows}
        for side in ("ours", "ours, bfloat16"):
            if all("milliseconds" in rows.get(s, {}) for s in (side, "theirs")):
                result[job][f"times as fast: {side}"] = round(rows["theirs"]["milliseconds"] / rows[side]["milliseconds"], 2)
    write("peers_gpu", result)


if __name__ == "__main__":
    main()
