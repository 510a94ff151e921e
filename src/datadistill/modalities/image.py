"""Still images: stored as uint8 (C, H, W), natural in [0, 1], normalised per channel with the training set's statistics.

Augmentation is DSA's (Zhao & Bilen, ICML 2021), strategy colour, crop, cutout, flip, scale, rotate: one of them per group,
drawn uniformly. Differences from the authors' code: parameters come from a named generator and are kept as tensors, so a
draw can be replayed on any batch; each group draws its own operation, so that classes can be augmented together; a net
that must not be shown mirrored images (`flip=False` in the facts) leaves flip out.
"""

from __future__ import annotations

import io
import math
from typing import Any, ClassVar, NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import BadInput
from ..replay import sent
from ..spec import Spec
from .base import Augmentation, Modality, Preview


@final
class Image(Modality):
    """Still images; see the top of this file."""

    name: ClassVar = "image"
    traits: ClassVar = frozenset({"continuous", "grid"})
    nets: ClassVar = ("convnet", "resnet", "mlp")

    @classmethod
    def spec_of(cls, stored: Tensor, classes: tuple[str, ...], *, mode: str, flip: bool = True) -> Spec:
        """The spec of a training set: stored (N, C, H, W) uint8, its channel statistics taken from at most 10,000 images."""
        moments = _moments(stored, -(-len(stored) // 10_000) or 1)
        facts = {
            "mode": mode,
            "flip": flip,
            "mean": [round(mean, 6) for mean, _ in moments],
            "deviation": [round(max(deviation, 1e-3), 6) for _, deviation in moments],
        }
        shape = tuple(stored.shape[1:])
        return Spec(cls.name, shape, shape, "uint8", classes, facts)

    def decode(self, stored: Tensor) -> Tensor:
        return stored.float() / 255

    def encode(self, natural: Tensor) -> Tensor:
        return (natural * 255).round().clamp(0, 255).to(torch.uint8)

    def statistics(self) -> tuple[Tensor, Tensor]:
        return tuple(torch.tensor(self.spec.facts[k], dtype=torch.float32).view(-1, 1, 1) for k in ("mean", "deviation"))

    def adopt(self, stored: Tensor, spec: Spec) -> Tensor:
        if (spec.stored, spec.facts["mode"]) != (self.spec.stored, self.spec.facts["mode"]):
            got, want = (f"{s.facts['mode']} images of shape {s.stored}" for s in (spec, self.spec))
            raise BadInput(got, f"{want}, as the set was distilled from", "the source that the set stands for, or --side with its size")
        return stored

    def noise(self, n: int, rng: torch.Generator) -> Tensor:
        x = torch.randn((n, *self.spec.shape), generator=rng)
        self.clamp_(x)
        return x

    @torch.no_grad()
    def clamp_(self, x: Tensor) -> None:
        mean, deviation = self._statistics_on(x.device)
        x.copy_(torch.minimum(torch.maximum(x, -mean / deviation), (1 - mean) / deviation))

    def augment(self, rng: torch.Generator, groups: int) -> Augmentation:
        return Siamese.draw(rng, groups, self.spec.shape, flip=self.spec.facts.get("flip", True))

    def columns(self, stored: Tensor, *, plain: bool) -> dict[str, Any]:
        """PNG files, in the form Hub tables use; plain: one column per pixel value, in (channel, row, column) order."""
        if plain:
            flat = stored.flatten(1).numpy()
            return {f"pixel{k}": flat[:, k] for k in range(flat.shape[1])}
        return {"image": [{"bytes": self.preview(one).png, "path": f"{k:05d}.png"} for k, one in enumerate(stored)]}

    def preview(self, stored: Tensor) -> Preview:
        from PIL import Image as Picture

        array = stored.permute(1, 2, 0).numpy()
        buffer = io.BytesIO()
        Picture.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(buffer, "png")
        return Preview(png=buffer.getvalue())


def _moments(stored: Tensor, step: int) -> list[tuple[float, float]]:
    """(mean, deviation) on [0, 1] of each channel of every step-th image, in whole numbers and therefore exact, a few images at a time."""
    channels, n = stored.shape[1], len(range(0, len(stored), step)) * math.prod(stored.shape[2:])
    total, squares = [0] * channels, [0] * channels
    some = step * max(1, 500_000 // math.prod(stored.shape[2:]))
    for start in range(0, len(stored), some):
        for c, values in enumerate(stored[start : start + some : step].int().unbind(1)):
            total[c] += int(values.sum())
            squares[c] += int(values.square().sum())
    return [(s / n / 255, math.sqrt(q * n - s * s) / n / 255) for s, q in zip(total, squares, strict=True)]


OPERATIONS = ("color", "crop", "cutout", "flip", "scale", "rotate")


class Siamese(NamedTuple):
    """DSA augmentation as parameters, one row per group.

    op (G,) which of OPERATIONS; u (G, 4) uniform in [0, 1); the meaning of u depends on the operation, below.
    On a CPU every operation is given the examples that it is for; on a GPU all of them, of which those are chosen: no number is looked at there.
    """

    op: Tensor
    u: Tensor

    @classmethod
    def draw(cls, rng: torch.Generator, groups: int, shape: tuple[int, ...], *, flip: bool) -> Siamese:
        allowed = torch.tensor([k for k, name in enumerate(OPERATIONS) if flip or name != "flip"])
        op = allowed[torch.randint(len(allowed), (groups,), generator=rng)]
        return cls(op, torch.rand((groups, 4), generator=rng))

    def __call__(self, x: Tensor, group: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return self._chosen(x, *(sent(t, x.device) for t in (*self, group)))
        op, u = self.op[group], self.u.to(x)[group]
        present = torch.unique(op).tolist()
        if not present:
            return x
        if len(present) == 1:
            one = present[0] == OPERATIONS.index("crop") and bool((u == u[0]).all())
            return getattr(self, "_window" if one else "_" + OPERATIONS[present[0]])(x, u)
        where = [(op == k).nonzero().squeeze(1) for k in present]
        parts = [getattr(self, "_" + OPERATIONS[k])(x[rows], u[rows]) for k, rows in zip(present, where, strict=True)]
        return torch.cat(parts)[torch.argsort(torch.cat(where))]

    def _chosen(self, x: Tensor, op: Tensor, u: Tensor, group: Tensor) -> Tensor:
        op, u, out = op[group], u.to(x.dtype)[group], x
        for k, name in enumerate(OPERATIONS):
            out = torch.where((op == k)[:, None, None, None], getattr(self, "_" + name)(x, u), out)
        return out

    @staticmethod
    def _color(x: Tensor, u: Tensor) -> Tensor:
        """Brightness x + (u-.5); saturation (x - m_c) 2u + m_c; contrast (x - m)(u+.5) + m, in this order."""
        u = u[:, :, None, None, None]
        x = x + (u[:, 0] - 0.5)
        grey = x.mean(1, keepdim=True)
        x = (x - grey) * (2 * u[:, 1]) + grey
        mean = x.mean((1, 2, 3), keepdim=True)
        return (x - mean) * (u[:, 2] + 0.5) + mean

    @staticmethod
    def _crop(x: Tensor, u: Tensor) -> Tensor:
        """Shift by up to an eighth of the side each way, zeros coming in (zero is the mean colour)."""
        n, _, h, w = x.shape
        padded, dy, dx = Siamese._shifts(x, u)
        rows = dy[:, None] + torch.arange(h, device=x.device)
        cols = dx[:, None] + torch.arange(w, device=x.device)
        at = torch.arange(n, device=x.device)
        return padded[at[:, None, None], :, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)

    @staticmethod
    def _window(x: Tensor, u: Tensor) -> Tensor:
        """A crop that is the same for all, for which a view is enough."""
        padded, dy, dx = Siamese._shifts(x, u[:1])
        return padded.narrow(2, int(dy), x.shape[2]).narrow(3, int(dx), x.shape[3])

    @staticmethod
    def _shifts(x: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x with zeros around it; where each window begins, from above and from the left."""
        ph, pw = (int(side * 0.125 + 0.5) for side in x.shape[2:])
        return F.pad(x, (pw, pw, ph, ph)), (u[:, 0] * (2 * ph + 1)).long(), (u[:, 1] * (2 * pw + 1)).long()

    @staticmethod
    def _cutout(x: Tensor, u: Tensor) -> Tensor:
        """A square of half the side set to zero, its centre anywhere."""
        h, w = x.shape[2:]

        def inside(side: int, at: Tensor) -> Tensor:
            hole = int(side * 0.5 + 0.5)
            start = (at * (side + (1 - hole % 2))).long() - hole // 2
            line = torch.arange(side, device=x.device)
            return (line >= start[:, None]) & (line < start[:, None] + hole)

        hole = inside(h, u[:, 0])[:, :, None] & inside(w, u[:, 1])[:, None, :]
        return x * (~hole)[:, None].to(x.dtype)

    @staticmethod
    def _flip(x: Tensor, u: Tensor) -> Tensor:
        return torch.where((u[:, 0] < 0.5)[:, None, None, None], x.flip(3), x)

    @classmethod
    def _scale(cls, x: Tensor, u: Tensor) -> Tensor:
        """Stretch each axis by a factor in [1/1.2, 1.2]."""
        sx, sy = (u[:, k] * (1.2 - 1 / 1.2) + 1 / 1.2 for k in (0, 1))
        zero = torch.zeros_like(sx)
        return cls._affine(x, torch.stack([torch.stack([sx, zero, zero], 1), torch.stack([zero, sy, zero], 1)], 1))

    @classmethod
    def _rotate(cls, x: Tensor, u: Tensor) -> Tensor:
        """Turn by up to 15 degrees either way."""
        angle = (u[:, 0] - 0.5) * 2 * 15 / 180 * math.pi
        cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
        return cls._affine(x, torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1))

    @staticmethod
    def _affine(x: Tensor, theta: Tensor) -> Tensor:
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)
