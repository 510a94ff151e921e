"""Laws of the tabular modality: cells survive, gaps are kept apart, every feature is on a human scale."""

from __future__ import annotations

import math

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from datadistill.errors import BadInput
from datadistill.modalities import Tabular, of
from datadistill.rng import rng
from datadistill.spec import Spec

NAN = math.nan
COLUMNS = [
    {"name": "age", "integer": True},
    {"name": "weight", "integer": False},
    {"name": "colour", "values": ["blue", "green", "red"]},
    {"name": "size", "values": ["L", "S"]},
    {"name": "born", "integer": True, "unit": "days since 1970-01-01"},
]
ROWS = torch.tensor([[30, 1.5, 0, 1, 0], [41, NAN, 2, 0, 18262], [NAN, -2.5, -1, 1, -1], [30, 7.25, 1, 0, 59]])


def table(rows: torch.Tensor = ROWS, columns=COLUMNS) -> Tabular:
    return Tabular(Tabular.spec_of(rows, columns, ("no", "yes"), "label"))


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def test_features_in_order():
    natural = table().decode(ROWS)
    mean_age, mean_weight = (30 + 41 + 30) / 3, (1.5 - 2.5 + 7.25) / 3
    expected = [
        [30, 0, 1.5, 0, 1, 0, 0, 0, 0, 1, 0],
        [41, 0, mean_weight, 1, 0, 0, 1, 0, 1, 0, 18262],
        [mean_age, 1, -2.5, 0, 0, 0, 0, 1, 0, 1, -1],
        [30, 0, 7.25, 0, 0, 1, 0, 0, 1, 0, 59],
    ]
    assert torch.allclose(natural, torch.tensor(expected))
    assert table().spec.shape == (11,) and table().spec.stored == (5,)


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.float32, (7, 2), elements=st.floats(-1e6, 1e6, width=32) | st.just(NAN)), arrays.arrays(np.int64, (7,), elements=st.integers(-1, 2)))
def test_every_cell_survives(numbers, codes):
    rows = torch.cat([torch.from_numpy(numbers), torch.from_numpy(codes).float()[:, None]], 1)
    modality = table(rows, [{"name": "a", "integer": False}, {"name": "b", "integer": False}, {"name": "c", "values": ["x", "y", "z"]}])
    assert same(modality.encode(modality.decode(rows)), rows)


def test_cells_survive_the_network_space_up_to_rounding():
    again = table().write(table().read(ROWS))
    assert torch.equal(again.isnan(), ROWS.isnan())
    assert torch.allclose(again.nan_to_num(), ROWS.nan_to_num(), rtol=1e-5, atol=1e-5)


def test_a_missing_number_is_the_mean_and_says_so():
    x = table().read(ROWS)
    assert abs(float(x[2, 0])) < 1e-6 and float(x[2, 1]) > 0 > float(x[0, 1])


def test_a_value_unknown_in_training_is_none_of_the_values():
    modality = table(ROWS[:2, 2:3], [COLUMNS[2]])
    assert not modality.spec.facts["columns"][0]["gaps"]
    assert torch.equal(modality.decode(torch.tensor([[-1.0]])), torch.zeros(1, 3))


def test_every_scale_of_numbers_comes_out_as_deviations():
    """A column of 1e-9s is as informative as one of 1e9s; a constant one says nothing and stays finite."""
    base = torch.randn(500, generator=rng(0))
    rows = torch.stack([base * 1e-9, base * 1e9, torch.full((500,), 3.0)], 1)
    x = table(rows, [{"name": n, "integer": False} for n in "abc"]).read(rows)
    assert torch.allclose(x[:, :2].std(0, correction=0), torch.ones(2), atol=1e-3)
    assert torch.allclose(x[:, 0], x[:, 1], atol=1e-3)
    assert torch.equal(x[:, 2], torch.zeros(500))


def test_a_rare_category_is_no_huge_input():
    rows = torch.zeros(10_000, 1)
    rows[0] = 1
    assert table(rows, [{"name": "c", "values": ["common", "rare"]}]).read(rows).abs().max() <= 1


