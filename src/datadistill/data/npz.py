"""An .npz file: a zip of .npy arrays, read member by member, never unpickled.

numpy.load would do for honest files. Here sizes are checked against the zip's own before memory is taken, and an archive with a path
that leaves its folder, a link, a member twice or an encrypted member is refused whole.
"""

from __future__ import annotations

import math
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from ..errors import BadInput
from ..progress import Progress
from ..text import safe
from . import arrays
from .guard import check_room, npy_header, refuse_pickle
from .raw import Ask, Raw

BLOCK = 1 << 20


def read(path: Path, ask: Ask) -> Raw:
    """The arrays by their names."""
    with zipfile.ZipFile(path) as archive:
        return arrays.of_mapping("npz", Members(archive, path, ask.progress), ask)


class Members(Mapping[str, np.ndarray]):
    """name -> array, decompressed when asked for, into memory of its own."""

    def __init__(self, archive: zipfile.ZipFile, path: Path, progress: Progress):
        self._archive, self._path, self._progress = archive, path, progress
        self._members: dict[str, zipfile.ZipInfo] = {}
        for info in archive.infolist():
            parts = PurePosixPath(info.filename.replace("\\", "/"))
            if parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
                raise BadInput(f"{safe(path)} holds {safe(info.filename)!r}, a path that leaves its folder", "an .npz of plain names")
            if stat.S_ISLNK(info.external_attr >> 16):
                raise BadInput(f"{safe(path)} holds a link, {safe(info.filename)!r}", "an .npz of arrays")
            name = info.filename.removesuffix(".npy")
            if name in self._members:
                raise BadInput(f"{safe(path)} holds {safe(name)!r} twice", "each array once")
            self._members[name] = info

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, name: str) -> np.ndarray:
        info = self._members[name]
        try:
            with self._archive.open(info) as file:
                shape, fortran, dtype = npy_header(file)
                if dtype.hasobject:
                    refuse_pickle(self._path, f"an .npz with an array of Python objects ({safe(name)}), which is stored as a pickle")
                n_bytes = math.prod(shape) * dtype.itemsize
                if n_bytes != info.file_size - file.tell():
                    raise ValueError(f"its header says {n_bytes:,} bytes, the archive holds {info.file_size - file.tell():,}")
                check_room(n_bytes, f"array {safe(name)!r} of {safe(self._path)}", "a smaller file, or a machine with more memory")
                flat = np.empty(math.prod(shape), dtype)
                view, at = memoryview(flat.view(np.uint8)) if n_bytes else memoryview(b""), 0
                with self._progress.bar(f"reading {name} (MiB)", -(-n_bytes // BLOCK)) as bar:
                    while at < n_bytes:
                        got = file.readinto(view[at : at + BLOCK])
                        if not got:
                            raise ValueError(f"it ends after {at:,} of {n_bytes:,} bytes")
                        bar.advance(-(-(at + got) // BLOCK) - -(-at // BLOCK))  # whole blocks, rounded up
                        at += got
                if file.read(1):  # also makes zipfile compare the checksum
                    raise ValueError("it goes on after its last element")
        except (ValueError, SyntaxError, KeyError, TypeError, EOFError, OSError, RuntimeError, RecursionError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
            raise BadInput(f"array {safe(name)!r} of {safe(self._path)} is broken: {safe(error)}", "a whole .npz file", "save or download it again") from error
        del view
        if fortran:
            return np.ascontiguousarray(flat.reshape(shape, order="F"))
        flat.resize(shape, refcheck=False)  # in place, so that the array owns its memory and can shrink later
        return flat
