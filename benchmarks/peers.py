"""The reference implementation of DM, unmodified, and ours, in turns on one machine, and whether they compute the same.

    PEERS=FOLDER OMP_NUM_THREADS=1 python benchmarks/peers.py [--rounds 2] [--steps 3]

FOLDER holds a clone of github.com/VICO-UoE/DatasetCondensation as `DatasetCondensation`; nothing of it is kept here. Both get random
pixels in the reference setting (3x32x32, 10 classes, ipc 10, 256 real examples per class, ConvNet-3 of width 128). Three jobs:
a DM step, an evaluation epoch on 100 images, a test pass over 10,000 (scaled from fewer). Theirs is run as they ship it and, to say where
the gain comes from, once more with the allocator tuned as ours is. Every turn is a fresh process; results/peers.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import types
from pathlib import Path

from common import Peak, child, middle, reference_task, threads, write

JOBS = ("step", "epoch", "same")


def theirs(job: str, steps: int, test: int) -> dict:
    """Their own main_DM.py or epoch(), with the data, the evaluation and the pictures replaced by stand-ins, and the clock read between iterations."""
    import torch

    stand_ins()
    import utils

    task = reference_task()
    images, labels = task.train.read(torch.arange(len(task.train))), task.train.labels
    if job == "step":
        import main_DM

        class Data:
            def __len__(self) -> int:
                return len(labels)

            def __getitem__(self, i: int):
                return images[i], int(labels[i])

        marks: list[float] = []
        memory = Peak()
        network = utils.get_network

        def get_network(*args):
            if not marks:
                memory.__enter__()
            marks.append(time.process_time())
            if len(marks) > steps + 1:
                raise SystemExit
            return network(*args)

        main_DM.get_network = get_network
        main_DM.get_dataset = lambda *a: (3, (32, 32), 10, [str(c) for c in range(10)], [0.0] * 3, [1.0] * 3, Data(), None, None)
        main_DM.evaluate_synset = lambda *a: (None, 0.0, 0.0)
        sys.argv = ["main_DM.py", "--ipc", "10", "--num_exp", "1", "--num_eval", "0", "--data_path", os.devnull, "--save_path", os.devnull]
        os.path.exists = lambda path: True  # they would make folders
        try:
            main_DM.main()
        except SystemExit:
            memory.__exit__()
        times = [b - a for a, b in zip(marks[1:], marks[2:], strict=False)]
        return {"cpu_seconds": times, "memory_mib": round(memory.peak - memory.base)}
    net = utils.get_network("ConvNet", 3, 10)
    args = types.SimpleNamespace(device="cpu", dsa=True, dsa_strategy="color_crop_cutout_flip_scale_rotate", dsa_param=utils.ParamDiffAug())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005)
    train = torch.utils.data.DataLoader(utils.TensorDataset(images[:100], labels[:100]), batch_size=256, shuffle=True)
    held_out = torch.utils.data.DataLoader(utils.TensorDataset(images[:test], labels[:test]), batch_size=256)
    times = []
    with Peak() as memory:
        for _ in range(steps + 1):
            start = time.process_time()
            utils.epoch("train", train, net, optimizer, torch.nn.CrossEntropyLoss(), args, aug=True)
            times.append(time.process_time() - start)
        start = time.process_time()
        utils.epoch("test", held_out, net, optimizer, torch.nn.CrossEntropyLoss(), args, aug=False)
        tested = time.process_time() - start
    return {"cpu_seconds": times[1:], "test_per_10000": tested * 10_000 / test, "memory_mib": round(memory.peak - memory.base)}


def ours(job: str, steps: int, test: int) -> dict:
    import torch

    from datadistill import nets
    from datadistill.methods import DM
    from datadistill.rng import rng
    from datadistill.run import Run
    from datadistill.training import Schedule, accuracy, fit
    from datadistill.training.fit import hard_labels

    task = reference_task()
    marks: list[float] = []
    if job == "step":

        class Timed(Run):
            def log(self, it, **values):
                marks.append(time.process_time())

        with Peak() as memory:
            DM(iterations=steps + 2).distill(task, Timed(0))
        return {"cpu_seconds": [b - a for a, b in zip(marks[1:], marks[2:], strict=False)], "memory_mib": round(memory.peak - memory.base)}

    def timed(n: int):
        for step in range(n):
            marks.append(time.process_time())
            yield step
        marks.append(time.process_time())

    small, held_out = task.train.subset(torch.arange(100)), task.train.subset(torch.arange(test))
    net = nets.build("convnet", task.spec, rng(0, "net"))
    with Peak() as memory:
        fit(net, small, hard_labels(small), Schedule(steps + 2, batch=256), 0, steps=timed)
        start = time.process_time()
        accuracy(net, held_out, held_out.labels)
        tested = time.process_time() - start
    return {"cpu_seconds": [b - a for a, b in zip(marks[2:], marks[3:], strict=False)], "test_per_10000": tested * 10_000 / test, "memory_mib": round(memory.peak - memory.base)}


def same() -> dict:
    """Largest differences between the two, given the same network, batch and no augmentation: relative, in loss, gradient and features."""
    import torch

    from datadistill import nets
    from datadistill.match import distribution
    from datadistill.memory import Pieces
    from datadistill.rng import rng

    stand_ins()
    import utils

    task = reference_task()
    net = nets.build("convnet", task.spec, rng(0, "net")).requires_grad_(False)
    other = utils.get_network("ConvNet", 3, 10)
    other.load_state_dict(dict(zip(other.state_dict(), net.state_dict().values(), strict=True)))
    rows = torch.cat([task.train.indices(c)[:266] for c in range(10)]).view(10, 266)
    real, fake = task.train.read(rows[:, 10:].reshape(-1)).view(10, 256, 3, 32, 32), task.train.read(rows[:, :10].reshape(-1)).view(10, 10, 3, 32, 32)
    leaf = fake.clone().requires_grad_()
    total = sum(((other.embed(real[c]).detach().mean(0) - other.embed(leaf[c]).mean(0)) ** 2).sum() for c in range(10))
    (gradient,) = torch.autograd.grad(total, leaf)
    loss = total.detach()
    flat, labels = real.flatten(0, 1), torch.arange(10).repeat_interleave(256)
    target = distribution.means(lambda x, c: net.embed(x), lambda piece: flat[piece], labels, 10, Pieces(32))
    found, ours_ = distribution.descent(lambda x, c: net.embed(x), fake.flatten(0, 1), torch.arange(10).repeat_interleave(10), target, Pieces(32))
    difference = (ours_.view_as(gradient) - gradient).norm() / gradient.norm()
    return {"relative_difference_loss": float(((found - loss) / loss).abs()), "relative_difference_gradient": float(difference)}


def stand_ins() -> None:
    """Their folder on the path, and torchvision (which they need for data sets and pictures only) as an empty stand-in."""
    sys.path.insert(0, str(Path(os.environ["PEERS"]) / "DatasetCondensation"))
    for name in ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.utils"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["torchvision"].datasets = sys.modules["torchvision.datasets"]
    sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]
    sys.modules["torchvision.utils"].save_image = lambda *a, **k: None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--test", type=int, default=1280)
    parser.add_argument("--child", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    parser.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if "PEERS" not in os.environ:
        parser.error("set PEERS to the folder that holds a clone of DatasetCondensation")
    if args.child:
        from datadistill import allocator

        allocator.tune()
        threads(args.threads)
        found = same() if args.job == "same" else {"ours": ours, "theirs": theirs}[args.child](args.job, args.steps, args.test)
        print("\n" + json.dumps(found))
        return
    again = ("--threads", args.threads, "--steps", args.steps, "--test", args.test)
    sides = {"ours": ("ours", True), "ours, allocator untuned": ("ours", False), "theirs": ("theirs", False), "theirs, allocator tuned": ("theirs", True)}
    turns: dict[str, dict[str, list[dict]]] = {job: {side: [] for side in sides} for job in ("step", "epoch")}
    for _ in range(args.rounds):
        for job, found in turns.items():
            for side, (who, tune) in sides.items():
                found[side].append(child(__file__, who, "--job", job, *again, tune=tune))
    result: dict[str, object] = {"threads": args.threads, "same_numbers": child(__file__, "ours", "--job", "same")}
    for job, found in turns.items():
        result[job] = {
            side: {
                "cpu_seconds": middle([t for turn in runs for t in turn["cpu_seconds"]]),
                "memory_mib": max(turn["memory_mib"] for turn in runs),
                **({"test_per_10000": round(min(turn["test_per_10000"] for turn in runs), 2)} if job == "epoch" else {}),
            }
            for side, runs in found.items()
        }
        for measure in ("median", "least"):
            result[job][f"times as fast ({measure})"] = round(result[job]["theirs"]["cpu_seconds"][measure] / result[job]["ours"]["cpu_seconds"][measure], 2)
    result["epoch"]["times as fast (test)"] = round(result["epoch"]["theirs"]["test_per_10000"] / result["epoch"]["ours"]["test_per_10000"], 2)
    write("peers", result)


if __name__ == "__main__":
    main()
