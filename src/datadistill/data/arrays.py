"""Arrays and tensors: named as Keras, MedMNIST and scikit-learn name them, as (X, y) pairs, or split by split.

uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) are images, and so are such arrays of fractions in [0, 1] or of whole numbers in
[0, 255]; two axes are a table of numbers. What cannot be told for sure (normalised floats) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..errors import BadInput
from ..modalities import Image, Tabular
from ..text import safe
from .guard import check_room
from .raw import SPLIT_WORDS, Ask, Raw, carve

X_WORDS = frozenset({"x", "images", "image", "data", "features", "inputs", "input"})
Y_WORDS = frozenset({"y", "labels", "label", "targets", "target"})
CLASS_WORDS = ("classes", "class_names", "label_names", "target_names")
COLUMN_WORDS = ("columns", "feature_names", "column_names")
CHANNELS = (1, 3, 4)
CHUNK = 4096
EXPECTED = "x_train, y_train, x_test, y_test (Keras), or train_images, train_labels, val_images, ... (MedMNIST), or x and y"


def roles(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """split -> {"x": name, "y": name}, from names such as x_train, train_images, X_test, test_y, x, labels."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        words = re.split(r"[_\-. ]+", name.lower())
        split = [SPLIT_WORDS[w] for w in words if w in SPLIT_WORDS] or ["train"] * (len(words) == 1)
        rest = [w for w in words if w not in SPLIT_WORDS]
        role = "x" if rest and rest[0] in X_WORDS else "y" if rest and rest[0] in Y_WORDS else ""
        if len(split) == 1 and len(rest) == 1 and role:
            if role in found.setdefault(split[0], {}):
                raise BadInput(f"both {safe(found[split[0]][role])!r} and {safe(name)!r}", f"one array of {split[0]} {role}", EXPECTED)
            found[split[0]][role] = name
    return found


def of_mapping(kind: str, arrays: Mapping[str, Any], ask: Ask) -> Raw:
    """Named arrays, each examples array asked for once; see `of_parts` for who owns them."""
    found = {split: pair for split, pair in roles(list(arrays)).items() if len(pair) == 2}
    if "train" not in found:
        raise BadInput(f"arrays named {', '.join(safe(n) for n in list(arrays)[:12]) or '(none)'}", EXPECTED)
    used = {name for pair in found.values() for name in pair.values()}
    extra = {word: [str(v) for v in np.asarray(arrays[word]).reshape(-1).tolist()] for word in (*CLASS_WORDS, *COLUMN_WORDS) if word in arrays}
    declared = next((tuple(extra[w]) for w in CLASS_WORDS if w in extra), ())
    columns = next((extra[w] for w in COLUMN_WORDS if w in extra), None)
    labels = {split: label_vector(arrays[pair["y"]], f"{pair['y']}") for split, pair in found.items()}
    if declared and any(v.dtype.kind not in "iu" for v in labels.values()):
        declared = ()  # the labels are names themselves
    raw = of_parts(kind, {split: arrays[pair["x"]] for split, pair in found.items()}, labels, ask, declared=declared, columns=columns)
    unused = [safe(n) for n in arrays if n not in used and n not in extra]
    if unused:
        raw.warnings.append(f"arrays not used: {', '.join(unused[:10])}")
    return raw


def of_parts(kind: str, parts: dict[str, Any], labels: dict[str, np.ndarray], ask: Ask, *, declared: tuple[str, ...] = (), columns: list[str] | None = None) -> Raw:
    """split -> X and its labels, as images or as a table. An array that owns its memory is used up; a view is left alone."""
    channels_first = all(isinstance(x, torch.Tensor) for x in parts.values())
    parts = {split: numpy_of(x) for split, x in parts.items()}
    for split, x in parts.items():
        if x.ndim == 0 or len(x) != len(labels[split]):
            raise BadInput(f"{split}: {len(x) if x.ndim else 'no'} examples but {len(labels[split])} labels", "one label per example")
    axes = {x.ndim for x in parts.values()}
    if axes == {2}:
        return _table(kind, parts, labels, columns, declared)
    if len(axes) == 1 and axes <= {3, 4}:
        return _images(kind, parts, labels, ask, declared, channels_first)
    shapes = ", ".join(f"{split} {tuple(x.shape)}" for split, x in parts.items())
    raise BadInput(f"arrays of shape {shapes}", "(N, H, W), (N, H, W, C) or (N, C, H, W) for images, (N, columns) for tables, the same in every split")


