"""Errors to exit codes: 0 ok, 1 our bug, 2 usage, 3 verdict not PASS, 4 bad input, 5 resources, 130/143 interrupted."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Iterator, Sequence

import click

from ..errors import DistillError, Interrupted
from ..text import safe
from .commands import cli


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit the process with its code."""
    sys.exit(run(argv))


def run(argv: Sequence[str] | None = None) -> int:
    """The exit code of a command line; one clear message on standard error for whatever a user can act on."""
    try:
        with together():
            code = cli.main(args=list(argv) if argv is not None else None, prog_name="datadistill", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.Abort:
        return 130
    except click.ClickException as error:
        error.show(sys.stderr)
        return 2
    except DistillError as error:
        if not (follower() and type(error).__name__ == "RankLost"):
            complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        complain("interrupted")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if isinstance(error.__cause__, Interrupted):  # raised within the body of a class, as modules are imported: Python 3.11 wraps it
            complain(str(error.__cause__))
            return error.__cause__.exit_code
        if (message := of_resources(error)) is not None:
            complain(message)
            return 5
        traceback.print_exc()
        complain(f"this is a bug of datadistill, not of yours: {type(error).__name__}. Please report it with the lines above.")
        return 1


def follower() -> bool:
    """Whether this is a process of several (torchrun) that does not speak for all."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and os.environ.get("RANK", "0") != "0"


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Joined to the other processes, if torchrun has started several; the first alone shows progress and prints the result."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    from ..dist import group

    with contextlib.ExitStack() as stack:
        if follower():
            os.environ["DATADISTILL_QUIET"] = "1"
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        stack.enter_context(group())
        yield


def of_resources(error: Exception) -> str | None:
    """The message for memory or disk running out, None for anything else."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM):
        return f"cannot write {safe(error.filename)}: {error.strerror}\nFix: free room, or another --out"
    from ..memory import out_of_memory

    if isinstance(error, (MemoryError, RuntimeError)) and out_of_memory(error):
        return f"out of memory: {safe(error, 300)}\nFix: a smaller batch, smaller examples, or a machine with more memory"
    return None


def complain(message: str) -> None:
    """One message on standard error, every line of it shown safely."""
    lines = [safe(line, 2000) for line in message.splitlines()] or [""]
    head = f"rank {os.environ['RANK']}: error: " if follower() else "error: "
    print("\n".join([head + lines[0], *lines[1:]]), file=sys.stderr, flush=True)
