"""What methods that learn S, or its labels, by regression or from a teacher may be told."""

from __future__ import annotations

from datadistill.data.task import Budget, Real, Task
from datadistill.methods import KIP, RCIG, RFAD, FRePo
from datadistill.run import Run
from datadistill.testing import tiny_tasks
from datadistill.training.pool import Pool

TASKS = tiny_tasks()


def test_defaults_are_those_of_the_authors_code():
    paper = {
        FRePo: {"iterations": 500_000, "lr": 3e-4, "real_batch": 1024, "ridge": 1e-6, "pool": 10, "max_updates": 100, "lr_net": 3e-4},
        RFAD: {"lr": 1e-3, "lr_tau": 1e-2, "ridge": 5e-3, "nets": 8, "width": 256},
        KIP: {"lr": 4e-2, "real_batch": 5000, "ridge": 1e-6, "depth": 3, "weight": 2.0, "bias": 0.01},
        RCIG: {"iterations": 10_000, "lr": 3e-3, "lr_tau": 3e-2, "real_batch": 1024, "ridge": 5e-4, "pool": 30, "max_updates": 100, "steps": 15, "lr_net": 5e-5, "inner": 20, "softplus": 60.0},
    }
    for kind, expected in paper.items():
        assert {name: getattr(kind(), name) for name in expected} == expected


def test_a_network_of_the_pool_is_shown_a_thousand_examples_at_most(monkeypatch):
    tiny = TASKS["tabular"].train
    many = Real(tiny.stored.repeat(40, 1), tiny.labels.repeat(40), tiny.modality)
    seen = []
    monkeypatch.setattr(Pool, "fit", lambda self, k, x, y, pieces: seen.append((len(x), len(y))))
    for size in (900, 1010):
        FRePo(iterations=1, real_batch=5, pool=1, width=4).distill(Task.of(many, many, Budget(size=size)), Run(0))
    assert seen == [(900, 900), (1000, 1000)]
