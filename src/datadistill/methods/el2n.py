"""EL2N (Paul, Ganguli & Dziugaite, NeurIPS 2021): how wrong young networks are about an example.

Definition 2.2 and section 3, in the paper's letters:
    train K networks w_k from different starts for a short time t
    score(x, y) = E_k || p(w_k, x) - y ||_2                p the softmax, y one-hot
    keep the examples with the highest scores
Differences from the paper: scores come from K=3 narrow nets after a few hundred steps (paper: 10 ResNet-18 after 20
epochs); the choice is per class. The paper prunes at most 60 % or so. At tiny budgets the hardest examples are mostly
outliers and wrong labels, and the easiest train better students (Sorscher et al., NeurIPS 2022): keep=easiest.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.task import Real, Task
from ..memory import Pieces
from ..nets import Net
from ..rng import seed_of
from ..run import Run
from ..synthetic import SyntheticSet
from ..training import Schedule, fit
from ..training.embedding import CHUNK, content_key, narrow
from ..training.fit import hard_labels
from .base import Method, Paper
from .selection import Keep, by_score


@final
@dataclass(frozen=True, kw_only=True)
class EL2N(Method):
    """The examples with the largest (or smallest) error norm early in training."""

    name: ClassVar = "el2n"
    stores: ClassVar = "real examples"
    when: ClassVar = "large budgets, as forgetting"
    family: ClassVar = "selection"
    paper: ClassVar = Paper(title="Deep Learning on a Data Diet: Finding Important Examples Early in Training", venue="NeurIPS 2021", arxiv="2107.07075")

    keep: Keep = "hardest"  # the paper's; at a few items per class easiest is the better one
    repeats: int = 3  # K, networks that scores are averaged over
    net: str = "auto"
    width: int = 16
    steps: int = 200  # t, of training each

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        real, schedule, family = task.train, Schedule(self.steps), self.net_for(task.modality)
        kept = nn.Module()  # something with a state that a run can save
        kept.register_buffer("scores", torch.zeros(len(real)))
        for k in run.steps(self.repeats, kept, label="scoring"):

            def make(k: int = k) -> dict[str, Tensor]:
                w = narrow(family, task.spec, self.width, run.rng("theta", k))
                seed = seed_of(run.seed, "el2n", k)
                pieces = Pieces(schedule.batch, notes=run.notes)
                fit(w, real, hard_labels(real), schedule, seed, device=run.device, pieces=pieces, steps=lambda n: run.steps(n, label=f"training net {k + 1}"))
                return {"scores": error_norms(w, real, run.device)}

            key = content_key(real, run, net=family, width=self.width, schedule=asdict(schedule), k=k)
            kept.scores += run.cached("el2n", key, make)["scores"] / self.repeats
        return SyntheticSet.select(task, by_score(task, kept.scores, self.keep, run.rng("ties")))


@torch.inference_mode()
def error_norms(net: Net, real: Real, device: torch.device) -> Tensor:
    """(N,) || softmax(net(x)) - onehot(y) ||_2 of every example."""
    parts = []
    for rows in torch.arange(len(real)).split(CHUNK):
        p = F.softmax(net(real.read(rows, device)), 1).cpu()
        parts.append((p - F.one_hot(real.labels[rows], p.shape[1])).norm(dim=1))
    return torch.cat(parts)
