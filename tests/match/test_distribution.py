"""The laws of class-mean matching: closed forms, and nothing depends on how the work was cut up."""

from __future__ import annotations

import weakref

import pytest
import torch

from datadistill.match import distribution
from datadistill.match.pieces import KEPT
from datadistill.memory import Pieces
from datadistill.rng import rng

CLASSES = 4
SYN = torch.tensor([0, 0, 0, 1, 3, 3])  # uneven, and class 2 has none


def identity(x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    return x


def curved(x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x * (1 + c[:, None])) @ torch.linspace(-1, 1, 15, dtype=x.dtype).view(3, 5)


def case():
    x = torch.randn(len(SYN), 3, dtype=torch.float64, generator=rng(0))
    target = torch.randn(CLASSES, 3, dtype=torch.float64, generator=rng(1))
    return x, target


def test_the_gradient_in_closed_form_for_an_identity_embedding():
    """dL/ds = 2 (mean S_c - mean T_c) / n_c, written out one example at a time; a class without synthetic examples is not in L."""
    x, target = case()
    loss, gradient = distribution.descent(identity, x, SYN, target, Pieces(100))
    expected, total = torch.zeros_like(x), 0.0
    for c in (0, 1, 3):
        own = x[SYN == c]
        gap = own.sum(0) / len(own) - target[c]
        total += float(gap @ gap)
        expected[SYN == c] = 2 * gap / len(own)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=0)
    assert float(loss) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("limit", [1, 2, 4, 5, 6, 100])
def test_the_size_of_the_pieces_changes_nothing(limit):
    x, _ = case()
    target = torch.randn(CLASSES, 5, dtype=torch.float64, generator=rng(2))
    loss, gradient = distribution.descent(curved, x, SYN, target, Pieces(limit))
    leaf = x.clone().requires_grad_()
    features = curved(leaf, SYN)
    whole = sum((features[SYN == c].mean(0) - target[c]).square().sum() for c in (0, 1, 3))
    whole.backward()
    torch.testing.assert_close(loss, whole.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, leaf.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_means_are_means_in_any_order_and_of_unequal_classes(limit):
    classes = torch.tensor([2, 0, 0, 3, 2, 0, 0])
    x = torch.randn(len(classes), 3, dtype=torch.float64, generator=rng(3))
    found = distribution.means(curved, lambda piece: x[piece], classes, CLASSES, Pieces(limit))
    for c in (0, 2, 3):
        torch.testing.assert_close(found[c], curved(x, classes)[classes == c].mean(0), rtol=1e-12, atol=1e-15)
    assert (found[1] == 0).all() and not found.requires_grad


def test_the_order_of_classes_and_examples_does_not_matter():
    x, _ = case()
    target = torch.randn(CLASSES, 5, dtype=torch.float64, generator=rng(2))
    number = torch.tensor([2, 3, 1, 0])  # the new number of each class
    order = torch.tensor([4, 1, 5, 0, 3, 2])

    def embed(x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x) @ torch.linspace(-1, 1, 15, dtype=x.dtype).view(3, 5)

    for limit in (2, 100):
        loss, gradient = distribution.descent(embed, x, SYN, target, Pieces(limit))
        turned = distribution.descent(embed, x[order], number[SYN][order], target[torch.argsort(number)], Pieces(limit))
        torch.testing.assert_close(turned, (loss, gradient[order]), rtol=1e-12, atol=1e-15)


def test_no_loss_and_no_gradient_when_the_means_agree():
    x, _ = case()
    target = distribution.means(curved, lambda piece: x[piece], SYN, CLASSES, Pieces(2))
    loss, gradient = distribution.descent(curved, x, SYN, target, Pieces(100))
    assert float(loss) < 1e-30 and float(gradient.abs().max()) < 1e-15


def test_an_example_goes_through_the_net_once_where_its_graph_is_kept_and_twice_where_it_is_not():
    x, seen = case()[0], []
    target = torch.randn(CLASSES, 5, dtype=torch.float64, generator=rng(2))

    def counting(x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return curved(x, c)

    for limit in (100, 3, 2, 1):
        seen.clear()
        distribution.descent(counting, x, SYN, target, Pieces(limit))
        assert sum(seen) == len(SYN) + max(0, len(SYN) - KEPT * limit)


@pytest.mark.parametrize("way", ["there", "back"])
@pytest.mark.parametrize("piece", [0, 1, 2])
def test_memory_running_out_beside_graphs_that_are_kept_lets_them_go(way, piece):
    """The first time this piece goes there, or back, memory runs out; when it is done again, in halves, no graph from before is alive."""
    x, graphs, beside = case()[0], [], []
    target = torch.randn(CLASSES, 5, dtype=torch.float64, generator=rng(2))

    def out(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory (injected)")

    def failing(x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        if pieces.limit == 1:
            beside.append(sum(ref() is not None for ref in graphs))
            return curved(x, c)
        if way == "there" and len(graphs) == piece:
            out()
        features = curved(x, c)
        graphs.append(weakref.ref(x))
        if way == "back" and len(graphs) == piece + 1:
            features.register_hook(out)
        return features

    pieces = Pieces(2)
    found = distribution.descent(failing, x, SYN, target, pieces)
    torch.testing.assert_close(found, distribution.descent(curved, x, SYN, target, Pieces(64)), rtol=1e-12, atol=1e-15)
    assert pieces.limit == 1 and beside and not any(beside)


@pytest.mark.parametrize("fits", [1, 2, 5])
def test_memory_running_out_changes_the_pieces_and_not_the_result(fits):
    """An embedding that fails on more than `fits` examples: halved until it fits, and told."""
    x, _ = case()
    target = torch.randn(CLASSES, 5, dtype=torch.float64, generator=rng(2))

    def small(x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        if len(x) > fits:
            raise torch.OutOfMemoryError("out of memory (injected)")
        return curved(x, c)

    pieces = Pieces(64)
    loss, gradient = distribution.descent(small, x, SYN, target, pieces)
    expected = distribution.descent(curved, x, SYN, target, Pieces(64))
    torch.testing.assert_close((loss, gradient), expected, rtol=1e-12, atol=1e-15)
    assert pieces.limit <= fits and pieces.notes
