"""Selection methods against slow references in the papers' letters, and the laws they are chosen for."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as SklearnKMeans

from datadistill import methods, nets
from datadistill.data.task import Budget, Real, Task
from datadistill.errors import Interrupted, UsageError
from datadistill.methods.el2n import error_norms
from datadistill.methods.forgetting import Events
from datadistill.methods.herding import herd
from datadistill.methods.k_center import cover
from datadistill.methods.selection import by_score
from datadistill.modalities import ALL, Tabular
from datadistill.rng import rng
from datadistill.run import Nowhere, Run
from datadistill.testing import Recorder, Stopper, tiny_tasks
from datadistill.training.embedding import CHUNK, content_key, embedding

SEEDS = range(5)


def cloud(seed: int, n: int, d: int) -> torch.Tensor:
    return torch.randn((n, d), generator=rng(seed, "cloud"), dtype=torch.double)


def table(x: torch.Tensor, y: torch.Tensor, **budget) -> Task:
    """A task of rows of numbers: x (n, d), y (n,)."""
    columns = [{"name": f"c{k}", "integer": False} for k in range(x.shape[1])]
    modality = Tabular(Tabular.spec_of(x.float(), columns, tuple(f"class {c}" for c in range(int(y.max()) + 1)), "label"))
    real = Real(x.float(), y, modality)
    return Task.of(real, real, Budget(**budget))


def two_classes(seed: int, n: int = 60, apart: float = 6.0) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, 4) rows, half of each class, the classes `apart` deviations from each other."""
    y = torch.arange(n) % 2
    return cloud(seed, n, 4) + apart / 2 * (2 * y[:, None] - 1), y


# -- herding ------------------------------------------------------------------------------------------------------------


def herding_as_written(phi: torch.Tensor, m: int) -> list[int]:
    """iCaRL, algorithm 4: every candidate tried in every round."""
    mu = sum(phi) / len(phi)
    chosen: list[int] = []
    for k in range(1, m + 1):
        distance = {x: float((mu - (phi[x] + sum(phi[j] for j in chosen)) / k).norm()) for x in range(len(phi)) if x not in chosen}
        chosen.append(min(distance, key=distance.get))
    return chosen


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("unit", [True, False])
def test_herding_is_the_greedy_choice_of_the_paper(seed, unit):
    phi = cloud(seed, 30, 5) + 0.5
    phi = phi / phi.norm(dim=1, keepdim=True) if unit else phi
    assert herd(phi, 12).tolist() == herding_as_written(phi, 12)


def test_every_prefix_of_herding_is_a_herding():
    phi = cloud(0, 40, 4)
    assert herd(phi, 20)[:7].tolist() == herd(phi, 7).tolist()


@pytest.mark.parametrize("seed", SEEDS)
def test_herding_approaches_the_mean_as_one_over_k_and_faster_than_chance(seed):
    phi = torch.nn.functional.normalize(cloud(seed, 1000, 6))
    mu, m = phi.mean(0), 100
    k = torch.arange(1, m + 1)

    def error(order: torch.Tensor) -> torch.Tensor:
        return (mu - phi[order].cumsum(0) / k[:, None]).norm(dim=1)

    greedy = error(herd(phi, m))
    assert float((k * greedy).max()) < 2  # Welling: k times the error stays bounded
    chance = torch.stack([error(torch.randperm(1000, generator=rng(seed, s))[:m]) for s in range(20)]).median(0).values
    assert bool((greedy[5:] < chance[5:] / 2).all()) and float(greedy[-1]) < float(chance[-1]) / 5


# -- k-center -----------------------------------------------------------------------------------------------------------


def radius(x: torch.Tensor, centres) -> float:
    return float(torch.cdist(x, x[list(centres)]).min(1).values.max())


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("b", [1, 2, 3])
def test_k_center_covers_within_twice_the_optimum(seed, b):
    x = cloud(seed, 11, 2)
    best = min(radius(x, centres) for centres in itertools.combinations(range(len(x)), b))
    assert radius(x, cover(x, b).tolist()) <= 2 * best + 1e-9


