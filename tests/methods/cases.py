"""Every method at a tiny scale, for the contract suite: name -> one set of hyper-parameters, or several that do different things."""

from __future__ import annotations

from typing import Any

EMBEDDED = {"width": 4, "steps": 3}

CASES: dict[str, list[dict[str, Any]]] = {
    "random": [{}],
    "herding": [{"embedding": "trained", **EMBEDDED}, {"embedding": "random", **EMBEDDED}, {"embedding": "input"}],
    "k-center": [{"embedding": "trained", **EMBEDDED}, {"embedding": "input"}],
    "k-means": [{"keep": "medoids", **EMBEDDED}, {"keep": "centroids", **EMBEDDED}],
    "forgetting": [{"epochs": 2, "batch": 8, "width": 4}],
    "el2n": [{"repeats": 2, "steps": 2, "width": 4}, {"repeats": 1, "steps": 2, "width": 4, "keep": "easiest"}],
    "dc": [{"iterations": 2, "outer": 2, "inner_epochs": 1, "width": 4, "real_batch": 8, "batch_train": 4}],
    "dsa": [{"iterations": 2, "outer": 2, "inner_epochs": 1, "width": 4, "real_batch": 4, "sampling": "representative"},
            {"iterations": 2, "width": 4, "real_batch": 4, "form": "multiform:2"}],
    "cafe": [{"iterations": 2, "rounds": 2, "width": 4, "real_batch": 4, "batch_train": 4, "augment": True}],
    "idm": [{"iterations": 3, "width": 4, "real_batch": 4, "queue": 4, "push_every": 2, "net_steps": 1}],
    "datadam": [{"iterations": 3, "width": 4, "real_batch": 4}],
    "m3d": [{"iterations": 3, "width": 4, "real_batch": 4, "per_net": 2}],
    "ncfm": [{"iterations": 2, "width": 4, "real_batch": 4, "nets_trained": 2, "epochs": 1, "frequencies": 8}],
    "dm": [{"iterations": 3, "width": 4, "real_batch": 8}, {"iterations": 3, "width": 4, "real_batch": 4, "sampling": "representative", "form": "multiform:2"}],
}
