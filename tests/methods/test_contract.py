"""The contract of `datadistill.testing`, over every method and every modality; and the contract itself, on methods that break it."""

from __future__ import annotations

import pytest
import torch
from cases import CASES

from datadistill import methods, modalities
from datadistill.testing import CHECKS, tiny_tasks

TASKS = tiny_tasks()
METHODS = {m.name: m for m in methods.BUILT_IN}
EVERY = [pytest.param(name, case, id=f"{name}-{k}") for name in METHODS for k, case in enumerate(CASES.get(name, []))]


def test_every_method_has_a_tiny_case():
    for name in METHODS:
        assert name in CASES, f'the contract is not checked for {name!r}: add a line to tests/methods/cases.py, e.g. "{name}": [{{"iterations": 3}}],'
    assert set(CASES) <= set(METHODS), f"cases of methods that are not there: {set(CASES) - set(METHODS)}"


def test_every_modality_has_a_tiny_task():
    assert set(TASKS) == set(modalities.ALL)
    for name, task in TASKS.items():
        assert task.modality.name == name
        assert len(set(task.quota.tolist())) > 1 and not torch.equal(task.train.labels, task.train.labels.sort().values)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize(("name", "case"), EVERY)
def test_contract(name, case, task, check):
    check(methods.get(name, **case), task)


def test_the_best_coreset_is_chosen_among_all_selection_methods_but_random():
    assert methods.coresets() == [m.name for m in methods.BUILT_IN if m.family == "selection" and m.name != "random"]
    assert {"herding", "k-center", "k-means"} <= set(methods.coresets())
