"""The command line, run and killed in forks of one prepared process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        return json.loads(self.out)


@dataclass
class Started:
    """A running command; `kill` it, `wait` for it."""

    server: Server
    pid: int
    folder: Path

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def wait(self) -> Done:
        code = self.server.ask({"wait": self.pid})["code"]
        return Done(code, *((self.folder / name).read_text("utf-8", "surrogateescape") for name in ("out", "err")))

    def until(self, text: str, limit: float = 60) -> None:
        """Wait until standard error holds `text`."""
        deadline = time.monotonic() + limit
        while text not in (self.folder / "err").read_text("utf-8", "surrogateescape"):
            assert time.monotonic() < deadline and Path(f"/proc/{self.pid}").exists(), (self.folder / "err").read_text()
            time.sleep(0.005)


@dataclass
class Server:
    folder: Path
    process: subprocess.Popen = field(init=False)
    count: int = 0

    def __post_init__(self) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "DATADISTILL_CACHE": str(self.folder / "cache")}
        self.process = subprocess.Popen([sys.executable, HERE / "cli_server.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def ask(self, request: dict) -> dict:
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, *argv: object, first: str = "", env: dict[str, str] | None = None) -> Started:
        self.count += 1
        folder = self.folder / f"{self.count}"
        folder.mkdir()
        for name in ("out", "err"):
            (folder / name).touch()
        request = {"argv": [str(a) for a in argv], "out": str(folder / "out"), "err": str(folder / "err"), "env": env or {}, "first": first, "cwd": str(folder)}
        return Started(self, self.ask(request)["pid"], folder)

    def run(self, *argv: object, first: str = "", env: dict[str, str] | None = None) -> Done:
        return self.start(*argv, first=first, env=env).wait()


@pytest.fixture(scope="session")
def cli(tmp_path_factory):
    """`cli.run("distill", "digits", ...)`, or `cli.start(...)` for one to be killed."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    server = Server(tmp_path_factory.mktemp("cli"))
    yield server
    server.process.kill()
    server.process.wait()
