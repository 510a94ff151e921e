"""A Ray cluster: each unit a task, which Ray begins again elsewhere when its worker or its machine dies.

Nothing but Ray has to be shared between the machines: what a unit needs travels to the worker through Ray's object store, and what it
comes to travels back, as bytes, to the driver, which keeps it on its disk. So the driver's machine needs the data and the folder of the
output, and the others need the same packages; only data that are too large to hold, and so are read from a file in the cache, have to be
seen by all. Functions travel as Ray packs them; no file of that kind is ever written.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from ..errors import Resources
from ..extras import need
from ..text import safe
from . import TRIES, given_up

TICK = 0.2  # seconds between two looks at whether the run is to stop
STORE = 256 << 20
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_task_oom_retries": str(TRIES - 1)}


class Ray:
    """`workers` units at a time, each on as many CPUs as the run has threads, and on a GPU where the run is on one.

    address   "auto" or HOST:PORT; none: a cluster of this process alone is started, with as many workers as asked
    store     bytes of memory that it has for objects, beyond which Ray spills to the disk
    """

    def __init__(self, workers: int | None = None, address: str | None = None, store: int = STORE):
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        self.ray = need("ray", "ray")
        import torch

        self.threads, self._asked = torch.get_num_threads(), workers
        address = _whole(address)
        here = {"num_cpus": (workers or os.cpu_count() or 1) * self.threads, "object_store_memory": store, "include_dashboard": False}
        try:
            with _own_signals():
                self.ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **(here if address is None else {}))
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise _nobody(address or "this machine", error) from error

    @property
    def workers(self) -> int:
        """How many units at a time: as asked, else as many as the cluster has room for at the moment."""
        return self._asked or max(1, int(self.ray.cluster_resources().get("CPU", 1)) // self.threads)

    def map(self, work: Callable[[Any], bytes], items: Iterable[tuple[int, Any]], check: Callable[[], None]) -> Iterator[tuple[int, bytes]]:
        gpus = int(str(getattr(work, "device", "cpu")).startswith("cuda"))
        task = self.ray.remote(_unit).options(num_cpus=self.threads, num_gpus=gpus, max_retries=TRIES - 1)
        held, waiting = self.ray.put(work), iter(items)
        running: dict[Any, int] = {}
        while True:
            for number, item in islice(waiting, max(0, self.workers - len(running))):
                running[task.remote([held], item)] = number
            if not running:
                return
            for ref in self.ray.wait(list(running), timeout=TICK)[0]:
                number = running.pop(ref)
                yield number, self._get(ref, number)
            check()

    def _get(self, ref: Any, number: int) -> bytes:
        try:
            return self.ray.get(ref)
        except self.ray.exceptions.RayTaskError as error:  # before or after the unit's own work, which tells its errors itself
            raise Resources(
                f"unit {number} could not be begun by its worker: {safe(error.cause, 500)}",
                "the same packages on every machine; for data that are read from a file (above 256 MiB), that file under the same path",
                "the cache, DATADISTILL_CACHE, in a folder that all machines see",
            ) from error
        except self.ray.exceptions.RayError as error:
            raise given_up(number, safe(type(error).__name__)) from error

    def close(self) -> None:
        """Leave the cluster, and end it where it was ours. Units in hand end too: a cluster keeps no worker of a driver that left.

        They are not cancelled when a run stops, because Ray's cancelling, with force or without, ends the driver when it meets a unit
        that has just finished (ray-project/ray, pull request 54798, tells of that race; 2.60 still has it).
        """
        with _own_signals():
            self.ray.shutdown()


def _whole(address: str | None) -> str | None:
    """HOST as HOST:PORT, if somebody answers there: Ray itself would try for minutes, and then end the process."""
    if address is None or address == "auto":
        return address
    host, _, port = address.rpartition(":") if ":" in address else (address, "", "6379")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _nobody(address, error) from error
    return f"{host}:{port}"


def _nobody(address: str, error: Exception) -> Resources:
    return Resources(f"no Ray cluster at {safe(address)}: {safe(error, 300)}", "auto, or HOST:PORT of one that runs", "`ray start --head` there, or no --address: then one is started here")


_work: dict[str, Callable[[Any], bytes]] = {}


def _unit(held: list[Any], item: Any) -> bytes:
    """What a task does: the stage's work is fetched once per worker, not once per unit."""
    import ray

    name = held[0].hex()
    if name not in _work:
        _work.clear()
        _work[name] = ray.get(held[0])
    return _work[name](item)


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ray puts a handler of its own on SIGTERM; ours saves first."""
    before = signal.getsignal(signal.SIGTERM) if threading.current_thread() is threading.main_thread() else None
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
