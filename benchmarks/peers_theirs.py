"""The reference implementations, unmodified, driven for `peers.py`: their data, evaluation and pictures are stand-ins, and the clock is read
between two iterations. $PEERS holds the clones; nothing of them is kept here.

DatasetCondensation (VICO-UoE): main_DM.py, main.py (DC, DSA) and utils.epoch. mtt-distillation (GeorgeCazenavette): distill.py.
"""

from __future__ import annotations

import os
import sys
import time
import types
from pathlib import Path

from common import Peak, reference_task

STRATEGY = "color_crop_cutout_flip_scale_rotate"


def use(repository: str) -> None:
    """Put a clone on the path; what it needs for data sets, pictures and logging only is an empty stand-in."""
    folder = Path(os.environ["PEERS"]) / repository
    if not folder.is_dir():
        raise SystemExit(f"no clone of {repository} in $PEERS")
    sys.path.insert(0, str(folder))
    for name in ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.utils", "kornia", "wandb"):
        sys.modules[name] = types.ModuleType(name)
    for name in ("datasets", "transforms", "utils"):
        setattr(sys.modules["torchvision"], name, sys.modules["torchvision." + name])
    sys.modules["torchvision.utils"].save_image = lambda *a, **k: None


class Marks:
    """In the place of their get_network, which opens every iteration: the first one counts operations, the later ones are timed."""

    def __init__(self, network, steps: int):
        from datadistill.run import Flops

        self.network, self.steps, self.flops, self.memory = network, steps, Flops(), Peak()
        self.cpu: list[float] = []
        self.wall: list[float] = []

    def __call__(self, *args, **kwargs):
        if not self.cpu:
            self.memory.__enter__()
            self.flops.__enter__()
        elif len(self.cpu) == 1:
            self.flops.__exit__(None, None, None)
        self.cpu.append(time.process_time())
        self.wall.append(time.perf_counter())
        if len(self.cpu) > self.steps + 1:
            self.memory.__exit__()
            raise SystemExit
        return self.network(*args, **kwargs)

    def result(self) -> dict:
        between = lambda marks: [b - a for a, b in zip(marks[1:], marks[2:], strict=False)]  # noqa: E731
        return {"cpu_seconds": between(self.cpu), "seconds": between(self.wall), "memory_mib": round(self.memory.peak - self.memory.base), "flops": self.flops.total}