def numpy_of(x: Any) -> np.ndarray:
    """Any array or tensor as numpy; arrays of Python objects are refused."""
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu()
        x = (x.float() if x.dtype in (torch.bfloat16, torch.float16) else x).numpy()
    x = np.asarray(x)
    if x.dtype.hasobject or x.dtype.kind not in "biufUS":
        raise BadInput(f"an array of {x.dtype}", "numbers", "a pandas data frame takes mixed columns")
    return x


def label_vector(y: Any, name: str = "labels") -> np.ndarray:
    """(n,) labels from (n,), (n, 1) or one-hot (n, k)."""
    if isinstance(y, torch.Tensor):
        y = numpy_of(y)
    y = np.asarray(y)
    if y.dtype.kind == "O":
        y = np.array([None if v is None or v != v else v if isinstance(v, str) else str(v) for v in y.reshape(-1).tolist()], dtype=object)
    elif y.dtype.kind not in "biufUS":
        raise BadInput(f"{name} of type {y.dtype}", "whole numbers or text")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2 and y.dtype.kind in "biuf" and np.isin(y, (0, 1)).all() and (y.sum(1) == 1).all():
        y = y.argmax(1)
    if y.ndim != 1:
        raise BadInput(f"{name} of shape {tuple(y.shape)}", "one class per example: (n,), (n, 1) or one-hot (n, classes)")
    whole = y.dtype.kind == "u" or (y.dtype.kind == "f" and bool((y % 1 == 0).all()))
    return y.astype(np.int64) if whole else y


# -- images ------------------------------------------------------------------------------------------------------------


def _images(kind: str, parts: dict[str, np.ndarray], labels: dict[str, np.ndarray], ask: Ask, declared: tuple[str, ...], channels_first: bool) -> Raw:
    met = {}
    for x in parts.values():
        key = f"{x.dtype} {'x'.join(map(str, x.shape[1:]))}"
        met[key] = met.get(key, 0) + len(x)
    notes = []
    scale = _scale(parts, notes)
    axes = order(parts["train"].shape, channels_first)
    parts = {split: _pixels(parts.pop(split), axes, scale) for split in list(parts)}
    shapes = {x.shape[1:] for x in parts.values()}
    if ask.size or len(shapes) > 1:
        from .pictures import resized

        side = ask.size or min(parts["train"].shape[2:])
        parts = {split: resized(parts.pop(split), side) for split in list(parts)}
    if len({x.shape[1:] for x in parts.values()}) > 1:
        raise BadInput(f"images of different shapes: {', '.join('x'.join(map(str, s)) for s in sorted(shapes))}", "the same number of channels in every split")
    mode = "L" if parts["train"].shape[1] == 1 else "RGB"

    def finish(parts: dict[str, np.ndarray], classes: tuple[str, ...]):
        stored = {split: torch.from_numpy(pixels) for split, pixels in parts.items()}
        return Image(Image.spec_of(stored["train"], classes, mode=mode)), stored

    return Raw(kind, parts, labels, carve, finish, declared=declared, modes=met, warnings=notes)


def _scale(parts: dict[str, np.ndarray], notes: list[str]) -> float:
    """The factor to 0..255, one for all splits; refuses values that could mean anything."""
    kinds = {x.dtype.kind for x in parts.values()}
    if any(x.size == 0 for x in parts.values()):
        raise BadInput("an array of images without pixels", "images of at least 1x1")
    if kinds == {"b"}:
        return 255.0
    if all(x.dtype == np.uint8 for x in parts.values()):
        return 1.0
    if not kinds <= set("iuf"):
        raise BadInput(f"images of type {', '.join(str(x.dtype) for x in parts.values())}", "numbers")
    low, high = min(float(x.min()) for x in parts.values()), max(float(x.max()) for x in parts.values())
    whole = "f" not in kinds or all(bool((x[s : s + CHUNK] % 1 == 0).all()) for x in parts.values() for s in range(0, len(x), CHUNK))
    if low >= 0 and high <= 1 and "f" in kinds:
        return 255.0
    if low >= 0 and high <= 255 and whole:
        return 1.0
    if low >= 0 and high <= 65535 and kinds == {"u"}:
        notes.append(f"16-bit images were scaled from 0..65535 (they reach {high:.0f}) to 0..255")
        return 255 / 65535
    raise BadInput(
        f"images with values from {low:g} to {high:g}",
        "uint8, fractions in [0, 1], or whole numbers in [0, 255]",
        "undo the normalisation first (x * std + mean); students normalise by themselves",
    )


