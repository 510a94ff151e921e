"""Who holds a path: the neighbours of an output, locks, and what killed writers left.

Temporaries and locks are held with flock, which the kernel drops when a process dies: what nobody holds is an orphan. No process
id is trusted (they are reused, and differ between containers) and no clock is read. On network file systems flock works between
machines only where the mount supports it; on Windows there is none: two writers are not kept apart there, and orphans stay.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from ..errors import BadInput, DistillError, Resources, UsageError
from ..text import safe

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)

WHY = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than this process may write (ulimit -f)",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.EIO: "the disk reports an input/output error",
}


# -- names ------------------------------------------------------------------------------------------------------------


def legal(name: str) -> str:
    """`name` if it stays inside a folder on every system ("a/b.png"); BadInput for `..`, absolute names, backslashes, drives."""
    parts = name.split("/")
    if any(p in ("", ".", "..") for p in parts) or "\\" in name or "\0" in name or re.match("[A-Za-z]:", name):
        raise BadInput(f"the file name {safe(name)!r} leads out of its folder", "names like 'preview/0.png'", "do not use this file: it may be an attack")
    return name


def sibling(path: Path, suffix: str) -> Path:
    """A hidden neighbour of `path`: ".NAME.suffix"."""
    return path.parent / f".{stem(path)}.{suffix}"


def real(path: str | os.PathLike) -> Path:
    """Links followed, so that a neighbour is on the same disk and a link to a folder stays a link."""
    return Path(os.path.realpath(path))


def stem(path: Path) -> str:
    """The name, cut where a neighbour's would be too long for a file system."""
    name = path.name
    return name if len(os.fsencode(name)) <= 200 else hashlib.sha256(os.fsencode(name)).hexdigest()


def temporaries(folder: Path, name: str, suffix: str) -> list[Path]:
    """The temporaries in `folder` of what is called `name` (a regular expression)."""
    pattern = re.compile(rf"\.{name}\.\d+-[0-9a-f]{{12}}\.{suffix}", re.DOTALL)
    try:
        return sorted(p for p in folder.iterdir() if pattern.fullmatch(p.name))
    except OSError:
        return []


def siblings(path: Path, suffix: str) -> list[Path]:
    """The temporaries of `path` that end in `suffix`, in order."""
    return temporaries(path.parent, re.escape(stem(path)), suffix)


# -- locks and orphans ------------------------------------------------------------------------------------------------


def grab(fd: int) -> bool | None:
    """flock: True if it is ours now, False if somebody holds it, None where there is no such thing."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return None


def same(fd: int, path: Path) -> bool:
    """Whether the open file is still the one that bears the name."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def held(path: Path) -> Iterator[bool]:
    """Hold a file or folder; yields whether it is ours alone."""
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | FLAGS)
    except OSError:
        yield False
        return
    try:
        yield grab(fd) is True and same(fd, path)
    finally:
        os.close(fd)


def recover(path: str | os.PathLike) -> int:
    """Where a killed replacement left the old folder aside: put it back (or away, if the new one is there). Returns how many were left."""
    path, count = real(path), 0
    for aside in siblings(path, "old"):
        with held(aside) as ours:
            if ours:
                if os.path.lexists(path):
                    remove(aside)
                else:
                    with contextlib.suppress(OSError):
                        os.rename(aside, path)
                count += not os.path.lexists(aside)
    return count


def reap(path: str | os.PathLike) -> int:
    """Remove what killed writers left of `path`, beside it and in its working folder, and `recover`. Returns how many; what is held stays."""
    count, path = recover(path), real(path)
    for temp in siblings(path, "tmp") + temporaries(sibling(path, "work"), ".*", "tmp"):
        with held(temp) as ours:
            if ours:
                remove(temp)
                count += not os.path.lexists(temp)
    return count


@contextlib.contextmanager
def lock(path: str | os.PathLike) -> Iterator[None]:
    """One writer at a time for `path`, through a neighbour ".NAME.lock". A second one gets Resources naming the first; a dead one holds nothing."""
    path = real(path)
    file = sibling(path, "lock")
    if fcntl is None:
        yield
        return
    with telling(path):
        os.makedirs(path.parent, exist_ok=True)
        fd = _acquire(file, path)
    try:
        yield
    finally:
        if same(fd, file):
            remove(file)  # while it is held: whoever has opened it meanwhile sees that it is no longer the one
        os.close(fd)


def _acquire(file: Path, path: Path) -> int:
    while True:
        fd = os.open(file, os.O_RDWR | os.O_CREAT | FLAGS, 0o666)
        try:
            got = grab(fd)
            if got is False:
                raise Resources(
                    f"{safe(path, 300)} is locked by {_holder(fd)}", "one writer at a time", "wait until it has finished, or choose another output"
                )
            if got is None:
                warnings.warn(f"the file system of {safe(path)} knows no locks: make sure that nobody else writes there", stacklevel=4)
            elif not same(fd, file):
                os.close(fd)
                continue
            os.ftruncate(fd, 0)
            os.write(fd, json.dumps({"pid": os.getpid(), "host": os.uname().nodename, "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"}).encode())
            return fd
        except OSError:  # no room for even this
            remove(file)
            os.close(fd)
            raise
        except DistillError:
            os.close(fd)
            raise


def _holder(fd: int) -> str:
    for _ in range(20):  # it may have got the lock this very moment, and not yet written its name
        try:
            who = json.loads(os.pread(fd, 4096, 0))
            return f"pid {who['pid']} on host {safe(who['host'])}, since {safe(who['since'])}"
        except (ValueError, TypeError, KeyError):
            time.sleep(0.01)
    return "another process"


# -- errors and removal -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def telling(path: Path) -> Iterator[None]:
    """An error of the operating system, said in one message."""
    try:
        yield
    except OSError as error:
        what = WHY.get(error.errno, error.strerror or str(error))
        kind = UsageError if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP) else Resources
        raise kind(
            f"cannot write {safe(path, 300)}: {what} ({error.strerror}); what stood there is unchanged",
            "a place with room, and permission to write",
            "free some space, or choose another place",
        ) from error


def remove(path: Path) -> None:
    """Away with a temporary; what cannot be removed now is for the next `reap`."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)
