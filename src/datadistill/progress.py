"""Progress on standard error: a bar with rate and time left on a terminal, nothing but plain lines off it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from .text import duration, safe


class Bar(Protocol):
    """Work under way: `advance` by n, with values to show beside it."""

    def advance(self, n: int, values: Mapping[str, float] | None = None) -> None: ...


class Progress(Protocol):
    """Where messages and bars go."""

    def say(self, message: str) -> None: ...
    def bar(self, label: str, total: int, done: int = 0): ...


class _Nothing:
    def advance(self, n: int, values: Mapping[str, float] | None = None) -> None: ...


class Quiet:
    """Says nothing."""

    def say(self, message: str) -> None: ...

    @contextmanager
    def bar(self, label: str, total: int, done: int = 0) -> Iterator[Bar]:
        yield _Nothing()


class Lines:
    """Off a terminal: each message a line, and of long work one line every ten seconds."""

    def say(self, message: str) -> None:
        print("\n".join(safe(line, 2000) for line in message.splitlines()), file=sys.stderr, flush=True)

    @contextmanager
    def bar(self, label: str, total: int, done: int = 0) -> Iterator[Bar]:
        yield _LineBar(self, label, total, done)


class _LineBar:
    def __init__(self, out: Lines, label: str, total: int, done: int):
        self.out, self.label, self.total, self.done, self.began = out, label, total, done, done
        self.start = self.last = time.monotonic()

    def advance(self, n: int, values: Mapping[str, float] | None = None) -> None:
        self.done += n
        now = time.monotonic()
        if now - self.last >= 10:
            self.last = now
            rate = (self.done - self.began) / (now - self.start)
            left = duration((self.total - self.done) / rate)
            self.out.say(f"{self.label}: {self.done}/{self.total}, {rate:.3g}/s, {left} left{_values(values)}")


class Terminal:
    """On a terminal: a rich bar with rate and time left, gone when the work is done."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False)

    def say(self, message: str) -> None:
        self.console.print("\n".join(safe(line, 2000) for line in message.splitlines()), markup=False, soft_wrap=True)

    @contextmanager
    def bar(self, label: str, total: int, done: int = 0) -> Iterator[Bar]:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Rich

        columns = [TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}", markup=False),
                   TimeRemainingColumn(), TextColumn("{task.fields[values]}", markup=False)]
        with Rich(*columns, console=self.console, transient=True) as rich:
            task = rich.add_task(safe(label), total=total, completed=done, rate="", values="")
            yield _RichBar(rich, task)


class _RichBar:
    def __init__(self, rich, task):
        self.rich, self.task = rich, task

    def advance(self, n: int, values: Mapping[str, float] | None = None) -> None:
        speed = self.rich.tasks[0].speed
        self.rich.update(self.task, advance=n, rate=f"{speed:.3g}/s" if speed else "", values=_values(values))


def _values(values: Mapping[str, float] | None) -> str:
    return "".join(f", {k} {v:.4g}" for k, v in (values or {}).items() if k != "step")


def stderr_progress(quiet: bool = False) -> Progress:
    """The right kind for this process's standard error."""
    if quiet:
        return Quiet()
    return Terminal() if sys.stderr.isatty() else Lines()