class Data:
    """Their loops ask for one item after the other."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int):
        return self.images[i], int(self.labels[i])


def everything(task):
    import torch

    return task.train.read(torch.arange(len(task.train))), task.train.labels


def condensation(job: str, ipc: int, steps: int) -> dict:
    """Their main_DM.py, or one outer step (fresh network, all classes matched, S moved) of main.py."""
    use("DatasetCondensation")
    import utils

    data = Data(*everything(reference_task(ipc)))
    module = __import__("main_DM" if job == "dm" else "main")
    marks = module.get_network = Marks(utils.get_network, steps)
    module.get_dataset = lambda *a: (3, (32, 32), 10, [str(c) for c in range(10)], [0.0] * 3, [1.0] * 3, data, None, None)
    module.evaluate_synset = lambda *a: (None, 0.0, 0.0)
    module.get_loops = lambda ipc: (1, 1)
    argv = ["--ipc", str(ipc), "--num_exp", "1", "--num_eval", "0", "--data_path", os.devnull, "--save_path", os.devnull, "--init", "real"]
    argv += [] if job == "dm" else ["--method", job.upper(), *(["--dsa_strategy", STRATEGY] if job == "dsa" else [])]
    sys.argv = ["main.py", *argv]
    os.path.exists = lambda path: True  # they would make folders
    try:
        module.main()
    except SystemExit:
        return marks.result()
    raise RuntimeError("their loop ended")


def trajectory(ipc: int, steps: int, n: int, experts: list, told=None, *options: str, precise: bool = False) -> dict:
    """Their distill.py on made-up experts (lists of parameters, epoch after epoch): n steps on S, 2 expert epochs, starts before 2.

    told   gets what they log      precise   their net works in float64
    """
    use("mtt-distillation")
    import distill
    import torch
    import utils

    wandb = sys.modules["wandb"]
    wandb.config, wandb.run = types.SimpleNamespace(), types.SimpleNamespace(name="none")
    wandb.init = lambda config=None, **k: setattr(wandb.config, "_items", dict(vars(config)))
    wandb.log, wandb.finish = told or (lambda *a, **k: None), lambda: None
    task = reference_task(ipc)
    data, classes = Data(*everything(task)), {c: c for c in range(10)}

    def network(*args, **kwargs):
        net = utils.get_network(*args, **kwargs)
        if precise:
            net.double().register_forward_pre_hook(lambda module, given: (given[0].double(),))
        return net

    marks = distill.get_network = Marks(network, steps)
    distill.get_dataset = lambda *a, **k: (3, (32, 32), 10, None, [0.0] * 3, [1.0] * 3, data, None, None, None, classes, classes)
    distill.evaluate_synset = lambda *a, **k: (None, 0.0, 0.0)
    os.path.exists = lambda path: not str(path).endswith(".pt") or str(path).endswith("_0.pt")
    torch.load, torch.save = lambda path: experts, lambda *a: None
    torch.Tensor.cuda = lambda x, *a, **k: x  # they move the pictures that they would save
    wandb.Histogram = wandb.Image = lambda *a, **k: None
    sys.modules["torchvision.utils"].make_grid = lambda x, **k: x
    sys.argv = ["distill.py", "--ipc", str(ipc), "--syn_steps", str(n), "--expert_epochs", "2", "--max_start_epoch", "2", "--lr_img", "100", "--lr_lr", "1e-7",
                "--num_eval", "0", "--eval_it", "1000000", *options]  # fmt: skip
    try:
        main_of(distill)
    except SystemExit:
        return marks.result()
    raise RuntimeError("their loop ended")


def main_of(module) -> None:
    """What stands under `if __name__ == "__main__"` of their script, with our stand-ins in its place."""
    source = Path(module.__file__).read_text()
    block = source[source.index("if __name__ == '__main__':") :].replace("if __name__ == '__main__':", "if True:")
    exec(compile(block, module.__file__, "exec"), dict(vars(module)))


def epochs(ipc: int, clock) -> None:
    """Their epoch() on a GPU, again and again; clock() after each."""
    use("DatasetCondensation")
    import torch
    import utils

    images, labels = (t[: 10 * ipc].cuda() for t in everything(reference_task(ipc)))
    net = utils.get_network("ConvNet", 3, 10).cuda()
    args = types.SimpleNamespace(device="cuda", dsa=True, dsa_strategy=STRATEGY, dsa_param=utils.ParamDiffAug())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005)
    loader = torch.utils.data.DataLoader(utils.TensorDataset(images, labels), batch_size=256, shuffle=True)
    while True:
        utils.epoch("train", loader, net, optimizer, torch.nn.CrossEntropyLoss(), args, aug=True)
        clock()


def epoch(ipc: int, steps: int, test: int) -> dict:
    """Their epoch(), which trains the students of an evaluation and the inner loop of DC and DSA; and a test pass."""
    use("DatasetCondensation")
    import torch
    import utils

    from datadistill.run import Flops

    images, labels = everything(reference_task(ipc))
    net = utils.get_network("ConvNet", 3, 10)
    args = types.SimpleNamespace(device="cpu", dsa=True, dsa_strategy=STRATEGY, dsa_param=utils.ParamDiffAug())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005)
    loader = lambda n: torch.utils.data.DataLoader(utils.TensorDataset(images[:n], labels[:n]), batch_size=256, shuffle=True)  # noqa: E731
    cpu, wall = [], []
    with Peak() as memory:
        with (flops := Flops()):
            utils.epoch("train", loader(10 * ipc), net, optimizer, torch.nn.CrossEntropyLoss(), args, aug=True)
        for _ in range(steps):
            start = time.process_time(), time.perf_counter()
            utils.epoch("train", loader(10 * ipc), net, optimizer, torch.nn.CrossEntropyLoss(), args, aug=True)
            cpu.append(time.process_time() - start[0])
            wall.append(time.perf_counter() - start[1])
        start = time.process_time()
        utils.epoch("test", loader(test), net, optimizer, torch.nn.CrossEntropyLoss(), args, aug=False)
        tested = time.process_time() - start
    return {"cpu_seconds": cpu, "seconds": wall, "memory_mib": round(memory.peak - memory.base), "flops": flops.total, "test_per_10000": tested * 10_000 / test}
