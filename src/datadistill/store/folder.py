"""A folder, or a zip of it, that came from somewhere: read lazily, by name, and nothing outside it."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import BadInput, DistillError
from ..text import safe, size
from .locks import legal, recover

MAX_FILES = 100_000
MAX_BYTES = 16 << 30  # of a zip, unpacked
MAX_RATIO = 200  # unpacked over packed, of any entry above a megabyte


def read_folder(path: str | os.PathLike) -> Mapping[str, bytes]:
    """The files of a folder or .zip by name ("labels/0.safetensors"), each read when asked for. BadInput for what is neither,
    for links and special files that lead out, and for a zip with any illegal entry, which is refused whole."""
    path = Path(path)
    if not path.exists():
        recover(path)  # a killed writer may have left the old one aside
    if path.is_dir():
        return _Folder(path)
    if not path.exists():
        raise BadInput(f"{safe(path, 300)} does not exist", "a folder or a .zip")
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise BadInput(f"{safe(path, 300)} is neither a folder nor a zip of one", "what `datadistill distill --out` wrote")
    return _Zip(path)


class _Folder(Mapping[str, bytes]):
    def __init__(self, path: Path):
        self.path = path
        self._root = Path(os.path.realpath(path))
        self._which = self._identity()

    def _identity(self) -> tuple[int, int] | None:
        try:
            seen = os.stat(self._root)
            return seen.st_dev, seen.st_ino
        except FileNotFoundError:
            return None

    def _still(self) -> None:
        """Refuse what another writer has put in the place of this folder."""
        if self._which is None or self._identity() != self._which:
            raise BadInput(f"{safe(self.path, 300)} was replaced while it was being read", fix="read it again")

    def _find(self, name: str) -> Path:
        target = Path(os.path.realpath(self._root / legal(name)))
        if not target.is_relative_to(self._root):
            raise BadInput(
                f"{safe(name)!r} in {safe(self.path, 300)} is a link out of the folder", "real files", "copy it with its files in place of links (cp -rL)"
            )
        if target.exists() and not target.is_dir() and not stat.S_ISREG(target.stat().st_mode):
            raise BadInput(f"{safe(name)!r} in {safe(self.path, 300)} is not an ordinary file", "ordinary files")
        return target

    def __getitem__(self, name: str) -> bytes:
        try:
            data = self._find(name).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            data = None
        except OSError as error:
            raise BadInput(f"{safe(name)!r} in {safe(self.path, 300)} cannot be read: {error.strerror}") from error
        self._still()
        if data is None:
            raise KeyError(name)
        return data

    def __iter__(self) -> Iterator[str]:
        count = 0
        for folder, folders, names in os.walk(self._root):
            folders.sort()
            for link in [d for d in folders if os.path.islink(os.path.join(folder, d))]:
                raise BadInput(f"{safe(link)!r} in {safe(self.path, 300)} is a link to a folder", "real files", "copy it with its files in place of links")
            for name in sorted(names):
                count += 1
                if count > MAX_FILES:
                    raise BadInput(f"{safe(self.path, 300)} holds more than {MAX_FILES} files")
                yield Path(folder, name).relative_to(self._root).as_posix()
        self._still()  # else names of both, or none, look like a folder

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name).is_file()


class _Zip(Mapping[str, bytes]):
    def __init__(self, path: Path):
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise BadInput(f"{safe(path, 300)} is a damaged zip: {safe(error)}") from error
        if len(entries) > MAX_FILES:
            raise BadInput(f"{safe(path, 300)} holds {len(entries)} files", f"at most {MAX_FILES}")
        if (total := sum(e.file_size for e in entries)) > MAX_BYTES:
            raise BadInput(f"{safe(path, 300)} unpacks to {size(total)}", f"at most {size(MAX_BYTES)}")
        self._entries: dict[str, zipfile.ZipInfo] = {}
        for entry in entries:
            self._check(entry)
            if not entry.is_dir() and not entry.filename.startswith("__MACOSX/"):  # what a Mac's Finder adds
                self._entries[entry.filename] = entry
        tops = {name.split("/", 1)[0] for name in self._entries}
        if len(tops) == 1 and all("/" in name for name in self._entries):  # the zip of a folder, not of what is in it
            self._entries = {name.split("/", 1)[1]: entry for name, entry in self._entries.items()}

    def _check(self, entry: zipfile.ZipInfo) -> None:
        name = safe(entry.orig_filename)
        legal(entry.orig_filename.removesuffix("/"))
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise BadInput(f"{name!r} in {safe(self.path, 300)} is a link or a device", "ordinary files", "do not use this file: it may be an attack")
        if entry.filename in self._entries:
            raise BadInput(f"{name!r} stands twice in {safe(self.path, 300)}", "each name once", "do not use this file: it may be an attack")
        if entry.flag_bits & 1:
            raise BadInput(f"{name!r} in {safe(self.path, 300)} is encrypted", "a zip without password")
        if entry.file_size > 1 << 20 and entry.file_size > MAX_RATIO * entry.compress_size:
            raise BadInput(
                f"{name!r} in {safe(self.path, 300)} unpacks {size(entry.compress_size)} to {size(entry.file_size)}",
                f"at most {MAX_RATIO} times", "unpack it yourself if you trust it",
            )  # fmt: skip

    def __getitem__(self, name: str) -> bytes:
        entry = self._entries[name]
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(entry) as file:
                data = file.read(entry.file_size + 1)
        except (MemoryError, DistillError):  # not the file's fault: no room, or a signal has come
            raise
        except Exception as error:  # zlib, lzma and bz2 have errors of their own
            raise BadInput(f"{safe(name)!r} in {safe(self.path, 300)} is damaged: {safe(error)}", fix="get the file again") from error
        if len(data) != entry.file_size:
            raise BadInput(f"{safe(name)!r} in {safe(self.path, 300)} unpacks to another size than it says")
        return data

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)