@pytest.mark.parametrize("seed", SEEDS)
def test_k_center_always_takes_the_farthest(seed):
    x = cloud(seed, 40, 3)
    chosen = cover(x, 10).tolist()
    assert chosen[0] == min(range(40), key=lambda i: float((x[i] - x.mean(0)).norm()))
    for k in range(1, 10):
        nearest = [min(float((x[i] - x[j]).norm()) for j in chosen[:k]) for i in range(40)]
        assert chosen[k] == int(np.argmax(nearest))


def test_k_center_never_chooses_twice_where_examples_repeat():
    assert sorted(cover(torch.ones(5, 2), 5).tolist()) == list(range(5))


@pytest.mark.parametrize("name", ["herding", "k-center"])
@pytest.mark.parametrize("how", ["input", "random"])
def test_the_order_of_the_real_data_does_not_matter(name, how):
    x, y = two_classes(0)
    order = torch.randperm(len(y), generator=rng(0, "order"))
    one, other = (methods.get(name, embedding=how).distill(table(*data, ipc=6), Run(0)).stored() for data in ((x, y), (x[order], y[order])))
    assert sorted(one.tolist()) == sorted(other.tolist())


# -- k-means ------------------------------------------------------------------------------------------------------------


def inertia(x: torch.Tensor, centres: torch.Tensor) -> float:
    return float(torch.cdist(x.double(), centres.double()).square().min(1).values.sum())


