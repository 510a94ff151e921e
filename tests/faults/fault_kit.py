"""Faults made on purpose: a process that dies, or a system call that fails, at the n-th thing it does to the disk.

Children are forked, not started: fifty of them take a second. They do not touch torch's threads.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from datadistill.errors import DistillError
from datadistill.store import files

CALLS = ("write", "fsync", "replace", "rename", "mkdir", "unlink", "rmdir")  # and creating a file, and the exchange of two folders


@contextmanager
def at_call(n: int, fault: Callable[[str, tuple], None]) -> Iterator[list[str]]:
    """Inside, the n-th (from 0) call that changes the disk runs `fault(name, arguments)` first; yields the calls made so far."""
    made: list[str] = []
    original = {name: getattr(os, name) for name in CALLS}
    opened, exchanged = os.open, files._exchange

    def wrapped(name, call):
        def wrapper(*args, **kwargs):
            made.append(f"{name} {'folder' if name == 'fsync' and stat.S_ISDIR(os.fstat(args[0]).st_mode) else ''}".strip())
            if len(made) == n + 1:
                fault(name, args)
            return call(*args, **kwargs)

        return wrapper

    def open_(path, flags, *args, **kwargs):
        return (created if flags & os.O_CREAT else opened)(path, flags, *args, **kwargs)

    created = wrapped("create", opened)
    try:
        for name, call in original.items():
            setattr(os, name, wrapped(name, call))
        os.open, files._exchange = open_, wrapped("exchange", exchanged)
        yield made
    finally:
        for name, call in original.items():
            setattr(os, name, call)
        os.open, files._exchange = opened, exchanged


def die(name: str, args: tuple) -> None:
    """SIGKILL, now; half-way through where it is a write."""
    if name == "write":
        os.pwrite(args[0], bytes(args[1])[: len(args[1]) // 2], 0)
    os.kill(os.getpid(), signal.SIGKILL)


def failing(code: int) -> Callable[[str, tuple], None]:
    """The system call answers with this error number."""

    def fault(name: str, args: tuple) -> None:
        raise OSError(code, os.strerror(code))

    return fault


def fork(work: Callable[[], None]) -> int:
    """`work` in a child process, which has begun when this returns its process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    begun, begin = os.pipe()
    if pid := os.fork():
        os.close(begin)
        os.read(begun, 1)
        os.close(begun)
        return pid
    code = 99
    try:
        os.close(begun)
        os.close(begin)
        work()
        code = 0
    except DistillError as error:
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    """How a child ended: its exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def neighbours(path: Path) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir() if p != path) if path.parent.exists() else []
