"""Everything that decides a distillation, and therefore its bytes: what recipe.lock keeps and `--from` repeats."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from .errors import BadInput
from .text import safe


@dataclass(frozen=True)
class Job:
    """source        a path or name, None for data given in memory      label, side, flip, val, test, seed    how it is read and split
    method, preset, settings   a method's name and its hyper-parameters  ipc, size, ratio, bytes         the budget
    threads          CPU threads, which decide the last bits of a float  fingerprint    of the real training data, once known
    """

    source: str | None
    label: str | None = None
    side: int | None = None
    flip: bool = True
    val: float = 0.1
    test: float = 0.2
    seed: int = 0
    method: str = "dm"
    preset: str = "auto"
    settings: Mapping[str, Any] = field(default_factory=dict)
    ipc: int | str | Mapping[str, int] | None = None
    size: int | None = None
    ratio: float | None = None
    bytes: int | None = None
    device: str = "cpu"
    threads: int | None = None
    fingerprint: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lock(self, sha256: str) -> bytes:
        """The text of recipe.lock: the job, the versions it ran with and the sha256 it came to."""
        return json.dumps({"job": self.to_json(), "packages": packages(), "sha256": sha256}, indent=1).encode()

    @classmethod
    def from_lock(cls, path: str | Path) -> tuple[Job, str]:
        """(job, the sha256 it came to) from a recipe.lock."""
        try:
            kept = json.loads(Path(path).read_bytes())
            known = {f.name for f in fields(cls)}
            return replace(cls(None), **{k: v for k, v in kept["job"].items() if k in known}), str(kept["sha256"])
        except FileNotFoundError as error:
            raise BadInput(f"no file {safe(path)}", "the recipe.lock of an artifact") from error
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise BadInput(f"{safe(path)} is no recipe.lock ({type(error).__name__})", "the recipe.lock of an artifact") from error


def packages() -> dict[str, str]:
    """The versions that decide a result."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("datadistill", "torch", "numpy", "scikit-learn", "pillow", "pandas", "pyarrow", "safetensors"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
