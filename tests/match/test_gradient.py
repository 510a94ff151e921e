"""Gradient matching: the pieces give what the formula gives, and the formula is the papers'."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from datadistill import nets
from datadistill.match import gradient
from datadistill.memory import Pieces
from datadistill.rng import rng
from datadistill.spec import Spec

SPEC = Spec("any", (2, 8, 8), (2, 8, 8), "float32", ("a", "b", "c"))


def convnet(dtype=torch.float64):
    return nets.build("convnet", SPEC, rng(0, "net"), width=3).to(dtype)


def batch(n, *key, dtype=torch.float64):
    return torch.randn((n, *SPEC.shape), generator=rng(0, *key), dtype=torch.float64).to(dtype), torch.full((n,), 1)


def losses_of(net):
    return lambda x, c: F.cross_entropy(net(x), c, reduction="sum")


def slow_distance(real, syn, kind):
    """The papers' sums, one output unit after the other; one-dimensional parameters are skipped."""
    total = 0.0
    for gr, gs in zip(real, syn, strict=True):
        if gr.ndim == 1:
            continue
        for out in range(gr.shape[0]):
            a, b = gr[out].reshape(-1), gs[out].reshape(-1)
            if kind == "cosine":
                total = total + 1 - (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt() + 0.000001)
            elif kind == "mse":
                total = total + (a - b).pow(2).sum()
            else:
                total = total + (a - b).abs().sum()
    return total


def slow(net, real, syn, kind):
    """(D, dD/dx) with one graph over everything, as the authors' code goes."""
    x = syn[0].clone().requires_grad_()
    parameters = list(net.parameters())
    target = torch.autograd.grad(nn.CrossEntropyLoss()(net(real[0]), real[1]), parameters)
    source = torch.autograd.grad(nn.CrossEntropyLoss()(net(x), syn[1]), parameters, create_graph=True)
    value = slow_distance(target, source, kind)
    return value.detach(), torch.autograd.grad(value, x)[0]


def ours(net, real, syn, kind, chunk):
    losses, weights, pieces = losses_of(net), gradient.weights(net), Pieces(chunk)
    target = gradient.mean_gradient(losses, lambda piece: real[0][piece], real[1], weights, pieces)
    return gradient.descent(losses, *syn, weights, target, pieces, kind)


@pytest.mark.parametrize("kind", ["cosine", "mse", "l1"])
@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("dtype,close", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_loss_and_gradient_are_those_of_the_papers(kind, chunk, dtype, close):
    net, real, syn = convnet(dtype), batch(7, "real", dtype=dtype), batch(4, "syn", dtype=dtype)
    value, pull = ours(net, real, syn, kind, chunk)
    expected, expected_pull = slow(net, real, syn, kind)
    torch.testing.assert_close(value, expected, atol=close, rtol=close)
    torch.testing.assert_close(pull, expected_pull, atol=close, rtol=10 * close if dtype == torch.float32 else close)
    assert float(expected_pull.abs().max()) > 1e-4  # there is something to compare


def test_gradient_is_the_slope():
    """Against central differences along random directions."""
    net, real, (x, c) = convnet(), batch(5, "real"), batch(3, "syn")
    _, pull = ours(net, real, (x, c), "cosine", 2)
    for k in range(3):
        v = torch.randn(x.shape, generator=rng(0, "direction", k), dtype=torch.float64)
        up, down = (ours(net, real, (x + s * 1e-6 * v, c), "cosine", 9)[0] for s in (1, -1))
        assert float((up - down) / 2e-6) == pytest.approx(float((pull * v).sum()), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("kind,least,pulled", [("mse", 1e-24, 1e-12), ("l1", 1e-12, math.inf), ("cosine", 1e-2, 0.1)])
def test_nothing_to_do_where_both_sides_are_the_same(kind, least, pulled):
    """Nothing but rounding, which l1 has slopes for, and but for the cosine, whose divisor has the authors' 1e-6 added; there S = T is a minimum all the same."""
    net, same = convnet(), batch(4, "same")
    value, pull = ours(net, same, same, kind, 2)
    assert 0 <= float(value) <= least and float(pull.abs().max()) <= pulled
    moved = (same[0] + 0.3 * torch.randn(same[0].shape, generator=rng(0, "moved"), dtype=torch.float64), same[1])
    assert float(ours(net, same, moved, kind, 2)[0]) > 2 * float(value)


@pytest.mark.parametrize("kind", ["mse", "l1"])
def test_equal_gradients_are_exactly_no_distance_and_pull_nothing(kind):
    same = [torch.randn((4, 3, 3, 3), generator=rng(0, "same"), dtype=torch.float64), torch.randn((5, 2), generator=rng(1, "same"), dtype=torch.float64)]
    leaves = [g.clone().requires_grad_() for g in same]
    value = gradient.distance(same, leaves, kind)
    assert float(value.detach()) == 0 and not any(bool(slope.any()) for slope in torch.autograd.grad(value, leaves))


def test_cosine_does_not_see_the_length_of_a_unit():
    a = [torch.randn((4, 3, 3, 3), generator=rng(0, "a"), dtype=torch.float64)]
    b = [torch.randn((4, 3, 3, 3), generator=rng(0, "b"), dtype=torch.float64)]
    scale = torch.tensor([0.5, 2.0, 30.0, 7.0], dtype=torch.float64).view(-1, 1, 1, 1)
    assert float(gradient.distance(a, b)) == pytest.approx(float(gradient.distance(a, [b[0] * scale])), abs=1e-5)
    assert float(gradient.distance(a, [-a[0]])) == pytest.approx(8, abs=1e-5)  # two for each unit


def test_a_unit_without_gradient_costs_one_and_pulls_nothing():
    a = torch.randn((2, 5), generator=rng(0, "a"), dtype=torch.float64)
    b = torch.zeros((2, 5), dtype=torch.float64, requires_grad=True)
    value = gradient.distance([a], [b])
    assert float(value.detach()) == 2 and bool(torch.isfinite(torch.autograd.grad(value, b)[0]).all())


def test_weights_are_those_with_two_axes_or_more():
    net = convnet()
    shapes = [tuple(w.shape) for w in gradient.weights(net)]
    assert shapes == [tuple(p.shape) for p in net.parameters() if p.ndim > 1] and (3, net.head.in_features) in shapes
    assert len(gradient.weights(net, head=False)) == len(shapes) - 1


def test_memory_running_out_changes_nothing():
    net, real, syn = convnet(), batch(6, "real"), batch(4, "syn")
    whole = ours(net, real, syn, "cosine", 100)
    tight, notes = Pieces(100), []
    tight.notes = notes

    def losses(x, c):
        if len(x) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return losses_of(net)(x, c)

    target = gradient.mean_gradient(losses, lambda piece: real[0][piece], real[1], gradient.weights(net), tight)
    value, pull = gradient.descent(losses, *syn, gradient.weights(net), target, tight)
    assert notes
    torch.testing.assert_close(value, whole[0], atol=1e-10, rtol=0)
    torch.testing.assert_close(pull, whole[1], atol=1e-10, rtol=0)
