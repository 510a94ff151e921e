"""Forgetting events (Toneva et al., ICLR 2019): how often training unlearns an example.

Algorithm 1, in the paper's letters:
    prev_acc_i <- 0, T[i] <- 0 for every example i
    while not training done
        B ~ D                                             a minibatch
        for example i in B
            compute acc_i
            if prev_acc_i > acc_i:  T[i] <- T[i] + 1      a forgetting event
            prev_acc_i <- acc_i
        gradient update of the classifier on B
    return T
Examples that were never right count as forgotten without end; the paper keeps the most forgotten.
Differences from the paper: a few epochs of a narrow net (paper: 200 epochs of a ResNet-18), at a constant learning rate
and without augmentation; the choice is per class, ties at random. As with EL2N, at tiny budgets the never-forgotten
(keep=easiest) train better students than the paper's choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.task import Task
from ..run import Run
from ..synthetic import SyntheticSet
from ..training.embedding import narrow
from .base import Method, Paper
from .selection import Keep, by_score


@final
@dataclass(frozen=True, kw_only=True)
class Forgetting(Method):
    """The examples that training forgets most (or least) often."""

    name: ClassVar = "forgetting"
    stores: ClassVar = "real examples"
    when: ClassVar = "large budgets, a tenth of the data and more; few items of it are too hard to learn from"
    family: ClassVar = "selection"
    paper: ClassVar = Paper(title="An Empirical Study of Example Forgetting during Deep Neural Network Learning", venue="ICLR 2019", arxiv="1812.05159")
    decays: ClassVar = frozenset({"momentum"})

    keep: Keep = "hardest"  # the paper's; at a few items per class easiest is the better one
    epochs: int = 4
    batch: int = 128
    lr: float = 0.01
    momentum: float = 0.9
    net: str = "auto"
    width: int = 16

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        return SyntheticSet.select(task, by_score(task, self.count(task, run).scores(), self.keep, run.rng("ties")))

    def count(self, task: Task, run: Run) -> Events:
        """Train, and tally."""
        real, per_epoch = task.train, -(-len(task.train) // self.batch)
        net = narrow(self.net_for(task.modality), task.spec, self.width, run.rng("theta")).to(run.device)
        optimizer = torch.optim.SGD(net.parameters(), lr=self.lr, momentum=self.momentum)
        events = Events(len(real))

        @lru_cache(maxsize=1)
        def minibatches(epoch: int) -> tuple[Tensor, ...]:
            return torch.randperm(len(real), generator=run.rng("order", epoch)).split(self.batch)

        for it in run.steps(self.epochs * per_epoch, net, optimizer, events, label="counting forgetting events"):
            rows = minibatches(it // per_epoch)[it % per_epoch]
            logits, y = net(real.read(rows, run.device)), real.labels[rows]
            events.see(rows, logits.argmax(1).cpu() == y)
            loss = F.cross_entropy(logits, y.to(run.device))
            run.descend(optimizer, loss, alone=True)
            run.log(it, loss=loss)
        return events


class Events(nn.Module):
    """The tally of algorithm 1, for N examples: T (forgetting events), prev_acc, and whether one was ever right."""

    def __init__(self, n: int):
        super().__init__()
        self.register_buffer("T", torch.zeros(n, dtype=torch.long))
        self.register_buffer("prev_acc", torch.zeros(n, dtype=torch.bool))
        self.register_buffer("learnt", torch.zeros(n, dtype=torch.bool))

    def see(self, i: Tensor, acc: Tensor) -> None:
        """Examples i (b,), each once, are right or wrong (acc, bool) just now."""
        self.T[i] += self.prev_acc[i] & ~acc
        self.learnt[i] |= acc
        self.prev_acc[i] = acc

    def scores(self) -> Tensor:
        """(N,) T, infinite where an example was never right."""
        return torch.where(self.learnt, self.T.float(), torch.inf)