def order(shape: tuple[int, ...], channels_first: bool) -> tuple[int, ...]:
    """How to bring the axes of an array of this shape to (N, C, H, W); an axis of length 1, 3 or 4 holds the channels."""
    if len(shape) == 3:
        return (0, 3, 1, 2)  # once it has a last axis of one channel
    first, last = shape[1] in CHANNELS, shape[3] in CHANNELS
    if not (first or last):
        raise BadInput(f"images of shape {tuple(shape[1:])}", "1, 3 or 4 channels, first or last")
    return (0, 1, 2, 3) if first and (channels_first or not last) else (0, 3, 1, 2)


def _pixels(x: np.ndarray, axes: tuple[int, ...], scale: float) -> np.ndarray:
    """(N, C, H, W) uint8; transparency is laid on white. An array that owns its memory is ours: if it is uint8, its axes are brought
    in order where it lies. A view is somebody else's: it is copied."""
    if x.ndim == 3:
        x = x[..., None] if not x.flags.owndata else _reshaped(x, (*x.shape, 1))
    n, channels, h, w = (x.shape[k] for k in axes)
    if channels not in CHANNELS:
        raise BadInput(f"images of shape {tuple(x.shape[1:])} in one split", "the same number of channels in every split")
    if x.dtype == np.uint8 and scale == 1 and channels != 4 and x.flags.owndata and x.flags.c_contiguous:
        for start in range(0, n if channels > 1 else 0, CHUNK):
            some = x[start : start + CHUNK]
            some[:] = some.transpose(axes).reshape(some.shape)
        return _reshaped(x, (n, channels, h, w))
    check_room(n * min(channels, 3) * h * w, f"{n:,} images of {w}x{h}", "fewer images")
    out = np.empty((n, min(channels, 3), h, w), np.uint8)
    for start in range(0, n, CHUNK):
        some = x[start : start + CHUNK].transpose(axes)
        if scale != 1 or some.dtype != np.uint8:
            some = np.round(some * np.float32(scale)).astype(np.uint8)
        if channels == 4:
            alpha = some[:, 3:].astype(np.float32) / 255
            some = np.round(some[:, :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
        out[start : start + CHUNK] = some
    return out


def _reshaped(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The same array object with another shape, so that it still owns its memory (a reshape would be a view) and can shrink later."""
    x.resize(shape, refcheck=False)
    return x


# -- tables ------------------------------------------------------------------------------------------------------------


def _table(kind: str, parts: dict[str, np.ndarray], labels: dict[str, np.ndarray], columns: list[str] | None, declared: tuple[str, ...]) -> Raw:
    width = parts["train"].shape[1]
    if {x.shape[1] for x in parts.values()} != {width} or width == 0:
        raise BadInput(f"tables of {', '.join(str(x.shape[1]) for x in parts.values())} columns", "at least one, the same number in every split")
    if any(x.dtype.kind not in "biuf" for x in parts.values()):
        raise BadInput(f"a table of type {parts['train'].dtype}", "numbers", "a pandas data frame takes mixed columns")
    names = columns if columns is not None and len(columns) == width else [f"x{k}" for k in range(width)]
    integer = parts["train"].dtype.kind in "biu"
    parts = {split: cells(parts.pop(split)) for split in list(parts)}

    def finish(parts: dict[str, np.ndarray], classes: tuple[str, ...]):
        stored = {split: torch.from_numpy(x) for split, x in parts.items()}
        columns = [{"name": name, "integer": integer} for name in names]
        return Tabular(Tabular.spec_of(stored["train"], columns, classes, "label")), stored

    return Raw(kind, parts, labels, carve, finish, declared=declared, modes={"integer column" if integer else "number column": width})


def cells(x: np.ndarray) -> np.ndarray:
    """As float32, NaN where a value is missing, infinite or beyond float32."""
    with np.errstate(over="ignore"):
        out = x.astype(np.float32)
    out[np.isinf(out)] = np.nan
    return out
