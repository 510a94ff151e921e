"""One DM step at the reference setting: ConvNet-3 of width 128, 3x32x32, 10 classes, ipc 10, 256 real examples per class.

    OMP_NUM_THREADS=1 python benchmarks/dm_step.py [--threads 1] [--steps 6]

Prints and writes results/dm_step.json: CPU seconds, FLOP/s, the share of what the same machine's matrix product and the same
machine's convolution reach in the same process, where the rest goes, and all of it again without allocator tuning.
"""

from __future__ import annotations

import argparse
import json
import time

from common import Peak, child, middle, reference_task, seconds, threads, write

PARTS = {  # profiler event -> the part of the step it belongs to
    "mkldnn_convolution": "convolution", "convolution_backward": "convolution",
    "native_group_norm": "group norm", "native_group_norm_backward": "group norm",
    "clamp_min_": "ReLU", "threshold_backward": "ReLU",
    "_Down": "pooling", "_Up": "pooling", "add": "pooling", "complex": "pooling", "mul_": "pooling", "mul": "pooling", "clone": "pooling",
    "grid_sampler_2d": "augmentation", "grid_sampler_2d_backward": "augmentation", "index": "augmentation", "bmm": "augmentation", "cat": "augmentation",
    "uniform_": "new network",
}  # fmt: skip


def measure(n_threads: int, steps: int) -> dict:
    import torch
    import torch.nn.functional as F

    from datadistill import allocator
    from datadistill.methods import DM
    from datadistill.run import Run

    tuned = allocator.tune()
    threads(n_threads)
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    x, w = torch.randn(32, 128, 16, 16), torch.randn(128, 128, 3, 3)
    product = 2 * 2048**3 / min(seconds(lambda: a @ b, 4)) / 1e9
    with torch.inference_mode():
        convolution = 2 * 32 * 128 * 128 * 9 * 256 / min(seconds(lambda: F.conv2d(x, w, padding=1), 10)) / 1e9
    task = reference_task()

    class Timed(Run):
        marks: list[float]

        def log(self, it, **values):
            self.marks.append(time.process_time())

    run = Timed(0)
    run.marks = []
    with Peak() as memory:
        DM(iterations=steps + 2).distill(task, run)  # the first counts FLOPs, the second warms up
    times = [later - earlier for earlier, later in zip(run.marks[1:], run.marks[2:], strict=False)]
    flops = run.flops / (steps + 2)

    counted = Run(0)
    counted.flops = 1.0  # so that this run counts none
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        DM(iterations=2).distill(task, counted)
    shares: dict[str, float] = {}
    for event in profile.key_averages():
        part = PARTS.get(event.key.removeprefix("aten::"), "the rest: reading, sums, Python")
        shares[part] = shares.get(part, 0.0) + event.self_cpu_time_total
    total = sum(shares.values())
    rate = flops / min(times) / 1e9
    return {
        "tuned": tuned,
        "cpu_seconds": middle(times),
        "gflop": round(flops / 1e9, 1),
        "gflops_per_second_of_cpu": round(rate, 1),
        "matrix_product": round(product, 1),
        "convolution_16x16": round(convolution, 1),
        "share_of_matrix_product": round(rate / product, 3),
        "share_of_convolution": round(rate / convolution, 3),
        "memory_mib": {"base": round(memory.base), "peak_over_base": round(memory.peak - memory.base)},
        "where": {part: round(time / total, 3) for part, time in sorted(shares.items(), key=lambda item: -item[1])},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.threads, args.steps)))
        return
    again = ("--threads", args.threads, "--steps", args.steps)
    write("dm_step", {"threads": args.threads, "tuned": child(__file__, *again), "untuned": child(__file__, *again, tune=False)})


if __name__ == "__main__":
    main()
