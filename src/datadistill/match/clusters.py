"""Clusters of a class, and the examples in the middle of them."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


def lloyd(x: Tensor, k: int, seed: int, rounds: int = 100) -> tuple[Tensor, Tensor]:
    """(k, d) centres and (n,) the centre of each row of x (n, d)."""
    from sklearn.cluster import KMeans  # takes longer to import than all of ours, and most commands look for no clusters
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "openmp"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct examples than places
        fitted = KMeans(k, n_init=1, max_iter=rounds, random_state=seed % 2**32).fit(x.numpy())
    return torch.from_numpy(fitted.cluster_centers_), torch.from_numpy(fitted.labels_).long()


def medoids(x: Tensor, centres: Tensor) -> Tensor:
    """(k,) for each centre in turn the row of x nearest to it that no centre before took."""
    free = torch.ones(len(x), dtype=torch.bool)
    chosen = torch.empty(len(centres), dtype=torch.long)
    for j, centre in enumerate(centres):
        chosen[j] = torch.where(free, (x - centre).square().sum(1), torch.inf).argmin()
        free[chosen[j]] = False
    return chosen


def representative(x: Tensor, k: int, seed: int) -> Tensor:
    """(min(k, n),) the rows of x (n, d) nearest to the centres of k clusters (DREAM, Liu et al., ICCV 2023, arXiv 2302.14416, whose
    k-means runs to convergence, this one for ten rounds); all of them where there are no more.
    """
    return torch.arange(len(x)) if len(x) <= k else medoids(x, lloyd(x, k, seed, rounds=10)[0])
