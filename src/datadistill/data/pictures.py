"""Image files of any mode and size, decoded into one uint8 array (N, C, H, W) of one stated mode and size.

Two passes: the headers (mode, size), from which the mode and size for all are chosen; then the pixels, each straight into its row.
Mode L if every pixel of every image is grey, else RGB. Orientation notes (EXIF) are applied, transparency is laid on white, 16-bit
values are scaled to 8, of animations the first frame is read.
"""

from __future__ import annotations

import os
import statistics
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TypeVar

import numpy as np

from ..errors import BadInput
from ..progress import Progress
from .guard import check_room

T, U = TypeVar("T"), TypeVar("U")

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
PIXELS = 50_000_000  # of one image; above it, it is taken for a decompression bomb
FILE_BYTES = 256 << 20
GREY = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
KEEP_SIDE, SIDE = 256, 224  # a common size is kept up to this short side; otherwise images become squares of at most SIDE
BATCH = 256


class Rejected(Exception):
    """This one item cannot be used; the message says why."""


@dataclass
class Pictures:
    """What `decode_all` made: pixels (n, C, H, W) of the items in `kept` (ascending), and what it met on the way."""

    pixels: np.ndarray
    kept: np.ndarray
    mode: str
    modes: dict[str, int]
    rejects: dict[int, str]  # item -> reason
    warnings: list[str] = field(default_factory=list)


def decode_all(openers: Sequence[Callable[[], BinaryIO]], progress: Progress, side: int | None = None) -> Pictures:
    """Every item as pixels. `openers[k]()` opens item k as a binary file or raises `Rejected`; side: make them squares of this side."""
    rejects: dict[int, str] = {}
    with _quiet():
        heads: list[tuple[str, int, int] | None] = []
        for k, (head, reason) in enumerate(_each(lambda k: _attempt(_head, openers[k]), range(len(openers)), progress, "reading image headers")):
            heads.append(head)
            if reason:
                rejects[k] = reason
        good = [h for h in heads if h is not None]
        if not good:
            return Pictures(np.zeros((0, 1, 1, 1), np.uint8), np.zeros(0, int), "L", {}, rejects)
        modes = Counter(f"{mode} {w}x{h}" for mode, w, h in good)
        mode = "L" if all(m in GREY for m, _, _ in good) else "RGB"
        size = (side, side) if side else common_size([(w, h) for _, w, h in good])
        shape = (len(openers), len(mode), size[1], size[0])
        check_room(int(np.prod(shape)), f"{len(openers):,} images of {size[0]}x{size[1]} {mode}", "--side 64 makes them smaller")
        pixels = np.empty(shape, np.uint8)
        colourful = mode == "L"  # whether an image with colour was met (of no interest when all modes are grey)
        dark = []
        todo = [k for k, h in enumerate(heads) if h is not None]
        done = _each(lambda k: _attempt(_decode, openers[k], mode, size, pixels[k]), todo, progress, "decoding images")
        for k, (result, reason) in zip(todo, done, strict=True):
            if reason:
                rejects[k] = reason
                continue
            grey, top = result
            colourful = colourful or not grey
            dark += [top] if top is not None else []
    kept = np.array([k for k in range(len(openers)) if k not in rejects], dtype=int)
    pixels = _without(pixels, kept)
    if not colourful:  # e.g. WebP, which has no grey mode
        mode, pixels = "L", np.ascontiguousarray(pixels[:, :1])
    found = Pictures(pixels, kept, mode, dict(modes), rejects)
    if dark and max(dark) < 8192:
        found.warnings.append(f"the 16-bit images reach only {max(dark)} of 65535 and are dark in 8 bits: rescale them first if that is not meant")
    if len({(w, h) for _, w, h in good}) > 1 or good[0][1:] != size:
        found.warnings.append(f"images of other sizes were scaled and centre-cropped to {size[0]}x{size[1]}")
    return found


def common_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """(width, height) for all: the one that at least half of them have, if not too large; else a square of the median short side, capped."""
    (w, h), n = min(Counter(sizes).items(), key=lambda item: (-item[1], item[0]))
    if 2 * n >= len(sizes) and min(w, h) <= KEEP_SIDE and max(w, h) <= 4 * KEEP_SIDE:
        return w, h
    side = min(SIDE, int(statistics.median(min(size) for size in sizes)))
    return side, side


