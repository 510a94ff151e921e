"""Parametrisations: what is stored of a synthetic set, and how the examples that students see come out of it.

A method moves the parameters of a `Form` and looks only at the examples, so any of them goes with any form:

    pixels          each stored item is one example
    multiform:2     each item is a 2 x 2 grid of examples, enlarged to full size (IDC, Kim et al., ICML 2022, arXiv 2205.14959)
    frequency:4     four examples per item, each by a quarter of its cosine coefficients (FreD, Shin et al., NeurIPS 2023, arXiv 2311.08819)
    basis:4         four examples per item, each a mixture of all items (Deng & Russakovsky, NeurIPS 2022, arXiv 2206.02916)
    haba:5          each item seen by five hallucinators that all share (HaBa, Liu et al., NeurIPS 2022, arXiv 2210.16774)
    field:4         four examples per item, each a small network of coordinates (DDiF, Shin et al., ICLR 2025, arXiv 2503.04835)

The budget counts items, and bytes as stored; `each` is how many examples an item gives, one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..data.task import Task
from ..errors import BadInput, UsageError
from ..modalities import ALL, Modality
from ..text import safe
from .basis import Basis
from .field import Field
from .form import Form, Start, real_indices
from .frequency import Frequency
from .haba import HaBa
from .pixels import Multiform, Pixels

FORMS: dict[str, type[Form]] = {form.name: form for form in (Pixels, Multiform, Frequency, Basis, HaBa, Field)}


def named(text: str) -> tuple[type[Form], int]:
    """(form, its settings) of a text like "pixels" or "multiform:2"."""
    name, _, number = text.partition(":")
    if name not in FORMS or not (number == "" or (number.isascii() and number.isdigit() and 1 <= int(number) <= 64)):
        raise UsageError(f"no form {safe(text)!r}", f"one of {', '.join(FORMS)}, with a number after a colon where it takes one", "multiform:2")
    return FORMS[name], int(number or FORMS[name].default)


def check(text: str, modality: Modality) -> None:
    """Refuse, clearly, a form that is not there or that this modality cannot take."""
    form, _ = named(text)
    if not form.needs <= modality.traits:
        able = [name for name, kind in ALL.items() if form.needs <= kind.traits]
        raise UsageError(f"form {safe(text)!r} for {modality.name} data", f"{' or '.join(able)} data, or form 'pixels'", "--set form=pixels")


def holds_grids(modality: Modality) -> bool:
    """Whether items may well be grids of examples: in pictures smaller than the papers' smallest (MNIST's), too little is left of each."""
    return Multiform.needs <= modality.traits and min(modality.spec.shape[1:]) >= 28


def start(text: str, task: Task, how: Start, rng: torch.Generator) -> Form:
    """The form of that name for a task."""
    check(text, task.modality)
    form, settings = named(text)
    return form.start(task, how, rng, settings)


def rows(about: Mapping[str, Any], tensors: Mapping[str, Tensor], modality: Modality) -> tuple[Tensor, int]:
    """((m, *spec.stored) the examples, how many each item gives) of what was kept; `about` is the manifest's entry, and not trusted."""
    name, settings = about.get("name"), about.get("settings", 1)
    if not isinstance(name, str) or name not in FORMS:
        raise BadInput(f"examples stored in the form {safe(name)!r}", f"one of {', '.join(FORMS)}", "a newer datadistill may know it")
    if type(settings) is not int or not 1 <= settings <= 64 or not FORMS[name].needs <= modality.traits:
        raise BadInput(f"the form {name} with settings {safe(settings)!r} of {modality.name} data", "settings from 1 to 64 that fit the data")
    return FORMS[name].rows(tensors, modality, settings), FORMS[name].gives(settings)


__all__ = ["FORMS", "Form", "Multiform", "Pixels", "Start", "check", "named", "real_indices", "rows", "start"]
