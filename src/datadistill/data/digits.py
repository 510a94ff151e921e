"""scikit-learn's bundled digits: 1,797 real 8x8 images of handwritten digits, values 0..16; nothing is downloaded."""

from __future__ import annotations

import numpy as np
import torch

from ..modalities import Image
from .pictures import resized
from .raw import Ask, Raw, carve


def read(source: str, ask: Ask) -> Raw:
    """All of them, as one training split."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    pixels = np.round(x.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    pixels = resized(pixels, ask.size) if ask.size else pixels

    def finish(parts: dict[str, np.ndarray], classes: tuple[str, ...]):
        stored = {split: torch.from_numpy(part) for split, part in parts.items()}
        return Image(Image.spec_of(stored["train"], classes, mode="L", flip=False)), stored  # a mirrored digit is no digit

    return Raw("digits", {"train": pixels}, {"train": y.astype(np.int64)}, carve, finish, declared=tuple("0123456789"), modes={"L 8x8": len(y)})
