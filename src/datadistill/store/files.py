"""A file or a folder that appears in one step, complete and on the disk, or what stood there stays.

The way: write a temporary sibling, fsync it, rename it over the name, fsync the parent folder. A folder that is there already is
exchanged in one system call (Linux); where that is not to be had, the old one steps aside under a name from which `recover` brings it back.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import Resources, UsageError
from ..text import safe, size
from .locks import FLAGS, fcntl, grab, held, legal, real, remove, same, stem, telling

MARKER = "manifest.json"  # what a folder of ours has: no other folder that holds something is ever replaced


class Unconfirmed(Resources):
    """Written and in place, but the disk did not confirm it: what it replaced is kept."""


# -- writing ----------------------------------------------------------------------------------------------------------


def write_file(path: str | os.PathLike, data: bytes) -> None:
    """`data` as the file `path`, in one step; its mode follows the umask. Resources if it cannot be written: the old file stays."""
    path = real(path)
    with telling(path), _temporary(path) as (temp, fd):
        _write(fd, data)
        os.fsync(fd)
        if fcntl is None:
            os.close(fd)  # Windows renames no open file
        os.replace(temp, path)
        _confirm(path)


def replace_folder(path: str | os.PathLike, files: Mapping[str, bytes], marker: str = MARKER) -> None:
    """The folder `path` with exactly these files ("a/b" makes sub-folders), in one step, in the place of an older one that holds `marker`.

    UsageError if something else stands there, Resources if it cannot be written: what stood there stays.
    """
    path = real(path)
    check_target(path, marker)
    with telling(path), _temporary(path, folder=True) as (temp, _):
        folders = {temp}
        for name in files:
            target = temp / legal(name)
            os.makedirs(target.parent, exist_ok=True)
            folders.update(p for p in target.parents if p.is_relative_to(temp))
            fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | FLAGS, 0o666)
            try:
                _write(fd, files[name])
                os.fsync(fd)
            finally:
                os.close(fd)
        for folder in sorted(folders, reverse=True):
            _fsync_folder(folder)
        _swap(temp, path)


def _swap(temp: Path, path: Path) -> None:
    """Put the finished folder `temp` under the name `path`; an older one is left under a temporary name, or gone."""
    if not os.path.lexists(path):
        os.rename(temp, path)
        _confirm(path)
    elif _exchange(temp, path):
        _confirm(path)  # before the old one, now called temp, is deleted: a power cut may undo the exchange until then
    else:
        aside = temp.with_suffix(".old")
        with held(path):
            try:
                os.rename(path, aside)
                os.rename(temp, path)
            except BaseException:
                if not os.path.lexists(path):
                    os.rename(aside, path)
                raise
            _confirm(path)
        remove(aside)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step (renameat2 with RENAME_EXCHANGE); False where the system or the file system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here = -100  # AT_FDCWD
    if renameat2(here, os.fsencode(one), here, os.fsencode(other), 2) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM):  # EPERM: an older sandbox that does not know the call
        return False
    raise OSError(code, os.strerror(code), str(other))


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:  # one call writes at most 2 GiB on Linux, and fewer bytes than asked where the disk ends
        rest = rest[os.write(fd, rest) :]


def _fsync_folder(path: Path) -> None:
    """Put the names in a folder on the disk; silently nothing where a system or file system has no such thing."""
    if os.name == "nt":
        return
    fd = os.open(path, os.O_RDONLY | FLAGS)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF):
            raise
    finally:
        os.close(fd)


def _confirm(path: Path) -> None:
    try:
        _fsync_folder(path.parent)
    except OSError as error:
        raise Unconfirmed(
            f"{safe(path, 300)} is written, but the disk did not confirm it ({error.strerror}): durability unknown",
            fix="check the disk, then `datadistill verify` what was written",
        ) from error


@contextlib.contextmanager
def _temporary(path: Path, folder: bool = False) -> Iterator[tuple[Path, int]]:
    """A new sibling of `path`, held while in use; whatever bears its name at the end is removed (the old folder, after an exchange)."""
    os.makedirs(path.parent, exist_ok=True)
    while True:
        temp = path.parent / f".{stem(path)}.{os.getpid()}-{secrets.token_hex(6)}.tmp"
        if folder:
            os.mkdir(temp)
            fd = None if os.name == "nt" else os.open(temp, os.O_RDONLY | FLAGS)
        else:
            fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | FLAGS, 0o666)
        if fd is None or grab(fd) is not False and same(fd, temp):
            break
        os.close(fd)  # a `reap` elsewhere took it in the moment before it was held
    keep = False
    try:
        yield temp, fd
    except Unconfirmed:
        keep = True
        raise
    finally:
        if not keep:
            remove(temp)
        if fd is not None:
            with contextlib.suppress(OSError):
                os.close(fd)


# -- before the work --------------------------------------------------------------------------------------------------


def check_target(path: str | os.PathLike, marker: str = MARKER) -> None:
    """UsageError if a folder must not be put at `path`: something is there that is not ours, or a name that cannot be exchanged."""
    path = real(path)
    other = "choose another output, for instance a folder inside it"
    with telling(path):
        if os.path.ismount(path):
            raise UsageError(f"{safe(path, 300)} is the root of a file system, which cannot be replaced", "the name of a folder", other)
        if path == real(os.curdir):
            raise UsageError(f"{safe(path, 300)} is the folder you are in, which cannot be replaced", "the name of a folder", other)
        if not os.path.lexists(path):
            return
        if not path.is_dir():
            raise UsageError(f"{safe(path, 300)} exists and is not a folder", "a new name, or an older output", other)
        if any(path.iterdir()) and not (path / marker).is_file():
            raise UsageError(f"{safe(path, 300)} exists and holds other things (no {marker} in it)", "a new name, an empty folder or an older output", other)


def check_room(path: str | os.PathLike, need_bytes: int) -> None:
    """Resources, before the work starts, if `need_bytes` cannot be written beside `path`: no permission (it is tried), no space."""
    path = real(path)
    folder = path.parent
    while not os.path.lexists(folder):
        folder = folder.parent
    with telling(path):
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        with _temporary(folder / path.name, folder=True):
            free = shutil.disk_usage(folder).free
    if free < need_bytes:
        raise Resources(f"{size(free)} free on the disk of {safe(path, 300)}", f"{size(need_bytes)}", "free some space, or choose another place")
