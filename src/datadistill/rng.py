"""Randomness by name: the same seed and key give the same stream on every machine, rank and worker."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def seed_of(seed: int, *key: str | int) -> int:
    """A 63-bit seed from a root seed and a key, e.g. `seed_of(0, "theta", 7)`; keys do not collide with their neighbours."""
    digest = hashlib.sha256(repr((int(seed), *key)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def rng(seed: int, *key: str | int) -> torch.Generator:
    """A torch generator (on the CPU, so that every device sees the same numbers) for this seed and key."""
    import torch

    generator = torch.Generator()
    generator.manual_seed(seed_of(seed, *key))
    return generator


def numpy_rng(seed: int, *key: str | int) -> np.random.Generator:
    """The same for numpy and scikit-learn."""
    import numpy as np

    return np.random.default_rng(seed_of(seed, *key))
