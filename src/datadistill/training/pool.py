"""Nets trained on T that methods look through: made once per content, one by one, and kept by `run.cached`."""

from __future__ import annotations

from dataclasses import asdict

from torch import Tensor

from .. import nets
from ..data.task import Real
from ..memory import Pieces
from ..rng import seed_of
from ..run import Run
from .embedding import content_key, narrow
from .fit import Schedule, fit, hard_labels


def fresh(real: Real, run: Run, name: str, member: int, *, net: str, width: int | None) -> nets.Net:
    """Member `member` of the pool `name` before it was trained."""
    return narrow(net, real.modality.spec, width, run.rng(name, member)).to(run.device)


def trained(real: Real, run: Run, name: str, member: int, *, net: str, width: int | None, schedule: Schedule) -> nets.Net:
    """The same after training on all of T by this schedule, in eval mode and without gradients of its weights."""
    made = fresh(real, run, name, member, net=net, width=width)

    def make() -> dict[str, Tensor]:
        seed = seed_of(run.seed, name, member)
        fit(made, real, hard_labels(real), schedule, seed, device=run.device, pieces=Pieces(schedule.batch, notes=run.notes),
            steps=lambda n: run.steps(n, label=f"training net {member + 1}"))
        return {key: value.cpu() for key, value in made.state_dict().items()}

    key = content_key(real, run, pool=name, member=member, net=net, width=width, schedule=asdict(schedule))
    made.load_state_dict(run.cached("net", key, make))
    return made.eval().requires_grad_(False)


def epochs(real: Real, n: int, batch: int = 128) -> int:
    """The steps of n epochs, at least one."""
    return max(1, n * (len(real) // min(batch, len(real))))
