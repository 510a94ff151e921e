"""Clusters, and the examples in the middle of them, against a search by hand."""

import pytest
import torch

from datadistill.match.clusters import lloyd, medoids, representative
from datadistill.rng import rng

SEEDS = range(5)


@pytest.mark.parametrize("seed", SEEDS)
def test_medoids_are_real_distinct_and_nearest_to_their_centres(seed):
    x = torch.randn((80, 3), generator=rng(seed))
    centres, cluster = lloyd(x, 7, seed)
    chosen = medoids(x, centres).tolist()
    taken: list[int] = []
    for centre in centres:
        taken.append(min((i for i in range(80) if i not in taken), key=lambda i: float((x[i] - centre).square().sum())))
    assert chosen == taken
    assert cluster.tolist() == torch.cdist(x, centres).argmin(1).tolist()


@pytest.mark.parametrize("seed", SEEDS)
def test_one_representative_is_the_example_nearest_to_the_mean(seed):
    x = torch.randn((50, 4), generator=rng(seed))
    assert representative(x, 1, seed).item() == (x - x.mean(0)).norm(dim=1).argmin()


@pytest.mark.parametrize("seed", SEEDS)
def test_representatives_are_one_of_each_cluster(seed):
    places = 40.0 * torch.eye(6)
    x = (places[:, None] + torch.randn((6, 25, 6), generator=rng(seed))).flatten(0, 1)
    assert sorted((representative(x, 6, seed) // 25).tolist()) == list(range(6))


@pytest.mark.parametrize("n", [0, 1, 3])
def test_of_no_more_than_are_asked_for_all_are_taken(n):
    assert representative(torch.zeros(n, 2), 3, 0).tolist() == list(range(n))


def test_examples_that_repeat_are_taken_once_each():
    assert sorted(representative(torch.zeros(5, 2), 3, 0).tolist()) == [0, 1, 2]
