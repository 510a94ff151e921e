"""Numbers that make no sense are refused by name, before any work, with something to type that is taken."""

from __future__ import annotations

import ast
import math
from dataclasses import fields, replace
from pathlib import Path

import pytest

from datadistill import methods
from datadistill.errors import UsageError
from datadistill.testing import tiny_tasks

MODALITY = tiny_tasks()["image"].modality
NAMES = sorted(methods.all_methods())


def numbers(method):
    """(name, whether it is whole) of the hyper-parameters that are numbers."""
    return [(f.name, "int" in str(f.type)) for f in fields(method) if "int" in str(f.type) or "float" in str(f.type)]


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_finite_and_not_negative_and_what_the_refusal_says_to_type_is_taken(name):
    own = methods.get(name)
    own.check(MODALITY)
    own.preset("quick", MODALITY).check(MODALITY)
    for field, whole in numbers(own):
        for bad in {-1, *([0] if field not in own.may_be_zero else [])} if whole else {-1e-9, math.nan, math.inf}:
            if field in own.any_sign and not math.isnan(bad):
                continue
            with pytest.raises(UsageError, match=rf"{name}\.{field} = ") as error:
                replace(own, **{field: bad}).check(MODALITY)
            key, value = error.value.fix.removeprefix("--set ").split("=")
            own.with_settings({key: value}).check(MODALITY)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_class_says_of_its_numbers_is_of_numbers_that_it_has(name):
    own = methods.get(name)
    known = dict(numbers(own))
    assert own.may_be_zero | own.any_sign <= {field for field, whole in known.items() if whole}
    assert own.positive | own.shares | own.decays <= {field for field, whole in known.items() if not whole}


def test_zero_is_taken_where_it_means_something():
    """Memory for no graphs, a step size that is not learned, plain SGD for experts; whole or not, as a person writes them."""
    for zero in (0, 0.0):
        replace(methods.get("datm"), memory=zero, lr_alpha=zero, lr_labels=zero, threshold=zero, rho=zero).check(MODALITY)
        for name, field in (("mtt", "alpha"), ("dd", "eta"), ("selmatch", "distilled"), ("rat-bptt", "clip"), ("sre2l", "crop")):
            with pytest.raises(UsageError, match="above 0"):
                replace(methods.get(name), **{field: zero}).check(MODALITY)


def test_a_share_is_at_most_one():
    for name, field in (("selmatch", "distilled"), ("label-distillation", "smoothing"), ("edc", "crop")):
        replace(methods.get(name), **{field: 1}).check(MODALITY)
        with pytest.raises(UsageError, match="at most 1"):
            replace(methods.get(name), **{field: 1.5}).check(MODALITY)


def test_a_decay_is_below_one():
    """At one nothing is ever forgotten, and what comes is not heard; Adam ends with a traceback."""
    for name, field in (("dm", "momentum"), ("ncfm", "momentum"), ("idc", "momentum"), ("forgetting", "momentum"), ("ftd", "decay"), ("at-bptt", "clip_decay")):
        replace(methods.get(name), **{field: 0.999}).check(MODALITY)
        with pytest.raises(UsageError, match=r"below 1"):
            replace(methods.get(name), **{field: 1.0}).check(MODALITY)


@pytest.mark.parametrize("name", ["rded", "fadrm", "cv-dd", "cim"])
def test_an_item_has_no_more_tiles_than_pixels(name):
    side = min(MODALITY.spec.shape[1:])
    replace(methods.get(name), factor=side).check(MODALITY)
    with pytest.raises(UsageError, match=rf"{name}\.factor = {side + 1}") as error:
        replace(methods.get(name), factor=side + 1).check(MODALITY)
    assert f"at most {side}" in error.value.expected


def test_no_class_says_a_thing_twice():
    """A name that is given twice in a class is a leftover: the second wins silently."""
    for path in Path(methods.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                names = [line.target.id for line in node.body if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)]
                assert len(names) == len(set(names)), f"{path.name}: {node.name} gives {[n for n in set(names) if names.count(n) > 1]} twice"