def test_features_are_centred():
    assert torch.allclose(table().read(ROWS).mean(0), torch.zeros(11), atol=1e-5)


def test_noise_and_clamped_rows_are_legal():
    modality = table()
    x = 50 * torch.randn(200, 11, generator=rng(0))
    modality.clamp_(x)
    cells = modality.write(x)
    age, weight, colour, size = cells[:, 0], cells[:, 1], cells[:, 2], cells[:, 3]
    assert set(age[~age.isnan()].tolist()) <= {float(v) for v in range(30, 42)} and age.isnan().any()
    assert (weight[~weight.isnan()] >= -2.5).all() and (weight[~weight.isnan()] <= 7.25).all()
    assert set(colour.tolist()) == {-1.0, 0.0, 1.0, 2.0} and set(size.tolist()) == {0.0, 1.0}
    legal = modality.noise(200, rng(1))
    before = legal.clone()
    modality.clamp_(legal)
    assert torch.equal(legal, before)


def test_the_spec_rebuilds_the_modality():
    again = of(Spec.from_json(table().spec.to_json()))
    assert torch.equal(again.read(ROWS), table().read(ROWS))


def test_cells_for_a_person():
    assert table().preview(ROWS[1]).cells == (("age", "41"), ("weight", ""), ("colour", "red"), ("size", "L"), ("born", "2020-01-01"))
    assert table().columns(ROWS, plain=True) == {
        "age": [30, 41, None, 30],
        "weight": [1.5, None, -2.5, 7.25],
        "colour": ["blue", "red", None, "green"],
        "size": ["S", "L", "S", "L"],
        "born": ["1970-01-01", "2020-01-01", "1969-12-31", "1970-03-01"],
    }


def test_hostile_names_are_shown_as_text():
    rows = torch.tensor([[0.0]])
    shown = table(rows, [{"name": "\x1b[2J", "values": ["a\nb"]}]).preview(rows[0]).cells
    assert shown == (("\\x1b[2J", "a\\x0ab"),)


def test_augmentation_is_siamese_replayable_and_differentiable():
    modality = table()
    x = modality.read(ROWS).requires_grad_()
    group = torch.tensor([0, 1, 0, 1])
    omega = modality.augment(rng(3), 2)
    together = omega(x, group)
    assert torch.equal(together, modality.augment(rng(3), 2)(x, group))
    assert not torch.equal(together, modality.augment(rng(4), 2)(x, group))
    assert torch.equal(omega(x[[2, 0]], group[[2, 0]]), together[[2, 0]])
    shift = (together - x).detach()
    kept = together.detach() != 0
    assert torch.allclose(shift[0][kept[0] & kept[2]], shift[2][kept[0] & kept[2]], atol=1e-3)
    together.sum().backward()
    assert x.grad.isfinite().all()


def test_rows_of_another_table_are_adopted_by_name_and_value():
    ours = Tabular(Tabular.spec_of(torch.tensor([[0.0, 1.5], [1.0, 2.5], [-1.0, 3.5]]), [{"name": "kind", "values": ["a", "b"]}, {"name": "size", "integer": False}], ("x", "y"), "label"))
    other = torch.tensor([[7.0, 0.0], [8.0, 2.0], [9.0, -1.0], [6.0, 1.0]])  # size first; c, b, gap, a
    theirs = Tabular.spec_of(other, [{"name": "size", "integer": True}, {"name": "kind", "values": ["c", "a", "b"]}], ("x", "y"), "label")
    assert ours.adopt(other, theirs).tolist() == [[-1.0, 7.0], [1.0, 8.0], [-1.0, 9.0], [0.0, 6.0]]
    nameless = Tabular.spec_of(other[:, :1], [{"name": "size", "integer": True}], ("x", "y"), "label")
    with pytest.raises(BadInput, match="kind"):
        ours.adopt(other[:, :1], nameless)
