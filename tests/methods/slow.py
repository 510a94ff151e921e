"""For tests of methods against a formula retyped slowly: what a method would do to S, watched and not done."""

from __future__ import annotations

import torch

from datadistill import nets
from datadistill.data.task import Real
from datadistill.run import Run
from datadistill.synthetic import SyntheticSet

PRECISIONS = [(torch.float32, 1e-5), (torch.float64, 1e-9)]


def papers_form(task) -> str:
    """What `form=auto` of IDC, IDM, M3D and NCFM is where pictures have the papers' sizes."""
    return "multiform:2" if "grid" in task.modality.traits else "pixels"


class Watched(Run):
    """Keeps (loss, gradient by the items of S) of every descent instead of stepping."""

    def descend(self, optimizer, loss):
        optimizer.zero_grad()
        value = loss()
        self.seen = [*getattr(self, "seen", []), (value.detach().clone(), optimizer.param_groups[0]["params"][0].grad.clone())]
        return value.detach()


def watch(method, task, seed, dtype, monkeypatch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(loss, gradient) of each descent of the method, nets, real data and S being of this dtype."""
    with monkeypatch.context() as patch:
        if dtype is torch.float64:
            build, read, init = nets.build, Real.read, SyntheticSet.init
            patch.setattr(nets, "build", lambda *a, **k: build(*a, **k).double())
            patch.setattr(Real, "read", lambda self, rows, *device: read(self, rows, *device).double())

            def start(*a):
                with monkeypatch.context() as inner:
                    inner.setattr(Real, "read", read)  # S starts from what is stored in single precision
                    return init(*a).double()

            patch.setattr(SyntheticSet, "init", start)
        method.distill(task, run := Watched(seed))
    return run.seen


def agree(ours, theirs, tolerance) -> None:
    """Both (loss, gradient) to a relative tolerance, and there is something to compare."""
    assert float((ours[0] - theirs[0]).abs()) <= tolerance * max(1.0, float(theirs[0].abs()))
    assert float((ours[1] - theirs[1]).norm()) <= tolerance * max(1e-3, float(theirs[1].norm()))
    assert float(theirs[1].norm()) > 1e-6
