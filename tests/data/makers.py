"""Small sources made for the tests: pictures, folders of them, and a pickle that leaves a trace if anybody runs it."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def noise(size: tuple[int, int] = (8, 6), mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A picture of random pixels; size is (width, height)."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode)


def folder(root: Path, counts: Mapping[str, int], size: tuple[int, int] = (8, 6), mode: str = "RGB", suffix: str = ".png") -> Path:
    """One sub-folder per class with that many pictures, each different."""
    for c, (name, n) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for k in range(n):
            noise(size, mode, 1000 * c + k).save(root / name / f"{k:04d}{suffix}")
    return root


def png(image: Image.Image | None = None, **options) -> bytes:
    buffer = io.BytesIO()
    (image or noise()).save(buffer, "png", **options)
    return buffer.getvalue()


class Canary:
    """Unpickling it creates the file at `path`."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def pickles(root: Path, canary: Path) -> dict[str, bytes]:
    """name -> the bytes of a file that runs the canary if it is unpickled."""
    import torch

    found = {f"protocol {k}": pickle.dumps(Canary(canary), protocol=k) for k in range(pickle.HIGHEST_PROTOCOL + 1)}
    for name, new in (("torch zip", True), ("torch legacy", False)):
        buffer = io.BytesIO()
        torch.save({"x": Canary(canary)}, buffer, _use_new_zipfile_serialization=new)
        found[name] = buffer.getvalue()
    objects = np.empty(1, dtype=object)
    objects[0] = Canary(canary)
    buffer = io.BytesIO()
    np.save(buffer, objects, allow_pickle=True)
    found["npy of objects"] = buffer.getvalue()
    for name, arrays in (("npz of objects", {"x_train": objects, "y_train": objects}), ("npz with object labels", {"x_train": np.zeros((1, 4, 4), np.uint8), "y_train": objects})):
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        found[name] = buffer.getvalue()
    return found
