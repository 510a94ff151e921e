"""Laws of the image modality: exact storage, exact statistics, siamese augmentation that is replayed and differentiable."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image as Picture

from datadistill.modalities import Image, of
from datadistill.modalities.image import OPERATIONS, Siamese
from datadistill.rng import rng
from datadistill.spec import Spec


def pixels(n: int = 12, channels: int = 3, side: int = 8) -> torch.Tensor:
    return torch.randint(0, 256, (n, channels, side, side + 2), generator=rng(0, "pixels"), dtype=torch.uint8)


def image(stored: torch.Tensor | None = None, **facts) -> Image:
    stored = pixels() if stored is None else stored
    return Image(Image.spec_of(stored, ("a", "b"), mode="RGB" if stored.shape[1] == 3 else "L", **facts))


def only(operation: str, u: torch.Tensor) -> Siamese:
    return Siamese(torch.full((len(u),), OPERATIONS.index(operation)), u)


def test_every_byte_survives_decoding_and_normalising():
    stored = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)
    modality = image(stored)
    assert torch.equal(modality.encode(modality.decode(stored)), stored)
    assert torch.equal(modality.write(modality.read(stored)), stored)


def test_statistics_are_those_of_the_pixels():
    stored = pixels()
    mean, deviation = image(stored).statistics()
    natural = stored.double() / 255
    assert torch.allclose(mean.view(3).double(), natural.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(deviation.view(3).double(), natural.std((0, 2, 3), correction=0), atol=1e-6)


def test_a_constant_image_has_finite_network_values():
    stored = torch.zeros(4, 1, 6, 6, dtype=torch.uint8)
    assert image(stored).read(stored).isfinite().all()


def test_noise_and_clamped_values_are_legal():
    modality = image()
    for x in (modality.noise(20, rng(1)), 100 * torch.randn(5, *modality.spec.shape, generator=rng(2))):
        modality.clamp_(x)
        mean, deviation = modality.statistics()
        natural = x * deviation + mean
        assert natural.min() >= -1e-6 and natural.max() <= 1 + 1e-6


def test_the_spec_rebuilds_the_modality():
    modality = image(flip=False)
    again = of(Spec.from_json(modality.spec.to_json()))
    assert torch.equal(again.read(pixels()), modality.read(pixels()))
    assert again.spec.facts["flip"] is False


def test_the_normaliser_does_what_read_does():
    modality = image()
    assert torch.allclose(modality.normaliser()(modality.decode(pixels())), modality.read(pixels()))


@pytest.mark.parametrize("channels", [1, 3])
def test_preview_is_the_image(channels):
    stored = pixels(channels=channels)
    shown = np.asarray(Picture.open(io.BytesIO(image(stored).preview(stored[0]).png)))
    assert np.array_equal(shown if channels == 3 else shown[:, :, None], stored[0].permute(1, 2, 0).numpy())


# -- augmentation ------------------------------------------------------------------------------------------------------


def test_the_same_draw_gives_the_same_result_and_another_draw_another():
    modality, group = image(), torch.arange(12) % 4
    x = modality.read(pixels())
    once, again, other = (modality.augment(rng(s), 4)(x, group) for s in (5, 5, 6))
    assert torch.equal(once, again) and not torch.equal(once, other)
    assert once.shape == x.shape


def test_it_is_siamese():
    """Equal images of one group stay equal, on whichever side, in whatever batch and order they are."""
    modality = image()
    x = modality.read(pixels())
    for seed in range(12):
        omega = modality.augment(rng(seed), 3)
        group = torch.arange(12) % 3
        together = omega(x, group)
        order = torch.randperm(12, generator=rng(seed, "order"))
        assert torch.allclose(omega(x[order], group[order]), together[order], atol=1e-6)
        for g in range(3):
            assert torch.allclose(omega(x[group == g], group[group == g]), together[group == g], atol=1e-6)


def test_an_empty_batch_is_no_special_case():
    modality = image()
    assert modality.augment(rng(0), 3)(torch.zeros(0, *modality.spec.shape), torch.zeros(0, dtype=torch.long)).shape == (0, *modality.spec.shape)


def test_flip_is_left_out_where_it_would_change_the_class():
    seen = {OPERATIONS[k] for seed in range(40) for k in image(flip=False).augment(rng(seed), 8).op.tolist()}
    assert seen == set(OPERATIONS) - {"flip"}
    assert {OPERATIONS[k] for seed in range(40) for k in image().augment(rng(seed), 8).op.tolist()} == set(OPERATIONS)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_is_differentiable(operation):
    x = image().read(pixels()).requires_grad_()
    group = torch.zeros(len(x), dtype=torch.long)
    only(operation, torch.tensor([[0.3, 0.8, 0.4, 0.9]]))(x, group).square().sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0


def test_color_retyped():
    x, u = torch.randn(1, 3, 4, 4, generator=rng(0)), [0.9, 0.2, 0.7, 0.0]
    y = x + (u[0] - 0.5)
    y = (y - y.mean(1, keepdim=True)) * (2 * u[1]) + y.mean(1, keepdim=True)
    y = (y - y.mean()) * (u[2] + 0.5) + y.mean()
    assert torch.allclose(only("color", torch.tensor([u]))(x, torch.zeros(1, dtype=torch.long)), y, atol=1e-6)


@pytest.mark.parametrize("u", [(0.0, 0.0), (0.5, 0.5), (0.999, 0.0), (0.2, 0.8)])
def test_crop_shifts_by_at_most_an_eighth_and_fills_with_the_mean(u):
    x = torch.rand(1, 1, 16, 16, generator=rng(0)) + 1
    out = only("crop", torch.tensor([[*u, 0.0, 0.0]]))(x, torch.zeros(1, dtype=torch.long))
    dy, dx = (int(v * 5) - 2 for v in u)
    slow = torch.zeros_like(x)
    for r in range(16):
        for c in range(16):
            if 0 <= r + dy < 16 and 0 <= c + dx < 16:
                slow[0, 0, r, c] = x[0, 0, r + dy, c + dx]
    assert torch.equal(out, slow)


def test_crop_of_many_groups_is_crop_of_each():
    x, u = torch.rand(6, 2, 16, 12, generator=rng(0)), torch.rand(6, 4, generator=rng(1))
    together = only("crop", u)(x, torch.arange(6))
    each = torch.cat([only("crop", u[k : k + 1])(x[k : k + 1], torch.zeros(1, dtype=torch.long)) for k in range(6)])
    assert torch.equal(together, each)


@pytest.mark.parametrize("at", [0.0, 0.3, 0.5, 0.999])
def test_cutout_zeroes_a_square_of_half_the_side(at):
    x = torch.ones(1, 1, 16, 16)
    out = only("cutout", torch.tensor([[at, at, 0.0, 0.0]]))(x, torch.zeros(1, dtype=torch.long))
    rows = (out[0, 0] == 0).any(1).nonzero().squeeze(1)
    assert torch.equal((out[0, 0] == 0).any(1), (out[0, 0] == 0).any(0))
    assert 1 <= len(rows) <= 8 and torch.equal(rows, torch.arange(int(rows[0]), int(rows[-1]) + 1))
    if 4 < at * 17 < 12:
        assert len(rows) == 8


def test_flip_flips_or_does_not():
    x, zero = torch.rand(1, 1, 4, 4, generator=rng(0)), torch.zeros(1, dtype=torch.long)
    assert torch.equal(only("flip", torch.tensor([[0.1, 0, 0, 0]]))(x, zero), x.flip(3))
    assert torch.equal(only("flip", torch.tensor([[0.9, 0, 0, 0]]))(x, zero), x)


def test_scale_and_rotate_retyped():
    x, zero = torch.rand(1, 1, 9, 9, generator=rng(0)), torch.zeros(1, dtype=torch.long)
    sx, sy = (v * (1.2 - 1 / 1.2) + 1 / 1.2 for v in (0.1, 0.8))
    angle = (0.8 - 0.5) * 2 * math.radians(15)
    cos, sin = math.cos(angle), math.sin(angle)
    for operation, u, theta in (("scale", [0.1, 0.8], [[sx, 0, 0], [0, sy, 0]]), ("rotate", [0.8, 0], [[cos, -sin, 0], [sin, cos, 0]])):
        grid = F.affine_grid(torch.tensor([theta]), [1, 1, 9, 9], align_corners=False)
        assert torch.allclose(only(operation, torch.tensor([[*u, 0.0, 0.0]]))(x, zero), F.grid_sample(x, grid, align_corners=False), atol=1e-5)
