"""One step of recovery: images per second beside the teacher's own pass, and beside SRe2L's loop, all in one run on one thread.

    OMP_NUM_THREADS=1 python benchmarks/recovery.py [--repeats 7] [--theirs DIR]

Teachers on 3x32x32 with 10 classes, their statistics from a few batches of noise, batches of one item per class and more. CPU seconds
of a step, the least and the median over repeats, the ways taken in turns so that other work on the machine meets all alike:

    limit          the teacher's forward pass and the way back to its input alone: what no recovery can be faster than
    ours           a step of training/recover.py: crops of each example, statistics of every batch norm, Adam, legal values
    reference      SRe2L's step retyped: one crop for the batch, hooks that compute mean and variance as the paper's code does, Adam, a
                   clip per channel, and a copy whenever the loss is the least so far; on the same teacher
    reference, its net   the same on a ResNet with channels outermost, as torchvision lays it out

limit and ours are taken in float32, and in bfloat16 where the processor has instructions for it, which is what precision=auto then
takes. `share` is limit / ours at the same precision (the goal is 0.85), `times` is reference / ours (the goal is 2). With --theirs, a clone of
VILA-Lab/SRe2L, the loop of its CIFAR script is run as it stands, on the CPU, with 100 classes. Writes results/recovery.json.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from common import child, middle, reference_task, threads, write

SETTINGS = (("resnet18", 64, 10), ("resnet18", 64, 100), ("resnet", 16, 10), ("resnet", 16, 100))


def seconds_in_turns(ways: dict, repeats: int) -> dict[str, dict[str, float]]:
    """CPU seconds of each way, a call of one after a call of the other."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for k in range(repeats + 1):
        for name, work in ways.items():
            start = time.process_time()
            work()
            if k:  # the first is not counted
                times[name].append(time.process_time() - start)
    return {name: middle(values) for name, values in times.items()}


class Reference:
    """SRe2L's recovery step, retyped from its description: what it computes, in the way that it computes it."""

    def __init__(self, net, x, y, lr: float = 0.25, r: float = 0.01, first: float = 10.0, jitter: int = 4):
        import torch

        self.net, self.y, self.r, self.first, self.jitter = net, y, r, first, jitter
        self.x = x.detach().clone().requires_grad_()
        self.optimizer = torch.optim.Adam([self.x], lr=lr, betas=(0.5, 0.9), eps=1e-8)
        self.best, self.kept, self.seen, self.rng = 1e4, None, {}, torch.Generator().manual_seed(0)
        self.norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        self.hooks = [m.register_forward_hook(self._hook) for m in self.norms]

    def _hook(self, module, inputs, output) -> None:
        import torch

        h = inputs[0]
        channels = h.shape[1]
        mean = h.mean([0, 2, 3])
        var = h.permute(1, 0, 2, 3).contiguous().reshape([channels, -1]).var(1, unbiased=False)
        self.seen[module] = torch.norm(module.running_var.data - var, 2) + torch.norm(module.running_mean.data - mean, 2)

    def step(self) -> None:
        import torch
        import torch.nn.functional as F

        side = self.x.shape[-1]
        u = torch.rand(4, generator=self.rng).tolist()
        area, ratio = 0.08 + 0.92 * u[0], math.exp(math.log(3 / 4) + u[1] * math.log(16 / 9))
        h, w = (max(1, min(side, round(side * math.sqrt(area * t)))) for t in (1 / ratio, ratio))
        top, left = int(u[2] * (side - h + 1)), int(u[3] * (side - w + 1))
        seen = F.interpolate(self.x[:, :, top : top + h, left : left + w], (side, side), mode="bilinear", antialias=True)
        if float(torch.rand(1, generator=self.rng)) < 0.5:
            seen = seen.flip(3)
        shift = torch.randint(self.jitter + 1, (2,), generator=self.rng).tolist()
        seen = torch.roll(seen, shift, (2, 3))
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.net(seen), self.y) + self.r * sum((self.first if k == 0 else 1.0) * self.seen[m] for k, m in enumerate(self.norms))
        loss.backward()
        self.optimizer.step()
        for c in range(self.x.shape[1]):
            self.x.data[:, c] = torch.clamp(self.x.data[:, c], -2, 2)
        if self.best > loss.item():
            self.best, self.kept = loss.item(), self.x.data.clone()

    def close(self) -> None:
        for hook in self.hooks:
            hook.remove()


def plain(net):
    """The same net with channels outermost throughout."""
    import copy

    import torch

    from datadistill.nets.base import ChannelsLast

    net = copy.deepcopy(net)
    for module in net.modules():
        for name, child_ in module.named_children():
            if isinstance(child_, ChannelsLast):
                setattr(module, name, torch.nn.Identity())
    return net


