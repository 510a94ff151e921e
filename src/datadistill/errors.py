"""One error family: what was got, what was expected, how to fix it, and the exit code a shell sees."""

from __future__ import annotations


class DistillError(Exception):
    """Something the user can act on: shown as one message, never as a traceback.

    Parts: `got` what was found, `expected` what would have been right, `fix` what to type or change.
    """

    exit_code = 1

    def __init__(self, got: str, expected: str = "", fix: str = ""):
        self.got, self.expected, self.fix = got, expected, fix
        super().__init__(got)

    def __str__(self) -> str:
        parts = [self.got]
        if self.expected:
            parts.append(f"Expected: {self.expected}")
        if self.fix:
            parts.append(f"Fix: {self.fix}")
        return "\n".join(parts)


class UsageError(DistillError):
    """A flag, setting or combination that makes no sense (exit 2)."""

    exit_code = 2


class BadInput(DistillError):
    """Data or an artifact that cannot be used (exit 4)."""

    exit_code = 4


class Resources(DistillError):
    """Not enough disk or memory, or somebody else holds the lock (exit 5)."""

    exit_code = 5


class NotFinite(DistillError):
    """The loss stayed NaN or infinite after every allowed halving of the step (exit 1)."""

    def __init__(self, got: str, expected: str = "", fix: str = "other settings of the method (a smaller step size), or other data"):
        super().__init__(got, expected, fix)


class SecondTestRead(DistillError):
    """The sealed test split was read a second time for one seed: the run is void (exit 1)."""


class Interrupted(DistillError):
    """Ctrl-C (130) or SIGTERM (143), after the last snapshot was written."""

    def __init__(self, signal_number: int, got: str):
        super().__init__(got, fix="run the same command again to go on from there")
        self.exit_code = 128 + signal_number
