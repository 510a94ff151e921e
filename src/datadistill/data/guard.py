"""What is decided before anything is opened: what the bytes are, that they are no pickle, and that they fit in memory.

Nothing here, and nothing in this room, unpickles: files are told by their first bytes, whatever they are called.
"""

from __future__ import annotations

import ast
import io
import os
import pickletools
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import BadInput, Resources
from ..text import safe, size

REJECTED_AT_MOST = 0.01  # of all items; above it the input is refused
HEAD = 1 << 20

MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PAR1", "parquet"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "zip"),
    (0, b"\x93NUMPY", "npy"),
    (0, b"ARROW1", "arrow"),
    (0, b"\xff\xff\xff\xff", "arrow"),
    (257, b"ustar", "tar"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"BZh", "bzip2"),
    (0, b"\xfd7zXZ\x00", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z"),
    (0, b"Rar!", "rar"),
    (0, b"\x89HDF", "hdf5"),
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (0, b"\xff\xd8\xff", "jpeg"),
    (0, b"GIF8", "gif"),
    (0, b"II*\x00", "tiff"),
    (0, b"MM\x00*", "tiff"),
    (8, b"WEBP", "webp"),
)
PICTURES = frozenset({"png", "jpeg", "gif", "tiff", "webp", "bmp"})


class Unreadable(BadInput):
    """Too many items could not be read, or all of a class; `rejects` lists each with its reason."""

    def __init__(self, got: str, expected: str = "", fix: str = "", rejects: Sequence[tuple[str, str]] = ()):
        super().__init__(got, expected, fix)
        self.rejects = tuple(rejects)


def magic(head: bytes) -> str:
    """What a file that begins with `head` is: a name of MAGIC, "bmp", "pickle", "text" or "unknown"."""
    for at, mark, name in MAGIC:
        if head[at : at + len(mark)] == mark:
            return name
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return "bmp"
    if is_pickle(head, whole=len(head) < HEAD):
        return "pickle"
    return "unknown" if b"\x00" in head[:4096] else "text"


def is_pickle(head: bytes, whole: bool = True) -> bool:
    """Whether the bytes are a Python pickle, told without running it. From protocol 2 on a pickle says so itself; the older ones are
    plain text, and are told by reading opcodes (`pickletools`, which only reads) up to the STOP at the very end."""
    if head[:1] == b"\x80" and len(head) > 2 and 2 <= head[1] <= 5:
        return True
    stream, opcodes = io.BytesIO(head), 0
    try:
        for opcode, _, _ in pickletools.genops(stream):
            opcodes += 1
            if opcode.name == "STOP":
                return opcodes > 1 and whole and not head[stream.tell() :].strip()
    except Exception:  # genops raises a dozen kinds of error on what is no pickle
        return not whole and opcodes > 1000
    return False


def npy_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, Fortran order, type) of the .npy that `file` begins with, leaving it at the first element; ValueError if it is none."""
    start = file.read(8)
    if start[:6] != b"\x93NUMPY" or len(start) < 8:
        raise ValueError("no .npy header")
    length = int.from_bytes(file.read(2 if start[6] == 1 else 4), "little")
    if length > 65536:
        raise ValueError("a header of more than 64 KiB")
    header = ast.literal_eval(file.read(length).decode("utf-8"))
    shape = tuple(header["shape"])
    if not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f"shape {shape}")
    return shape, bool(header["fortran_order"]), np.lib.format.descr_to_dtype(header["descr"])


def pickled(path: Path, head: bytes, kind: str) -> str:
    """What about this file is a pickle ("" if nothing): the file itself, the one in a torch.save file, or an array of Python objects."""
    if kind == "pickle":
        return "a Python pickle (or an old torch.save file, which is one)"
    if kind == "npy":
        return _object_array(io.BytesIO(head))
    if kind != "zip":
        return ""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
                return "a torch.save file, which holds a pickle"
            for name in names:
                if name.endswith(".npy"):
                    with archive.open(name) as member:
                        if what := _object_array(member):
                            return f"{what} ({name})"
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, KeyError, RuntimeError, NotImplementedError):
        pass  # a broken zip: told by whoever reads it
    return ""


def _object_array(file: BinaryIO) -> str:
    try:
        return "an array of Python objects, which is stored as a pickle" if npy_header(file)[2].hasobject else ""
    except (ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError):
        return ""


def kind_of(path: Path) -> str:
    """What the file is, by its bytes: a name of MAGIC, "npz", "text" or "unknown". A pickle, in any dress, is refused here."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise BadInput(f"{safe(path)} cannot be read ({error.strerror})") from error
    if not head:
        raise BadInput(f"{safe(path)} is empty")
    kind = magic(head)
    if what := pickled(path, head, kind):
        refuse_pickle(path, what)
    if kind == "zip":
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise BadInput(f"{safe(path)} is a broken zip file ({safe(error)})") from error
        if names and all(name.endswith(".npy") for name in names):
            return "npz"
    return kind


def refuse_pickle(path: object, what: str) -> None:
    """Say no, and say what to do instead."""
    raise BadInput(
        f"{safe(path)} is {what}; loading one can run any program, so datadistill never unpickles",
        "a folder of images, an .npz of plain arrays, a .csv, .tsv or .parquet file, or a datasets folder",
        "load it yourself where you trust it and pass the arrays from Python, or save them with numpy.savez",
    )


def within(rejects: Sequence[tuple[str, str]], total: int, source: str) -> str | None:
    """A warning if at most 1% of `total` items were left out, `Unreadable` if more, None if none."""
    if not rejects:
        return None
    some = "; ".join(f"{safe(name)}: {safe(why)}" for name, why in rejects[:3]) + ("; ..." if len(rejects) > 3 else "")
    if len(rejects) > REJECTED_AT_MOST * total:
        raise Unreadable(
            f"{len(rejects):,} of {total:,} items of {source} cannot be read ({some})",
            "at most 1% unreadable items",
            "repair or remove them",
            rejects,
        )
    return f"{len(rejects):,} of {total:,} items could not be read and were left out ({some})"


def available_memory() -> int | None:
    """Bytes this process may still take: what the machine has free, or less where a control group says so; None if unknown."""
    known = []
    try:
        with open("/proc/meminfo") as file:
            known += [int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:")]
    except OSError:
        if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
            known.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    try:
        group = Path("/sys/fs/cgroup")
        known.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no control group, or "max"
        pass
    return min(known) if known else None


def check_room(n_bytes: int, what: str, fix: str) -> None:
    """Refuse, before any work, what would not fit in memory."""
    available = available_memory()
    if available is not None and n_bytes > 0.8 * available:
        raise Resources(f"{what} would take {size(n_bytes)} of memory, and {size(max(0, available))} is free", "real data that fits in memory", fix)