def measure(family: str, width: int, batch: int, repeats: int) -> dict:
    import torch
    import torch.nn.functional as F

    from datadistill import allocator, nets
    from datadistill.precision import in_halves
    from datadistill.rng import rng
    from datadistill.training.recover import Canvas, Guide, Recovery, _loss
    from datadistill.training.targets import Running

    allocator.tune()
    threads(1)
    task = reference_task(10, per_class=100)
    net = nets.build(family, task.spec, rng(0), width=width)
    with torch.no_grad():
        for k in range(3):
            net(torch.randn(32, 3, 32, 32, generator=rng(1, k)))
    net.eval().requires_grad_(False)
    x, y = task.modality.noise(batch, rng(2)), torch.arange(batch) % 10
    precisions = ["float32", *(["bfloat16"] if in_halves("auto", torch.device("cpu")) else [])]
    ways = {}
    for precision in precisions:
        leaf, half = x.clone().requires_grad_(), precision == "bfloat16"

        def limit(leaf=leaf, half=half) -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = F.cross_entropy(net(leaf).float(), y)
            torch.autograd.grad(loss, leaf)

        how, guide, canvas = Recovery(steps=1000, lr=0.25, weight=0.01, precision=precision), Guide(net, Running(net)), Canvas(x, 0.25)
        canvas.begin(x)
        state = SimpleNamespace(s=0)

        def ours(how=how, guide=guide, canvas=canvas, state=state) -> None:
            canvas.cool(state.s / how.steps)
            canvas.zero_grad()
            _loss(guide, canvas.x, y, how, state.s, rng(3, state.s)).backward()
            canvas.step()
            task.modality.clamp_(canvas.x.data)
            state.s += 1

        ways |= {f"limit, {precision}": limit, f"ours, {precision}": ours}
    outermost = plain(net)
    same, theirs = Reference(net, x, y), Reference(outermost, x, y)

    def on_ours() -> None:  # hooks stand on the teacher only meanwhile
        same.hooks = [m.register_forward_hook(same._hook) for m in same.norms]
        same.step()
        same.close()

    same.close()
    ways |= {"reference": on_ours, "reference, its net": theirs.step}
    found = seconds_in_turns(ways, repeats)
    least = {name: row["least"] for name, row in found.items()}
    return {
        "teacher": f"{family}, width {width}", "batch": batch, "cpu_seconds": found,
        "images_per_second": {name: round(batch / s, 1) for name, s in least.items()},
        "share": {p: round(least[f"limit, {p}"] / least[f"ours, {p}"], 3) for p in precisions},
        "times": {p: {name: round(least[name] / least[f"ours, {p}"], 2) for name in ("reference", "reference, its net")} for p in precisions},
    }  # fmt: skip


def run_theirs(folder: str, iterations: int) -> dict:
    """The loop of the authors' CIFAR script on the CPU, by name of the file; nothing of it is kept here."""
    import torch

    from datadistill import nets
    from datadistill.rng import rng

    threads(1)
    place = Path(folder) / "SRe2L" / "*small_dataset"
    sys.path.insert(0, str(place))
    text = (place / "recover_cifar.py").read_text().replace('"cuda"', '"cpu"').replace(".cuda()", "").replace("torch.empty_cache()", "None")
    script: dict = {"__name__": "theirs"}
    exec(compile(text, "recover_cifar.py", "exec"), script)
    task = reference_task(10, per_class=100)
    spec = type(task.spec)(**{**vars(task.spec), "classes": tuple(map(str, range(100)))})
    net = plain(nets.build("resnet18", spec, rng(0), width=64)).eval().requires_grad_(False)
    args = SimpleNamespace(batch_size=100, iteration=iterations, jitter=4, lr=0.25, first_bn_multiplier=10.0, r_bn=0.01, verifier=False, store_best_images=False)
    sys.stdout = sys.stderr
    torch.manual_seed(0)
    start = time.process_time()
    script["get_images"](args, net, None, 0)
    each = (time.process_time() - start) / iterations
    sys.stdout = sys.__stdout__
    return {"teacher": "resnet18, width 64, 100 classes", "batch": 100, "cpu_seconds": round(each, 4), "images_per_second": round(100 / each, 1), "iterations": iterations, "crop": "none, as in its CIFAR script"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--theirs", help="A clone of VILA-Lab/SRe2L.")
    args = parser.parse_args()
    if args.child:
        if args.child[0] == "theirs":
            print(json.dumps(run_theirs(args.child[1], 3)))
        else:
            family, *numbers = args.child
            print(json.dumps(measure(family, *map(int, numbers))))
        return
    rows = [child(__file__, *setting, max(3, args.repeats // (4 if setting[0] == "resnet18" and setting[2] > 50 else 1))) for setting in SETTINGS]
    result = {"repeats": args.repeats, "settings": rows}
    if args.theirs:
        result["theirs"] = child(__file__, "theirs", args.theirs)
    write("recovery", result)


if __name__ == "__main__":
    main()
