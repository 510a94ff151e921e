"""Every method at a tiny scale, for the contract suite: name -> one set of hyper-parameters, or several that do different things."""

from __future__ import annotations

from typing import Any

EMBEDDED = {"width": 4, "steps": 3}

SEGMENTS = {"iterations": 2, "steps": 2, "expert_epochs": 1, "max_start": 1, "experts": 1, "width": 4, "augment": False}
WINDOW = {"iterations": 2, "total": 3, "window": 2, "real_batch": 16, "width": 4, "augment": False}

TAUGHT = {"width": 4, "epochs": 1}
RECOVERED = {"iterations": 2, **TAUGHT}

CASES: dict[str, list[dict[str, Any]]] = {
    "random": [{}],
    "herding": [{"embedding": "trained", **EMBEDDED}, {"embedding": "random", **EMBEDDED}, {"embedding": "input"}],
    "k-center": [{"embedding": "trained", **EMBEDDED}, {"embedding": "input"}],
    "k-means": [{"keep": "medoids", **EMBEDDED}, {"keep": "centroids", **EMBEDDED}],
    "forgetting": [{"epochs": 2, "batch": 8, "width": 4}],
    "el2n": [{"repeats": 2, "steps": 2, "width": 4}, {"repeats": 1, "steps": 2, "width": 4, "keep": "easiest"}],
    "dc": [{"iterations": 2, "outer": 2, "inner_epochs": 1, "width": 4, "real_batch": 8, "batch_train": 4}],
    "dsa": [{"iterations": 2, "outer": 2, "inner_epochs": 1, "width": 4, "real_batch": 4, "sampling": "representative", "optimizer": "adam"},
            {"iterations": 2, "width": 4, "real_batch": 4, "form": "multiform:2"}],
    "idc": [{"iterations": 2, "inner": 2, "width": 4, "real_batch": 4, "synthetic_batch": 5, "net_examples": 9, "net_batch": 4}],
    "cafe": [{"iterations": 2, "rounds": 2, "width": 4, "real_batch": 4, "batch_train": 4, "augment": True}],
    "idm": [{"iterations": 3, "width": 4, "real_batch": 4, "queue": 4, "push_every": 2, "net_steps": 1}],
    "datadam": [{"iterations": 3, "width": 4, "real_batch": 4}],
    "m3d": [{"iterations": 3, "width": 4, "real_batch": 4, "per_net": 2}],
    "ncfm": [{"iterations": 2, "width": 4, "real_batch": 4, "nets_trained": 2, "epochs": 1, "frequencies": 8}],
    "teacher-labels": [{"epochs": 3, "steps": 2, "width": 4}, {"epochs": 9, "epoch": 2, "width": 4, "init": "representative"}],
    "label-distillation": [{"iterations": 3, "per_net": 2, "width": 4, "real_batch": 8, "chunk": 5}],
    "dm": [{"iterations": 3, "width": 4, "real_batch": 8}, {"iterations": 3, "width": 4, "real_batch": 4, "sampling": "representative", "form": "multiform:2"},
           {"iterations": 2, "width": 4, "real_batch": 4, "form": "frequency:2"}, {"iterations": 2, "width": 4, "real_batch": 4, "form": "basis:2"},
           {"iterations": 2, "width": 4, "real_batch": 4, "form": "haba:2"}, {"iterations": 2, "width": 4, "real_batch": 4, "form": "field:1"}],
    "mtt": [{**SEGMENTS, "experts": 2, "segments": 2, "batch": 3, "form": "multiform:2"}],
    "tesla": [{**SEGMENTS, "alpha": 0.02}],
    "ftd": [{**SEGMENTS, "alpha": 0.02}],
    "datm": [{**SEGMENTS, "alpha": 0.02, "min_start": 0, "first_max_start": 1, "expansion_end": 1}, {**SEGMENTS, "alpha": 0.02, "form": "multiform:2"}],
    "att": [{**SEGMENTS, "alpha": 0.02}],
    "selmatch": [{**SEGMENTS, "alpha": 0.02, "distilled": 0.5, "left_out": 0.5, "forgetting_epochs": 1}],
    "dd": [{"iterations": 2, "epochs": 1, "parts": 2, "real_batch": 16, "width": 4, "augment": False}],
    "rat-bptt": [WINDOW],
    "at-bptt": [{**WINDOW, "reach": 1}],
    "rded": [{"candidates": 3, "crops": 2, "factor": 2, **TAUGHT}, {"candidates": 3, "crops": 2, "labels": "hard", "net": "convnet", **TAUGHT}],
    "sre2l": [RECOVERED, {**RECOVERED, "labels": "hard", "init": "real"}],
    "cda": [RECOVERED],
    "lpld": [{**RECOVERED, "labels": "views", "label_epochs": 3}],
    "fadrm": [{**RECOVERED, "iterations": 4, "stages": 2, "smaller": 0.75, "candidates": 3, "net": "resnet+resnet"}],
    "delt": [{**RECOVERED, "rounds": 2, "candidates": 3, "batch": 3}],
    "dwa": [{**RECOVERED, "steps": 2}],
    "g-vbsm": [{**RECOVERED, "batch": 4}],
    "kip": [{"iterations": 3, "real_batch": 9, "depth": 2, "kernel": "conv"}, {"iterations": 2, "real_batch": 9, "learn_labels": True, "memory": 4e-5}],
    "rfad": [{"iterations": 3, "real_batch": 9, "nets": 2, "width": 4, "chunk": 5}],
    "frepo": [{"iterations": 3, "real_batch": 9, "pool": 2, "max_updates": 2, "width": 4}, {"iterations": 2, "real_batch": 9, "pool": 2, "width": 4, "form": "multiform:2", "chunk": 5}],
    "rcig": [{"iterations": 2, "real_batch": 9, "pool": 2, "max_updates": 2, "steps": 2, "inner": 2, "width": 4}],
    "edc": [{**RECOVERED, "net": "resnet"}],
    "sc-dd": [{**RECOVERED, "probe_epochs": 2}],
    "cv-dd": [{**RECOVERED, "net": "resnet+vgg+resnet", "candidates": 3, "bssl": 4, "labels": "views", "label_epochs": 2}],
    "cim": [{"iterations": 2, "candidates": 3, **TAUGHT}],
    "wmdd": [{**RECOVERED, "batch": 5}],
    "lgm": [{"iterations": 3, "views": 2, "extend": 1, "chunk": 5, "probe_epochs": 2, **TAUGHT}, {"iterations": 2, "views": 1, "pretraining": "self-supervised", "labels": "soft", **TAUGHT}],
    "random-labelled": [{**TAUGHT}],
}
