"""On a machine with a GPU: every method works there, and what is recorded and replayed comes to what is done step by step."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "methods"))
from cases import CASES

from datadistill import methods
from datadistill.replay import Replay, differentiable, sent
from datadistill.run import Run
from datadistill.synthetic.artifact import Artifact
from datadistill.testing import refuses, tiny_tasks
from datadistill.training import Schedule, fit
from datadistill.training.fit import hard_labels

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
TASKS = tiny_tasks()
EVERY = [pytest.param(name, case, id=f"{name}-{k}") for name, cases in CASES.items() for k, case in enumerate(cases)]
RECORDED = ["dm", "dc", "dsa", "idc", "cafe", "mtt", "tesla", "ftd", "datm", "selmatch"]


@pytest.fixture(autouse=True)
def exact():
    """Convolutions in float32, as on a CPU."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def made(name: str, case: dict, task, device: str = "cuda") -> tuple[torch.Tensor, Run]:
    run = Run(0, device=device)
    syn = methods.get(name, **case).distill(task, run)
    return Artifact.of(syn.cpu(), {}).x.float(), run


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize(("name", "case"), EVERY)
def test_every_method_makes_there_what_it_makes_on_a_cpu(name, case, task):
    if refuses(methods.get(name, **case), task):
        pytest.skip("refused")
    here, _ = made(name, case, task, "cpu")
    there, run = made(name, case, task)
    assert there.shape == here.shape and torch.isfinite(there.nan_to_num()).all()
    assert not [note for note in run.notes if "recorded" in note], run.notes
    scale = 255 if task.modality.name == "image" else float(here.nan_to_num().std())
    assert float((there - here).nan_to_num().abs().median()) < 0.01 * scale  # a choice among near equals may fall otherwise


@pytest.mark.parametrize("name", RECORDED)
def test_replayed_is_step_by_step(name, monkeypatch):
    case = {**CASES[name][0], "iterations": 4}
    count = []
    record = Replay._record
    monkeypatch.setattr(Replay, "_record", lambda self, *a: count.append(record(self, *a)) or count[-1])
    replayed, _ = made(name, case, TASKS["image"])
    assert count and all(recording is not None for recording in count)
    monkeypatch.setattr(Replay, "_record", lambda self, *a: None)
    plain, _ = made(name, case, TASKS["image"])
    assert float((replayed - plain).abs().mean()) < 0.5  # of 255


@pytest.mark.parametrize("name", ["dm", "dsa", "ncfm"])
def test_bfloat16_points_where_float32_does(name):
    """The first step of S, through a net that is as wide as the papers'."""
    task, moves = TASKS["image"], []
    for precision in ("float32", "bfloat16"):
        case = {**CASES[name][0], "iterations": 1, "width": 128, "real_batch": 8, "sampling": "random", "init": "real", "precision": precision}
        syn, start = methods.get(name, **case).distill(task, Run(0, device="cuda")), methods.get(name, **{**case, "lr": 0.0}).distill(task, Run(0, device="cuda"))
        moves.append((syn.x - start.x).detach().flatten())
    assert not torch.equal(*moves) and torch.cosine_similarity(*moves, dim=0) > 0.95


def test_a_recording_takes_what_it_is_given_each_time():
    weight = torch.ones(3, device="cuda")
    replay = Replay(lambda a, b: (a @ b * weight, [b.sum()]), "cuda")
    for k in range(5):
        a, b = torch.randn(4, 2), torch.randn(2, 3, device="cuda")
        weight.fill_(k)
        product, (total,) = replay(a, b)
        torch.testing.assert_close(product.cpu(), a @ b.cpu() * k)
        torch.testing.assert_close(total.cpu(), b.sum().cpu())


def test_what_looks_at_a_number_is_not_recorded_and_is_right():
    notes: list[str] = []
    replay = Replay(lambda x: x * 2 if float(x.sum()) > 0 else x * 3, "cuda", notes)
    for value in (1.0, 1.0, -1.0, -1.0):
        assert float(replay(torch.tensor([value]))) == value * (2 if value > 0 else 3)
    assert len(notes) == 1 and "not recorded" in notes[0]
    assert float(torch.ones(2, device="cuda").sum()) == 2


def test_nothing_is_fetched_from_the_host_inside_a_recording():
    replay = Replay(lambda x: x + sent(torch.ones(1), "cuda"), "cuda", notes := [])
    assert [float(replay(torch.ones(1))) for _ in range(3)] == [2, 2, 2] and "fetched" in notes[0]


def test_slopes_come_with_the_value():
    work = differentiable(lambda given, x, y: (given * x.square() * y).sum(), "cuda")
    for k in range(4):
        x, y = (torch.full((2,), v, device="cuda", requires_grad=True) for v in (2.0, 3.0))
        value = work(torch.full((2,), float(k)), x, y) * 2
        value.backward()
        assert float(value) == 48 * k and x.grad.tolist() == [24.0 * k] * 2 and y.grad.tolist() == [8.0 * k] * 2


def test_students_of_a_gpu_learn_what_those_of_a_cpu_do():
    from datadistill import nets
    from datadistill.rng import rng

    real = TASKS["image"].train
    for family in ("convnet", "resnet"):
        found = [fit(nets.build(family, real.modality.spec, rng(0, "net"), width=4), real, hard_labels(real), Schedule(12, batch=16), 0, device=device) for device in ("cpu", "cuda")]
        for (name, here), there in zip(found[0].net.state_dict().items(), found[1].net.state_dict().values(), strict=True):
            torch.testing.assert_close(there.cpu(), here, atol=2e-2, rtol=2e-2, msg=lambda m, name=name, family=family: f"{family} {name}: {m}")
        assert found[0].flops == found[1].flops and not found[1].notes


def test_a_loss_that_is_not_finite_is_found_by_the_next_copy():
    run = Run(0, device="cuda")
    p = torch.nn.Parameter(torch.ones(2, device="cuda"))
    kept = torch.nn.ParameterList([p])
    optimizer = torch.optim.SGD([p], lr=1.0)
    for it in run.steps(400, kept, optimizer):
        loss = (p * (torch.inf if it == 201 and optimizer.param_groups[0]["lr"] == 1.0 else 1.0)).sum()
        run.log(it, loss=run.descend(optimizer, loss))
    assert any("back to step 200" in note for note in run.notes) and torch.isfinite(p).all()
    assert float(p[0]) == 1 - 200 - 0.5 * 200 and len(run.curve) == 400 and all(type(row["loss"]) is float for row in run.curve)
