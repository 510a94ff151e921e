"""Seconds until Fashion-MNIST at ten items per class is as good as it will be: ours against the reference implementations, DM, DSA and MTT.

    PEERS=FOLDER DATADISTILL_DATA=../shared/data OMP_NUM_THREADS=1 python benchmarks/time_to_quality.py [--methods dm dsa mtt] [--horizon 600]

Both sides look through a ConvNet-3 of width 32, begin from the same random real examples and see the same data. Theirs runs unmodified, with its own
defaults (DM, DSA; MTT those of its README for ten per class, shortened as ours: see `options`) for `horizon` CPU seconds; ours with its quick settings to
their end. At geometrically spaced CPU times of its own process each side's set is put aside. All sets are then stored as pixels and
judged alike: narrow ConvNets trained on them, three seeds, a fixed learning rate, **validation** accuracy, as the test split is not for choosing
when to stop. Reported: when each side first reaches 95% of the better one's last accuracy, and 95% of theirs. MTT's experts are made once by ours, and
used by both; their seconds are told apart and counted for neither.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from common import MADE, child, real, threads, write

FIRST, WIDTH, IPC = 1.0, 32, 10
JUDGE = {"steps": 150, "lr": 0.03, "seeds": 3, "width": 16}


class Shelf:
    """Sets put aside at CPU times that grow by a half each time."""

    def __init__(self, horizon: float):
        self.began, self.next, self.horizon = time.process_time(), 0.0, horizon
        self.kept: list[tuple[float, int, np.ndarray]] = []

    def offer(self, images, it: int, last: bool = False) -> None:
        """Takes (n, *shape) in network space if it is time; what that costs is not counted."""
        now = time.process_time() - self.began
        if now >= self.next or last:
            self.kept.append((round(now, 2), it, images().detach().numpy().copy()))
            self.next = max(FIRST, 1.5 * now)
        self.began += time.process_time() - self.began - now

    def over(self) -> bool:
        return time.process_time() - self.began >= self.horizon

    def save(self, path: Path) -> dict:
        np.savez(path, **{str(k): x for k, (_, _, x) in enumerate(self.kept)})
        return {"at": [(seconds, it) for seconds, it, _ in self.kept]}


def task():
    from datadistill import data
    from datadistill.data.task import Budget, Task

    split = data.load(real("fashion_mnist")[0], seed=0)
    return Task.of(split.train, split.val, Budget(ipc=IPC))


def ours(name: str, horizon: float, path: Path) -> dict:
    from datadistill import methods
    from datadistill.run import Run
    from datadistill.store import Cache

    method = methods.get(name).preset("quick").with_settings({"width": WIDTH, "init": "real"})
    shelf: list[Shelf] = []

    class Watched(Run):
        def steps(self, n, *saved, label="distilling"):
            first = self.seconds
            for it in super().steps(n, *saved, label=label):
                if label == "distilling":
                    if not shelf:
                        about["experts_and_start_seconds"] = round(first, 2)
                        shelf.append(Shelf(horizon))
                    shelf[0].offer(saved[0].examples, it)
                yield it

    about: dict = {}
    syn = method.distill(task(), Watched(0, snapshots=Cache()))
    shelf[0].offer(syn.examples, method.iterations, last=True)
    return {**shelf[0].save(path), **about, "settings": {k: getattr(method, k) for k in method.hyperparameters()}}


def theirs(name: str, horizon: float, path: Path) -> dict:
    """Their own loop; the set is read from the frame that asks for the next network (DSA: that trains it)."""
    import peers_theirs

    mtt = name == "mtt"
    peers_theirs.use("mtt-distillation" if mtt else "DatasetCondensation")
    import utils

    module = __import__("distill" if mtt else "main_DM" if name == "dm" else "main")
    shelf, own = Shelf(horizon), task()
    images, labels = peers_theirs.everything(own)
    begin_with(own)
    count = 0

    def watched(function):
        def call(*args, **kwargs):
            nonlocal count
            if count == 0:
                shelf.began = time.process_time()
            loop = sys._getframe(1)
            shelf.offer(lambda: loop.f_locals["image_syn"], count, last=shelf.over())
            count += 1
            if shelf.over():
                raise SystemExit
            return function(*args, **kwargs)

        return call

    network = module.get_network

    def repaired(*args, **kwargs):
        """Their view() fails on today's torch where one channel lets it choose another order in memory."""
        net = network(*args, **kwargs)
        net.features.register_forward_hook(lambda part, x, out: out.contiguous())
        return net

    module.get_network = repaired
    utils.get_default_convnet_setting = lambda: (WIDTH, 3, "relu", "instancenorm", "avgpooling")
    os.path.exists = lambda path: not str(path).endswith(".pt") or str(path).endswith("_0.pt")
    facts = (1, (28, 28), 10, [str(c) for c in range(10)], [0.0], [1.0], peers_theirs.Data(images, labels), None)
    module.evaluate_synset = lambda *a, **k: (None, 0.0, 0.0)
    if mtt:
        _trajectories(module, own, facts)
        module.get_network = watched(module.get_network)
    else:
        module.get_dataset = lambda *a: (*facts, None)
        if name == "dm":
            module.get_network = watched(module.get_network)
        else:
            module.epoch = watched(module.epoch)
        argv = ["--dataset", "FashionMNIST", "--ipc", str(IPC), "--num_exp", "1", "--num_eval", "0", "--data_path", os.devnull, "--save_path", os.devnull, "--init", "real"]
        sys.argv = ["main.py", *argv, *(["--method", "DSA", "--dsa_strategy", peers_theirs.STRATEGY] if name == "dsa" else [])]
    try:
        peers_theirs.main_of(module) if mtt else module.main()
    except SystemExit:
        return shelf.save(path)
    raise RuntimeError("their loop ended")


