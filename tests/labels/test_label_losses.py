"""Losses on labels, each retyped one number at a time, and what they are zero for."""

from __future__ import annotations

import math

import pytest
import torch

from datadistill.match import labels as losses
from datadistill.rng import rng

LOGITS, Z = (torch.randn(4, 5, generator=rng(k), dtype=torch.float64) * 2 for k in (0, 1))
H = losses.mixed(torch.tensor([0, 1, 2, 3]), torch.tensor([1, 1, 4, 0]), torch.tensor([1.0, 0.3, 0.6, 0.5]), 5).double()


def softmax(row, t=1.0):
    top = max(v / t for v in row)
    parts = [math.exp(v / t - top) for v in row]
    return [p / sum(parts) for p in parts]


def each(function) -> torch.Tensor:
    return torch.tensor([function(a, z, h) for a, z, h in zip(LOGITS.tolist(), Z.tolist(), H.tolist(), strict=True)], dtype=torch.float64)


def cross_entropy(a, h):
    return -sum(q * math.log(p) for p, q in zip(softmax(a), h, strict=True))


@pytest.mark.parametrize("t", [1.0, 4.0, 20.0])
def test_kl(t):
    def slow(a, z, h):
        return t * t * sum(q * math.log(q / p) for p, q in zip(softmax(a, t), softmax(z, t), strict=True))

    torch.testing.assert_close(losses.kl(LOGITS, Z, t), each(slow))
    assert losses.kl(Z, Z, t).abs().max() < 1e-12 and (losses.kl(LOGITS, Z, t) > 0).all()


def test_kl_slopes_have_one_size_at_every_temperature():
    """Far above the spread of the logits, T^2 KL is the squared distance of centred logits over twice the classes."""
    apart = (LOGITS - LOGITS.mean(1, keepdim=True)) - (Z - Z.mean(1, keepdim=True))
    torch.testing.assert_close(losses.kl(LOGITS, Z, 1e4), apart.square().sum(1) / (2 * 5), rtol=1e-3, atol=0)


def test_kl_knows_nothing_of_classes_that_were_given_up():
    z = Z.clone()
    z[:, 2:] = -torch.inf
    got = losses.kl(LOGITS, z, 3.0)
    expected = [9 * sum(q * (math.log(q) - math.log(softmax(a, 3.0)[k])) for k, q in enumerate(softmax(row[:2], 3.0))) for a, row in zip(LOGITS.tolist(), Z.tolist(), strict=True)]
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))
    logits = LOGITS.clone().requires_grad_()
    losses.kl(logits, z, 3.0).sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_mse_and_cross_entropy():
    slow = lambda a, z, h: sum((p - q) ** 2 for p, q in zip(a, z, strict=True)) / 5 + 0.3 * cross_entropy(a, h)  # noqa: E731
    torch.testing.assert_close(losses.mse_ce(LOGITS, Z, H, 0.3), each(slow))


def test_gift():
    def slow(a, z, h):
        s = [0.9 * v + 0.1 * (1 - v) / 4 for v in h]
        target = [p / math.hypot(*z) + 0.1 * q / math.hypot(*s) for p, q in zip(z, s, strict=True)]
        return 1 - sum(p * q for p, q in zip(a, target, strict=True)) / math.hypot(*a) / math.hypot(*target)

    torch.testing.assert_close(losses.gift(LOGITS, Z, H), each(slow))
    one_hot = losses.mixed(torch.tensor([3]), torch.tensor([3]), torch.tensor([1.0]), 5)
    assert losses.smooth(one_hot, 0.1)[0].tolist() == pytest.approx([0.025, 0.025, 0.025, 0.9, 0.025])


@pytest.mark.parametrize(("at", "is_hard"), [(0.0, False), (0.249, False), (0.25, True), (0.7499, True), (0.75, False), (0.99, False)])
def test_hald_is_hard_in_the_middle(at, is_hard):
    def hard(a, z, h):
        return cross_entropy(a, [0.2 * v + 0.8 / 5 for v in h])

    torch.testing.assert_close(losses.hald(LOGITS, Z, H, at), each(hard) if is_hard else losses.kl(LOGITS, Z, 20.0))


def test_a_mixed_class_is_shared():
    h = losses.mixed(torch.tensor([0, 1]), torch.tensor([2, 1]), torch.tensor([0.25, 0.6]), 3)
    torch.testing.assert_close(h, torch.tensor([[0.25, 0, 0.75], [0, 1.0, 0]]))
