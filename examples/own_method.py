"""A method of your own, judged like the others: each class's examples closest to its mean."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from datadistill import data, nets
from datadistill.data import Budget, Task
from datadistill.labels import Hard
from datadistill.methods import Method, Paper, Random
from datadistill.rng import rng
from datadistill.run import Run
from datadistill.synthetic import SyntheticSet
from datadistill.training import Schedule, accuracy, fit


@final
@dataclass(frozen=True, kw_only=True)
class Central(Method):
    """Each class's examples closest to its mean, in network space."""

    name: ClassVar = "central"
    family: ClassVar = "selection"
    paper: ClassVar = Paper(title="(an example)", venue="folklore")

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        chosen = []
        for c in task.classes:
            own = task.train.indices(c)
            x = task.train.read(own).flatten(1)
            distance = torch.linalg.vector_norm(x - x.mean(0), dim=1)
            chosen.append(own[distance.argsort(stable=True)[: int(task.quota[c])]])
        return SyntheticSet.select(task, torch.cat(chosen))


digits = data.load("digits")
task = Task.of(digits.train, digits.val, Budget(ipc=2))
for method in (Central(), Random()):
    scores = []
    for seed in range(3):
        chosen = method.distill(task, Run(seed)).origin
        net = nets.build("mlp", task.spec, rng(seed, "net"))
        small = task.train.subset(chosen)
        fit(net, small, Hard(small.labels, len(task.classes)), Schedule(steps=100, lr=0.05), seed)
        scores.append(accuracy(net, task.val, task.val.labels))
    print(f"{method.name:>8}: validation accuracy {sum(scores) / len(scores):.3f} over {len(scores)} seeds")