def begin_with(own) -> None:
    """Theirs takes the first of a shuffled class, class by class: the examples that ours begins from."""
    from datadistill.run import Run
    from datadistill.synthetic.form import real_indices

    ours, shuffled = iter(real_indices(own, Run(0).rng("init")).split(IPC)), np.random.permutation
    np.random.permutation = lambda x: shuffled(x) if (first := next(ours, None)) is None else np.concatenate([first, shuffled(x)])


def options(own) -> dict[str, int]:
    """What of MTT's settings is theirs too: those of our quick ones on this task."""
    from datadistill import methods

    return dict(zip(("syn_steps", "expert_epochs", "max_start_epoch"), methods.get("mtt").preset("quick").loops(own), strict=True))


def _trajectories(distill, own, facts) -> None:
    """Our experts as their buffer, and stand-ins for what they log and write."""
    import types

    import torch

    from datadistill import methods
    from datadistill.run import Run
    from datadistill.store import Cache

    method = methods.get("mtt").preset("quick").with_settings({"width": WIDTH})
    experts = method.expert_pool(own, Run(0, snapshots=Cache()))
    flat, (_, M, T) = experts.net, method.loops(own)
    thetas = [[experts.at(k, epoch) for epoch in range(T + M)] for k in range(experts.count)]  # up to the last that is a target
    buffer = [[[p.view(s) for p, s in zip(theta.split(flat.sizes), flat.shapes, strict=True)] for theta in expert] for expert in thetas]
    wandb, classes = sys.modules["wandb"], {c: c for c in range(10)}
    wandb.config, wandb.run = types.SimpleNamespace(), types.SimpleNamespace(name="none")
    wandb.init = lambda config=None, **k: setattr(wandb.config, "_items", dict(vars(config)))
    wandb.log, wandb.finish, wandb.Histogram, wandb.Image = [lambda *a, **k: None] * 4
    sys.modules["torchvision.utils"].make_grid = lambda x, **k: x
    torch.load, torch.save, torch.Tensor.cuda = lambda path: buffer, lambda *a: None, lambda x, *a, **k: x
    distill.get_dataset = lambda *a, **k: (*facts[:3], None, *facts[4:7], None, None, None, classes, classes)
    shortened = [text for key, value in options(own).items() for text in (f"--{key}", str(value))]
    sys.argv = ["distill.py", "--dataset", "FashionMNIST", "--ipc", str(IPC), "--num_eval", "0", "--eval_it", "1000000", "--lr_img", "1000", "--lr_lr", "1e-6", "--lr_teacher", "0.01", "--pix_init", "real", *shortened]


def judged(path: Path) -> list[float]:
    """Validation accuracy of each set on a shelf, the mean over seeds."""
    import torch

    from datadistill import nets
    from datadistill.bench.verdict import rows_of
    from datadistill.evaluate.score import on_validation
    from datadistill.rng import rng
    from datadistill.synthetic import SyntheticSet
    from datadistill.training import Schedule, fit

    own, kept, found = task(), np.load(path), []
    for k in range(len(kept.files)):
        syn = SyntheticSet.init(own, "real", rng(0, "any"))
        syn.x.data.copy_(torch.from_numpy(kept[str(k)]))
        examples, labels = rows_of(syn)
        scores = []
        for seed in range(JUDGE["seeds"]):
            net = nets.build("convnet", own.spec, rng(seed, "net"), width=JUDGE["width"])
            scores.append(on_validation(fit(net, examples, labels, Schedule(JUDGE["steps"], lr=JUDGE["lr"]), seed), own.val, "cpu")[0])
        found.append(round(sum(scores) / len(scores), 5))
    return found


def reached(side: dict, accuracy: float) -> float | None:
    return next((seconds for (seconds, _), a in zip(side["at"], side["accuracy"], strict=True) if a >= accuracy), None)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        from datadistill import allocator

        what, name, horizon, path = sys.argv[2:]
        if what != "theirs":
            allocator.tune()
        threads(1)
        print(json.dumps(judged(Path(path)) if what == "judged" else {"ours": ours, "theirs": theirs}[what](name, float(horizon), Path(path))))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=["dm", "dsa", "mtt"])
    parser.add_argument("--horizon", type=float, default=600.0, help="CPU seconds of theirs")
    args = parser.parse_args()
    os.environ.setdefault("DATADISTILL_CACHE", str(MADE / "cache"))
    shelves = MADE / "shelves"
    shelves.mkdir(parents=True, exist_ok=True)
    path = Path(__file__).parent / "results" / "time_to_quality.json"
    result = json.loads(path.read_text())["methods"] if path.exists() else {}
    shared = options(task())
    for name in args.methods:
        sides = {}
        for who in ("ours", "theirs"):
            kept = shelves / f"{name}-{who}.npz"
            sides[who] = child(__file__, who, name, args.horizon, kept, tune=who == "ours")
            sides[who]["accuracy"] = child(__file__, "judged", name, 0, kept)
        last = {who: side["accuracy"][-1] for who, side in sides.items()}
        goals = {"95% of the better one's last": 0.95 * max(last.values()), "95% of theirs": 0.95 * last["theirs"], "theirs": last["theirs"]}
        sides["reached"] = {goal: {who: reached(sides[who], a) for who in ("ours", "theirs")} for goal, a in goals.items()}
        result[name] = sides
        write("time_to_quality", {"judge": JUDGE, "width": WIDTH, "ipc": IPC, "horizon": args.horizon, "mtt": shared, "methods": result})


if __name__ == "__main__":
    main()
