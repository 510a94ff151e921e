"""Ctrl-C and SIGTERM: once, finish the step, save and leave; twice, leave at once."""

from __future__ import annotations

import os
import signal
from typing import Any

from ..errors import Interrupted
from ..progress import Progress


class Stop:
    """Installed while a command works. `watch(run)` names the run that can be saved."""

    def __init__(self, progress: Progress):
        self.progress, self.run, self.asked = progress, None, False

    def __enter__(self) -> Stop:
        self._before = {number: signal.signal(number, self._on) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def watch(self, run: Any) -> None:
        self.run = run

    def _on(self, number: int, frame: object) -> None:
        if self.asked:
            os._exit(128 + number)
        self.asked = True
        if self.run is not None and self.run.looping:
            self.run.stop_signal = number
            self.progress.say("stopping after this step, then saving; once more to leave at once")
        else:
            raise Interrupted(number, "interrupted")
