"""psi, the embedding that selection methods look through: a net trained on T, an untrained one, or the examples themselves.

The trained net is made once per content (real data, net, schedule and seed) and kept by `run.cached`, so that several
methods, or several budgets, pay for one training.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor

from .. import nets
from ..data.task import Real
from ..memory import Pieces
from ..rng import seed_of
from ..run import Run
from ..spec import Spec
from .fit import Schedule, fit, hard_labels

Kind = Literal["trained", "random", "input"]
CHUNK = 256  # examples embedded at once


def embedding(kind: Kind, real: Real, run: Run, *, net: str, width: int, steps: int) -> Callable[[Tensor], Tensor]:
    """psi(indices) -> (n, features) float32 on the CPU, read in chunks without gradient.

    kind   "trained": the features before the head of a net trained on all of T for `steps` steps; "random": the same net
           untrained; "input": network space, flattened
    net    a family of `nets`, of that `width` where it has one
    """
    spec = real.modality.spec
    if kind == "input":
        return lambda indices: real.read(indices).flatten(1)
    psi = narrow(net, spec, width, run.rng("embedding"))
    if kind == "trained":
        schedule = Schedule(steps)

        def make() -> dict[str, Tensor]:
            seed = seed_of(run.seed, "embedding")
            pieces = Pieces(schedule.batch, notes=run.notes)
            fit(psi, real, hard_labels(real), schedule, seed, device=run.device, pieces=pieces, steps=lambda n: run.steps(n, label="training an embedding"))
            return {name: value.cpu() for name, value in psi.state_dict().items()}

        psi.load_state_dict(run.cached("embedding", content_key(real, run, net=net, width=width, schedule=asdict(schedule)), make))
    psi.to(run.device).eval()
    pieces = Pieces(CHUNK, "chunk of examples to embed", run.notes)

    @torch.inference_mode()
    def embed(indices: Tensor) -> Tensor:
        return torch.cat(pieces.map(len(indices), lambda piece: psi.embed(real.read(indices[piece], run.device)).cpu()))

    return embed


def narrow(family: str, spec: Spec, width: int | None, rng: torch.Generator) -> nets.Net:
    """A net of that family, `width` channels or units wide if the family has a width; none: the family's own."""
    kind = nets.FAMILIES.get(family)
    sized = width is not None and kind is not None and "width" in inspect.signature(kind.__init__).parameters
    return nets.build(family, spec, rng, **({"width": width} if sized else {}))


def content_key(real: Real, run: Run, **settings: Any) -> str:
    """What a cached result depends on, as a hash: the real data and how it is read, seed, settings, and what rounds its sums."""
    machine = [torch.__version__, run.device.type, torch.get_num_threads()]
    what = {"real": real.fingerprint, "spec": real.modality.spec.to_json(), "seed": run.seed, "machine": machine, **settings}
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()