def resized(pixels: np.ndarray, side: int) -> np.ndarray:
    """(n, C, H, W) uint8 scaled and centre-cropped to squares."""
    n, channels, h, w = pixels.shape
    if (h, w) == (side, side):
        return pixels
    from PIL import Image

    check_room(n * channels * side * side, f"{n:,} images of {side}x{side}", "--side 64 makes them smaller")
    out = np.empty((n, channels, side, side), np.uint8)
    for k in range(n):
        for c in range(channels):
            out[k, c] = np.asarray(fit(Image.fromarray(pixels[k, c]), (side, side)))
    return out


def fit(image: Any, size: tuple[int, int]) -> Any:
    """Scaled to cover `size` (width, height) and cropped at the centre; untouched if it has that size."""
    if image.size == size:
        return image
    from PIL import Image, ImageOps

    return ImageOps.fit(image, size, Image.Resampling.BICUBIC)


def plain(image: Any) -> tuple[Any, int | None]:
    """(the image upright, in mode L or RGB, 8 bits, without transparency; the largest value if it had 16 bits)."""
    from PIL import Image, ImageOps

    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # a broken orientation note is no reason to lose the image; broken pixels raise again below
        image.load()
    top = None
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        top, bottom = float(values.max()), float(values.min())
        if not (bottom >= 0 and top <= 65535):  # also catches NaN
            raise Rejected(f"values from {bottom:g} to {top:g}: expected 0 to 65535 (or 0 to 1 as fractions)")
        if image.mode == "F" and top <= 255:
            scale, top = (255.0 if top <= 1 else 1.0), None
        else:
            scale = 255 / 65535
        image = Image.fromarray(np.round(values * scale).astype(np.uint8))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        grey = image.mode in GREY
        white.alpha_composite(image.convert("RGBA"))
        image = white.convert("L" if grey else "RGB")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode in GREY else "RGB")
    return image, None if top is None else int(top)


def _open(file: BinaryIO) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise Rejected("too many pixels: a decompression bomb?") from error
    except UnidentifiedImageError as error:
        from .guard import magic

        file.seek(0)
        head = file.read(4096)
        what = {"": "empty", "pickle": "a Python pickle, never opened"}.get(magic(head) if head else "", "no PNG, JPEG, WebP, BMP, GIF or TIFF image")
        raise Rejected(what) from error
    if image.width * image.height > PIXELS:
        raise Rejected(f"{image.width}x{image.height} pixels, more than {PIXELS:,}: a decompression bomb?")
    return image


def _head(file: BinaryIO) -> tuple[str, int, int]:
    """(mode, width, height) as the image will stand upright."""
    image = _open(file)
    width, height = image.size
    try:
        turned = image.format != "TIFF" and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # of a TIFF, Pillow itself gives the upright size
    except Exception:  # see `plain`
        turned = False
    return (image.mode, height, width) if turned else (image.mode, width, height)


def _decode(file: BinaryIO, mode: str, size: tuple[int, int], out: np.ndarray) -> tuple[bool, int | None]:
    """Write the pixels to out (C, H, W); (whether they are grey, the largest value if there were 16 bits)."""
    image = _open(file)
    image.draft(None, (2 * max(size), 2 * max(size)))  # large JPEGs are decoded at a fraction of their size, still twice what is needed
    image, top = plain(image)
    array = np.asarray(fit(image, size).convert(mode))
    out[:] = array[None] if mode == "L" else array.transpose(2, 0, 1)
    grey = mode == "L" or int((out.max(0) - out.min(0)).max()) <= 1  # lossy WebP turns grey into colours one level apart
    return grey, top


def _attempt(work: Callable[..., T], opener: Callable[[], BinaryIO], *args: Any) -> tuple[T | None, str]:
    """(what `work` makes of the item, "") or (None, why not)."""
    try:
        with opener() as file:
            return work(file, *args), ""
    except (MemoryError, BadInput):
        raise
    except Rejected as error:
        return None, str(error)
    except Exception as error:  # hostile files make decoders raise almost anything; whatever it is, this item is unreadable
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return None, f"broken: {(text or type(error).__name__).splitlines()[0]}"


def _each(work: Callable[[int], U], items: Sequence[int], progress: Progress, label: str) -> Iterator[U]:
    """`work` of each item, in order, on threads (decoders release the interpreter), a batch at a time."""
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        with progress.bar(label, len(items)) as bar:
            for start in range(0, len(items), BATCH):
                batch = items[start : start + BATCH]
                yield from pool.map(work, batch)
                bar.advance(len(batch))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest of the batch


def _without(pixels: np.ndarray, kept: np.ndarray) -> np.ndarray:
    from .raw import carve

    return carve(pixels, [kept])[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Pillow's warnings (about size, metadata) go nowhere: we check sizes ourselves, and what cannot be read is listed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
