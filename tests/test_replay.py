"""What may be recorded on a GPU looks at no number on its way; elsewhere the work is simply done. (On a GPU itself: tests/gpu.)"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).parent / "methods"))
from cases import CASES

from datadistill import methods
from datadistill.modalities.image import Siamese
from datadistill.replay import Replay, abreast, differentiable, sent
from datadistill.run import Run
from datadistill.testing import refuses, tiny_tasks

TASKS = tiny_tasks()
RECORDED = ["dm", "dc", "dsa", "idc", "cafe", "mtt", "tesla", "ftd", "datm", "selmatch", "teacher-labels"]


class Blind(TorchDispatchMode):
    """Within it no number can be looked at, and no shape may depend on one."""

    LOOKS = ("_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "bincount", "masked_select", "equal")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        if name in self.LOOKS or (name.startswith("index") and any(t is not None and t.dtype == torch.bool for a in args if isinstance(a, (list, tuple)) for t in a)):
            raise AssertionError(f"{name}: a number was looked at")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def blind(monkeypatch):
    """Work that would be recorded is done in the dark, as on a GPU; how often."""
    done = []

    def call(self, *given):
        done.append(self)
        with Blind():
            return self.work(*given)

    monkeypatch.setattr(Replay, "__call__", call)
    monkeypatch.setattr(Siamese, "__call__", lambda self, x, group: self._chosen(x, *self, group))
    return done


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("name", RECORDED)
def test_what_is_recorded_looks_at_no_number(name, task, blind, monkeypatch):
    for module in ("trajectories", "datm"):  # whose segments are recorded with their slopes

        def dark(work, device, notes=None):
            def segment(given, *inputs):
                blind.append(work)
                with Blind():
                    return work(given, *inputs)

            return segment

        monkeypatch.setattr(f"datadistill.methods.{module}.differentiable", dark)
    method = methods.get(name, **CASES[name][0])
    if refuses(method, task):
        return
    made = method.distill(task, Run(0))
    assert blind and torch.isfinite(made.x).all()


def test_looking_is_noticed(blind):
    with pytest.raises(AssertionError, match="looked at"):
        Replay(lambda x: x * float(x.sum()), "cpu")(torch.ones(2))
    with pytest.raises(AssertionError, match="looked at"):
        Replay(lambda x: x[x > 0], "cpu")(torch.ones(2))


def test_every_operation_on_all_and_one_chosen_is_every_operation_on_its_own():
    modality = TASKS["image"].modality
    x = modality.noise(40, torch.Generator().manual_seed(0)).requires_grad_()
    omega = modality.augment(torch.Generator().manual_seed(1), 10)
    group = torch.arange(40) % 10
    assert len(omega.op.unique()) > 3
    results = [omega(x, group), omega._chosen(x, *omega, group)]
    torch.testing.assert_close(*results, rtol=0, atol=1e-6)
    slopes = [torch.autograd.grad(r.square().sum(), x)[0] for r in results]
    torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-5)


def test_elsewhere_the_work_is_done_each_time():
    calls = []
    replay = Replay(lambda a, more: calls.append(a) or (a + more[0], a * more[1]["b"]), "cpu")
    for k in range(3):
        first, second = replay(torch.full((2,), float(k)), (torch.ones(2), {"b": torch.tensor(2.0)}))
        assert first.tolist() == [k + 1.0] * 2 and second.tolist() == [2.0 * k] * 2
    assert len(calls) == 3
    x = torch.ones(2, requires_grad=True)
    differentiable(lambda given, x: (given * x).sum(), "cpu")(torch.full((2,), 3.0), x).backward()
    assert x.grad.tolist() == [3.0, 3.0]
    assert abreast([lambda k=k: k for k in range(9)]) == list(range(9))
    assert sent(x, "cpu") is x
