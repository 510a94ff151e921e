"""What the benchmarks share: the machine in words, CPU seconds on a fixed number of threads, peak memory, the reference setting.

Every measurement runs in a process of its own (`child`), so that memory and the allocator's state are its own too. CPU seconds
of this process are the figure to trust: other work on the machine changes them far less than the time on the wall.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine() -> dict:
    """Processor, threads and versions, and how busy the machine was."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {' '.join(platform.libc_ver())}",
        "load": [round(x, 1) for x in os.getloadavg()],
    }


class Peak:
    """Resident memory of this process: `base` at entry, once what is free was given back, and `peak` until exit, in MiB, looked at every 5 ms."""

    def __enter__(self) -> Peak:
        gc.collect()
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
        self.base = self.peak = _resident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._stop.wait(0.005):
            self.peak = max(self.peak, _resident())

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


def _resident() -> float:
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def seconds(work, n: int, warm: int = 1) -> list[float]:
    """CPU seconds of each of n calls, after some that are not counted."""
    for _ in range(warm):
        work()
    times = []
    for _ in range(n):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return times


def matrix_product(n: int = 2048) -> float:
    """GFLOP per second of CPU that a product of two n x n matrices reaches: the yardstick for the rate of a step."""
    import torch

    a, b = torch.randn(n, n), torch.randn(n, n)
    return 2 * n**3 / min(seconds(lambda: a @ b, 4)) / 1e9


def middle(values: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 4), "least": round(min(values), 4), "n": len(values)}


def child(script: str, *args: object, tune: bool = True, env: dict[str, str] | None = None, limit: float | None = None) -> dict:
    """Run `script --child args` in a fresh process, for `limit` seconds at most, and read the JSON of its last line."""
    env = {**os.environ, **(env or {}), "DATADISTILL_MALLOC": "on" if tune else "off"}
    found = subprocess.run([sys.executable, script, "--child", *map(str, args)], env=env, stdout=subprocess.PIPE, text=True, check=True, timeout=limit)
    return json.loads(found.stdout.splitlines()[-1])


def attempt(script: str, *args: object, limit: float) -> dict:
    """What `child` finds, or why it found nothing: {"failed": ...}."""
    try:
        return child(script, *args, limit=limit)
    except subprocess.TimeoutExpired:
        return {"failed": f"took more than {limit:.0f} seconds"}
    except subprocess.CalledProcessError as error:
        return {"failed": f"ended with exit code {error.returncode}"}


def write(name: str, result: dict) -> None:
    """results/NAME.json, with the command that made it."""
    RESULTS.mkdir(exist_ok=True)
    command = " ".join([*(f"{k}={os.environ[k]}" if k != "PEERS" else "PEERS=..." for k in ("OMP_NUM_THREADS", "PEERS") if k in os.environ), "python", *sys.argv])
    text = json.dumps({"command": command, "machine": machine(), **result}, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(text)


DATA = Path(os.environ.get("DATADISTILL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
MADE = Path(os.environ.get("DATADISTILL_BENCH", Path(tempfile.gettempdir()) / "datadistill-bench"))


def sized(text: str) -> tuple[str, int | None]:
    """DATA[:SIDE]: the name of the data, and the side that its pictures are made."""
    name, _, side = text.partition(":")
    return name, int(side) if side else None


def made_set(source: str, side: int | None, ipc: int, method: str, seed: int) -> Path:
    """Where the benchmarks keep a set that was distilled with quick settings; the method's name may carry its other settings."""
    return MADE / "sets" / f"{Path(source).stem}{side or ''}-{ipc}-{method}-{seed}"


def real(name: str) -> tuple[str, str | None]:
    """(a source that `datadistill distill` reads, its label column) of a set in DATA, or of digits, which need none; what is kept
    in other ways is written as npz once: pictures, series of equal length and the fingerprints of molecules as rows.
    """
    import io

    import numpy as np
    from PIL import Image

    def pixels(picture: Any) -> np.ndarray:
        return np.asarray(Image.open(picture).convert("RGB"))

    if name == "digits":
        return name, None
    if name == "cifar10":  # sheets of 50 x 50 pictures

        def split(part: str) -> tuple[np.ndarray, np.ndarray]:
            y = np.load(DATA / name / "labels.npz")[f"{part}_labels"]
            sheets = [pixels(DATA / name / f"{part}_{k:02d}.webp") for k in range(len(y) // 2500)]
            return np.concatenate([s.reshape(50, 32, 50, 32, 3).swapaxes(1, 2).reshape(2500, 32, 32, 3) for s in sheets]), y

    elif (DATA / name / f"{name}.npz").exists() and "train_jpeg" in (kept := np.load(DATA / name / f"{name}.npz")):  # files end to end

        def split(part: str) -> tuple[np.ndarray, np.ndarray]:
            whole, ends = kept[f"{part}_jpeg"].tobytes(), kept[f"{part}_offsets"]
            return np.stack([pixels(io.BytesIO(whole[a:b])) for a, b in itertools.pairwise(ends)]), kept[f"{part}_labels"]

    elif (series := DATA / "ucr_uea" / f"{name}.npz").exists():

        def split(part: str) -> tuple[np.ndarray, np.ndarray]:
            kept = np.load(series)
            return kept[f"{part}_X"].reshape(len(kept[f"{part}_y"]), -1), kept[f"{part}_y"]

    elif (molecules := DATA / "molecules" / f"{name}.npz").exists():

        def split(part: str) -> tuple[np.ndarray, np.ndarray]:
            kept = np.load(molecules)
            rows = kept["split"] == {"train": 0, "test": 2}[part]
            return np.unpackbits(kept["morgan1024_packed"][rows], axis=1), kept["labels"][rows]

    else:
        return str(DATA / name), {"adult": "income"}.get(name)
    made = MADE / f"{name}.npz"
    if not made.exists():
        MADE.mkdir(parents=True, exist_ok=True)
        arrays = {f"{kind}_{part}": a for part in ("train", "test") for kind, a in zip("xy", split(part), strict=True)}
        np.savez(made.with_suffix(".part.npz"), **arrays)
        made.with_suffix(".part.npz").rename(made)
    return str(made), None


def reference_task(ipc: int = 10, per_class: int = 1000):
    """Random pixels in the shape of the reference setting: 3x32x32, 10 classes. The cost does not depend on what is on them."""
    import torch

    from datadistill.data.task import Budget, Real, Task
    from datadistill.modalities import Image
    from datadistill.rng import rng

    n = 10 * per_class
    stored = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=rng(0, "pixels"))
    labels = torch.arange(n) % 10
    real = Real(stored, labels, Image(Image.spec_of(stored, tuple(map(str, range(10))), mode="RGB")))
    return Task.of(real, real.subset(torch.arange(100)), Budget(ipc=ipc))


def threads(n: int) -> None:
    import torch

    torch.set_num_threads(n)
