"""Views: the same bits in every batch, of the sizes they say, mixed where they say, and derived from names alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datadistill.labels.views import Views, box, cut, look, show, visible
from datadistill.rng import rng

X = torch.rand((9, 3, 12, 16), generator=rng(0))
ROWS = torch.arange(9)


def views(rows: torch.Tensor, epoch: int, how: Views) -> torch.Tensor:
    return how.of(lambda indices: X[indices], rows, torch.full_like(rows, epoch), len(X))


@pytest.mark.parametrize("how", [Views(0), Views(1, 0.5, flip=False), Views(2, mix="none")])
def test_a_view_is_the_same_bits_whatever_stands_beside_it(how):
    whole = views(ROWS, 3, how)
    order = torch.randperm(9, generator=rng(1))
    for size in (1, 2, 4, 9):
        again = torch.cat([views(rows, 3, how) for rows in order.split(size)])
        assert torch.equal(again, whole[order])
    assert not torch.equal(whole, views(ROWS, 4, how)) and not torch.equal(whole, views(ROWS, 3, Views(7, how.crop, how.flip, how.mix)))


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=4, max_size=4), st.floats(0.01, 1))
@settings(max_examples=200, deadline=None)
def test_a_box_lies_inside_and_has_its_area_and_a_shape_that_fits(u, least):
    top, left, height, width = box(u, least)
    assert top >= 0 and left >= 0 and top + height <= 1 + 1e-12 and left + width <= 1 + 1e-12
    assert height * width == pytest.approx(least + (1 - least) * u[0])
    assert 3 / 4 - 1e-9 <= width / height <= 4 / 3 + 1e-9


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=4, max_size=4), st.integers(1, 64), st.integers(1, 64))
@settings(max_examples=200, deadline=None)
def test_a_crop_shows_some_pixels_or_all_there_are(u, height, width):
    _, _, down, across = box(u, visible(0.08, (height, width)))
    assert down * height * across * width >= min(7, height) * min(7, width) - 1e-6
    assert visible(0.08, (28, 28)) == 0.08 and visible(1.0, (height, width)) == 1.0  # the papers' sizes are as they were


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=3, max_size=3), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_a_hole_lies_inside(u, height, width):
    top, bottom, left, right = cut(u, (height, width))
    assert 0 <= top <= bottom <= height and 0 <= left <= right <= width


def test_areas_and_flips_are_uniform():
    rows = torch.arange(2000)
    drawn = Views(0, 0.08).draw(rows, torch.zeros_like(rows), 2000, (32, 32))
    area = (drawn.box[:, 2] * drawn.box[:, 3]).sort().values
    expected = 0.08 + 0.92 * (torch.arange(2000) + 0.5) / 2000
    assert (area - expected).abs().max() < 0.04  # Kolmogorov and Smirnov would let 0.03 / 0.92 pass in 99 of 100
    assert abs(drawn.flip.float().mean() - 0.5) < 0.05
    assert drawn.partner.min() >= 0 and drawn.partner.max() < 2000 and len(drawn.partner.unique()) > 1000
    assert not Views(0, flip=False).draw(rows, torch.zeros_like(rows), 2000, (32, 32)).flip.any()


def test_a_mixed_view_is_its_own_crop_outside_the_hole_and_its_partners_inside():
    how = Views(0)
    drawn = how.draw(ROWS, torch.full_like(ROWS, 2), 9, X.shape[2:])
    mixed = show(X, X[drawn.partner], drawn)
    own, other = look(X, drawn.box, drawn.flip), look(X[drawn.partner], drawn.other_box, drawn.other_flip)
    for k in range(9):
        top, bottom, left, right = drawn.hole[k].tolist()
        expected = own[k].clone()
        expected[:, top:bottom, left:right] = other[k, :, top:bottom, left:right]
        assert torch.equal(mixed[k], expected)
        assert float(drawn.share[k]) == pytest.approx(1 - (bottom - top) * (right - left) / (12 * 16))
    assert (drawn.share < 1).any()


def test_nothing_is_mixed_where_that_is_not_wanted():
    drawn = Views(0, mix="none").draw(ROWS, torch.zeros_like(ROWS), 9, X.shape[2:])
    assert (drawn.share == 1).all() and torch.equal(views(ROWS, 0, Views(0, mix="none")), look(X, drawn.box, drawn.flip))


def test_a_look_is_differentiable_in_each_example_alone():
    x = X[:2].double().requires_grad_()
    boxes, flip, roll = torch.tensor([[0.1, 0.2, 0.6, 0.5], [0, 0, 1, 1]]), torch.tensor([True, False]), torch.tensor([[1, 2], [0, 3]])
    assert torch.autograd.gradcheck(lambda v: look(v, boxes, flip, roll=roll)[:, :, ::5, ::5], (x,))
    (g,) = torch.autograd.grad(look(x, boxes, flip, roll=roll)[0].sum(), x)
    assert (g[1] == 0).all() and (g[0] != 0).any()


def test_a_look_can_have_another_size():
    small = look(X, torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 9), torch.zeros(9, dtype=torch.bool), size=(6, 8))
    torch.testing.assert_close(small, torch.nn.functional.avg_pool2d(X, 2))
