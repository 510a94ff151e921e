"""k-means: one cluster per place, each shown by its most central example or by its mean.

Lloyd's algorithm (1957; IEEE Trans. Inf. Theory 1982) from k-means++ seeds (Arthur & Vassilvitskii, SODA 2007), for each
class with examples X and k places, in an embedding:
    c_1..c_k <- k-means++(X)
    repeat   S_j <- {x : c_j is its nearest centre};   c_j <- mean of S_j          until nothing changes
    medoids:    for each j the example nearest to c_j, none twice
    centroids:  for each j the mean of S_j *in network space*, whatever the embedding
A centroid is no real example; where means make no sense (`averages` is not among the modality's traits) it is refused.
Differences from scikit-learn's defaults: one start; at most 100 rounds; one thread, since its sums depend on their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from ..data.task import Task
from ..errors import UsageError
from ..labels import Hard
from ..match.clusters import lloyd, medoids
from ..modalities import ALL, Modality
from ..rng import seed_of
from ..run import Run
from ..synthetic import SyntheticSet
from ..training.embedding import CHUNK, Kind, embedding
from .base import Method, Paper
from .selection import per_class


@final
@dataclass(frozen=True, kw_only=True)
class KMeans(Method):
    """One cluster per place: its most central example (medoids), or its mean (centroids, where examples can be averaged)."""

    name: ClassVar = "k-means"
    stores: ClassVar = "real examples"
    when: ClassVar = "the coreset to try first, at one to ten items per class"
    family: ClassVar = "selection"
    paper: ClassVar = Paper(title="Least Squares Quantization in PCM; k-means++: The Advantages of Careful Seeding",
                            venue="IEEE Trans. Inf. Theory 1982; SODA 2007")
    scales_over: ClassVar = "classes"

    keep: Literal["medoids", "centroids"] = "medoids"
    embedding: Kind = "trained"  # where clusters are made: a net trained on T, an untrained net, or the input itself
    net: str = "auto"
    width: int = 32
    steps: int = 300  # of training the embedding

    def check(self, modality: Modality) -> None:
        super().check(modality)
        if self.keep == "centroids" and "averages" not in modality.traits:
            able = [name for name, kind in ALL.items() if "averages" in kind.traits]
            raise UsageError(f"k-means with keep=centroids averages examples, and {modality.name} data cannot be averaged",
                             f"{' or '.join(able)} data", "--set keep=medoids")

    def distill(self, task: Task, run: Run) -> SyntheticSet:
        self.check(task.modality)
        psi = embedding(self.embedding, task.train, run, net=self.net_for(task.modality), width=self.width, steps=self.steps)

        def make(c: int) -> Tensor:
            own, k = task.train.indices(c), int(task.quota[c])
            x = psi(own)
            centres, cluster = lloyd(x, k, seed_of(run.seed, "k-means", c))
            nearest = own[medoids(x, centres)]
            return nearest if self.keep == "medoids" else means(task, own, cluster, nearest)

        if self.keep == "medoids":
            return SyntheticSet.select(task, per_class(task, run, torch.zeros(len(task.labels), dtype=torch.long), make))
        x = per_class(task, run, torch.zeros(len(task.labels), *task.spec.shape), make)
        return SyntheticSet(x, Hard(task.labels, len(task.classes)), task.modality)


def means(task: Task, own: Tensor, cluster: Tensor, nearest: Tensor) -> Tensor:
    """(k, *spec.shape) the mean of each cluster's examples in network space, read in chunks; `own` (n,) indices of a class,
    `cluster` (n,) of each. A cluster that is empty, where examples repeat, is its medoid `nearest` (k,)."""
    total = torch.zeros(len(nearest), *task.spec.shape)
    for rows, where in zip(own.split(CHUNK), cluster.split(CHUNK), strict=True):
        total.index_add_(0, where, task.train.read(rows))
    size = torch.bincount(cluster, minlength=len(nearest))
    total[size == 0] = task.train.read(nearest[size == 0])
    return total / size.clamp(min=1).view(-1, *[1] * len(task.spec.shape))
