"""An evaluation epoch (one student step on 100 images, ConvNet-3 of width 128, one augmentation per image) and a test pass.

    OMP_NUM_THREADS=1 python benchmarks/evaluation.py [--steps 8] [--test 2560]

Writes results/evaluation.json: CPU seconds per step and per 10,000 test images, peak memory, for the reference student and for
the students that the protocols train, each with the allocator tuned and untuned.
"""

from __future__ import annotations

import argparse
import json
import time

from common import Peak, child, middle, reference_task, threads, write

STUDENTS = {"convnet-128": ("convnet", {"width": 128}), "convnet-32": ("convnet", {"width": 32}), "resnet-16": ("resnet", {}), "mlp-128": ("mlp", {})}


def measure(student: str, n_threads: int, steps: int, test: int) -> dict:
    import torch

    from datadistill import allocator, nets
    from datadistill.rng import rng
    from datadistill.training import Schedule, accuracy, fit
    from datadistill.training.fit import hard_labels

    tuned = allocator.tune()
    threads(n_threads)
    task = reference_task()
    small, held_out = task.train.subset(torch.arange(100)), task.train.subset(torch.arange(test))
    family, size = STUDENTS[student]
    net = nets.build(family, task.spec, rng(0, "net"), **size)
    marks: list[float] = []

    def timed(n: int):
        for step in range(n):
            marks.append(time.process_time())
            yield step
        marks.append(time.process_time())

    with Peak() as training:
        fit(net, small, hard_labels(small), Schedule(steps + 2, batch=256), 0, steps=timed)
    times = [b - a for a, b in zip(marks[2:], marks[3:], strict=False)]
    with Peak() as testing:
        start = time.process_time()
        accuracy(net, held_out, held_out.labels)
        spent = time.process_time() - start
    return {
        "tuned": tuned,
        "epoch_cpu_seconds": middle(times),
        "test_cpu_seconds_per_10000": round(spent * 10_000 / test, 2),
        "memory_mib": {"base": round(training.base), "training": round(training.peak - training.base), "testing": round(testing.peak - training.base)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", choices=STUDENTS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--test", type=int, default=2560)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.student, args.threads, args.steps, args.test)))
        return
    again = ("--threads", args.threads, "--steps", args.steps, "--test", args.test)
    students = [args.student] if args.student else list(STUDENTS)
    write("evaluation", {"threads": args.threads, **{s: {k: child(__file__, "--student", s, *again, tune=k == "tuned") for k in ("tuned", "untuned")} for s in students}})


if __name__ == "__main__":
    main()