def clusters(seed: int, per_class: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes of `per_class` tight clusters of 25 rows, far from each other."""
    places = 40 * torch.arange(2 * per_class, dtype=torch.double)[:, None] * torch.tensor([1.0, -1.0, 0.5])
    x = (places[:, None] + cloud(seed, 50 * per_class, 3).view(2 * per_class, 25, 3)).flatten(0, 1)
    return x, torch.arange(2 * per_class).repeat_interleave(25) % 2


@pytest.mark.parametrize("seed", SEEDS)
def test_k_means_finds_the_clusters(seed):
    task = table(*clusters(seed), ipc=4)
    syn = methods.get("k-means", embedding="input").distill(task, Run(seed))
    assert sorted((syn.origin // 25).tolist()) == list(range(8))  # one of each cluster


@pytest.mark.parametrize("seed", SEEDS)
def test_centroids_are_as_tight_as_the_best_of_sklearn_and_are_means(seed):
    task = table(*clusters(seed), ipc=4)
    syn = methods.get("k-means", embedding="input", keep="centroids").distill(task, Run(seed))
    assert syn.origin is None
    for c in task.classes:
        x = task.train.read(task.train.indices(c))
        own = syn.x[syn.where(c)].detach()
        theirs = SklearnKMeans(4, n_init=10, random_state=seed).fit(x.numpy())
        assert inertia(x, own) <= theirs.inertia_ * (1 + 1e-4)
        nearest = torch.cdist(x, own).argmin(1)
        torch.testing.assert_close(own, torch.stack([x[nearest == j].mean(0) for j in range(4)]), atol=1e-4, rtol=1e-4)


def test_centroids_average_in_network_space_whatever_the_embedding():
    task = table(*clusters(0), ipc=1)
    for how in ("input", "random"):
        syn = methods.get("k-means", embedding=how, keep="centroids").distill(task, Run(0))
        for c in task.classes:
            torch.testing.assert_close(syn.x[c].detach(), task.train.read(task.train.indices(c)).mean(0), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("keep", ["medoids", "centroids"])
def test_k_means_where_examples_repeat(keep):
    x, y = torch.tensor([[0.0, 1.0], [2.0, 3.0]]).repeat_interleave(6, 0), torch.arange(12) // 6
    syn = methods.get("k-means", embedding="input", keep=keep).distill(table(x, y, ipc=4), Run(0))
    assert syn.y.tolist() == [0] * 4 + [1] * 4
    torch.testing.assert_close(syn.stored(), x[[0] * 4 + [6] * 4])
    assert keep == "centroids" or len(syn.origin.unique()) == 8


def test_centroids_are_refused_where_examples_cannot_be_averaged():
    method = methods.get("k-means", keep="centroids")
    able = [name for name, kind in ALL.items() if "averages" in kind.traits]
    for name, task in tiny_tasks().items():
        if name in able:
            method.check(task.modality)
        else:
            with pytest.raises(UsageError, match=" or ".join(able)):
                method.distill(task, Run(0))


# -- forgetting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("history", "score"),
    [("1111", 0), ("0111", 0), ("1010", 2), ("0101", 1), ("1000", 1), ("0000", math.inf), ("0001", 0), ("1100110", 2)],
)
def test_a_forgetting_event_is_right_and_then_wrong(history, score):
    events = Events(3)
    for acc in history:
        events.see(torch.tensor([1]), torch.tensor([acc == "1"]))
    assert float(events.scores()[1]) == score


def test_forgetting_is_algorithm_1():
    x, y = two_classes(1, n=40, apart=1.0)
    task = table(x, y, ipc=5)
    method = methods.get("forgetting", epochs=6, batch=16, lr=0.5, net="mlp", width=4)
    run = Run(3)
    chosen = method.distill(task, run).origin

    net = nets.build("mlp", task.spec, run.rng("theta"), width=4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    prev, count, learnt = dict.fromkeys(range(40), 0), dict.fromkeys(range(40), 0), set()
    for epoch in range(6):
        order = torch.randperm(40, generator=run.rng("order", epoch)).tolist()
        for batch in (order[:16], order[16:32], order[32:]):
            logits = net(task.train.read(torch.tensor(batch)))
            for i, row in zip(batch, logits, strict=True):
                acc = int(int(row.argmax()) == int(y[i]))
                count[i] += prev[i] > acc
                prev[i] = acc
                learnt |= {i} if acc else set()
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits, y[batch]).backward()
            optimizer.step()
    scores = torch.tensor([float(count[i]) if i in learnt else math.inf for i in range(40)])
    assert len(scores.unique()) > 2
    assert chosen.tolist() == by_score(task, scores, "hardest", run.rng("ties")).tolist()


# -- EL2N ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", tiny_tasks())
def test_error_norms_are_the_formula(kind):
    task = tiny_tasks()[kind]
    net = nets.build("mlp", task.spec, rng(0), width=8)
    for i, score in enumerate(error_norms(net, task.train, torch.device("cpu")).tolist()):
        z = net(task.train.read(torch.tensor([i])))[0].double().exp().tolist()
        p = [value / sum(z) for value in z]
        y = [float(c == int(task.train.labels[i])) for c in task.classes]
        assert score == pytest.approx(math.sqrt(sum((a - b) ** 2 for a, b in zip(p, y, strict=True))), abs=1e-5)


@pytest.mark.parametrize("steps", [0, 4])
def test_el2n_averages_over_networks_that_start_apart(steps):
    task = table(*two_classes(2, apart=2.0), ipc=3)
    snapshots = Nowhere()
    chosen = methods.get("el2n", repeats=3, steps=steps).distill(task, Run(0, snapshots=snapshots)).origin
    each = [kept["scores"] for (name, _), kept in snapshots._cache.items() if name == "el2n"]
    assert len(each) == 3 and not torch.equal(each[0], each[1])
    mean = (each[0] + each[1] + each[2]) / 3
    for c in task.classes:
        own = task.train.indices(c)
        assert set(chosen[3 * c : 3 * c + 3].tolist()) == set(own[mean[own].argsort(descending=True)[:3]].tolist())


@pytest.mark.parametrize(("name", "settings"), [("el2n", {"steps": 60, "repeats": 2}), ("forgetting", {"epochs": 20, "batch": 16})])
def test_wrong_labels_are_the_hardest_and_never_the_easiest(name, settings):
    x, y = two_classes(4)
    wrong = torch.tensor([3, 8, 20, 41])
    y = y.clone()
    y[wrong] = 1 - y[wrong]
    hardest, easiest = (methods.get(name, keep=keep, **settings).distill(table(x, y, ipc=2), Run(0)).origin.tolist() for keep in ("hardest", "easiest"))
    assert set(hardest) == set(wrong.tolist())
    assert not set(easiest) & set(wrong.tolist())


def test_scores_choose_within_classes_and_ties_fall_at_random():
    task = table(*two_classes(0, n=20), ipc=3)
    scores = torch.arange(20.0)
    assert by_score(task, scores, "hardest", rng(0)).tolist() == [18, 16, 14, 19, 17, 15]
    assert by_score(task, scores, "easiest", rng(0)).tolist() == [0, 2, 4, 1, 3, 5]
    flat = [tuple(by_score(task, torch.zeros(20), "hardest", rng(seed)).tolist()) for seed in range(6)]
    assert len(set(flat)) > 1 and flat[0] == tuple(by_score(task, torch.zeros(20), "hardest", rng(0)).tolist())


# -- the embedding ------------------------------------------------------------------------------------------------------


class Counting(Nowhere):
    made = 0

    def cached(self, name, key, make):
        def count():
            self.made += 1
            return make()

        return super().cached(name, key, count)


def test_one_training_serves_all_methods_and_budgets():
    snapshots, task = Counting(), tiny_tasks()["image"]
    for name in ("herding", "k-center", "k-means"):
        for quota in (task.quota, torch.ones_like(task.quota)):
            methods.get(name, width=4, steps=2).distill(Task(task.train, task.val, quota), Run(0, snapshots=snapshots))
    assert snapshots.made == 1
    for run, settings in ((Run(1, snapshots=snapshots), {}), (Run(0, snapshots=snapshots), {"steps": 3}), (Run(0, snapshots=snapshots), {"net": "mlp"})):
        before = snapshots.made
        methods.get("herding", **{"width": 4, "steps": 2, **settings}).distill(task, run)
        assert snapshots.made == before + 1


def test_a_key_tells_all_content_apart():
    image = tiny_tasks()["image"].train
    other = Real(image.stored.flip(0), image.labels, image.modality)
    keys = [content_key(real, Run(seed), steps=steps) for real, seed, steps in ((image, 0, 1), (other, 0, 1), (image, 1, 1), (image, 0, 2))]
    assert len(set(keys)) == 4 and keys[0] == content_key(tiny_tasks()["image"].train, Run(0), steps=1)


@pytest.mark.parametrize("kind", tiny_tasks())
def test_embeddings_are_what_they_say(kind):
    real = tiny_tasks()[kind].train
    everything, run = torch.arange(len(real)), Run(0)
    psi = {how: embedding(how, real, run, net="mlp", width=8, steps=5)(everything) for how in ("trained", "random", "input")}
    assert torch.equal(psi["input"], real.read(everything).flatten(1))
    torch.testing.assert_close(psi["random"], nets.build("mlp", real.modality.spec, run.rng("embedding"), width=8).embed(real.read(everything)).detach())
    assert psi["trained"].shape == (len(real), 8) and not torch.allclose(psi["trained"], psi["random"])


def test_a_trained_embedding_tells_classes_apart_better_than_a_random_one():
    x, y = two_classes(0, n=200, apart=1.0)
    real = table(torch.cat([x, 5 * cloud(9, 200, 20)], 1), y, ipc=1).train
    everything = torch.arange(200)

    def separation(how: str) -> float:
        psi = embedding(how, real, Run(0), net="mlp", width=16, steps=200)(everything)
        between = (psi[y == 0].mean(0) - psi[y == 1].mean(0)).square().sum()
        return float(between / (psi[y == 0].var(0).sum() + psi[y == 1].var(0).sum()))

    assert separation("trained") > 3 * separation("random")


def test_an_embedding_is_the_same_in_chunks():
    x, y = two_classes(0, n=2 * CHUNK + 10)
    psi = embedding("random", table(x, y, ipc=1).train, Run(0), net="mlp", width=8, steps=0)
    whole = psi(torch.arange(len(y)))
    torch.testing.assert_close(whole[CHUNK - 5 : CHUNK + 5], psi(torch.arange(CHUNK - 5, CHUNK + 5)))


def test_nets_are_taken_by_name():
    task = tiny_tasks()["tabular"]
    methods.get("herding", net="linear", steps=2).distill(task, Run(0))
    with pytest.raises(UsageError, match="no-such-net"):
        methods.get("herding", net="no-such-net").distill(task, Run(0))


def test_a_signal_during_the_training_of_the_embedding_stops_it_there():
    stopper = Stopper(2)
    stopper.run = Run(0, snapshots=Recorder(), progress=stopper)
    with pytest.raises(Interrupted):
        methods.get("herding", width=4, steps=50).distill(tiny_tasks()["image"], stopper.run)
    assert stopper.count == 2
