"""Work in pieces that fit: when one runs out of memory it is halved, and the sum of the pieces stays the same."""

from __future__ import annotations

import resource
import sys
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from .errors import Resources

T = TypeVar("T")


class Pieces:
    """A batch limit that only ever shrinks. `limit` examples at once; `notes` (the caller's list, or its own) says when and why it was halved."""

    def __init__(self, limit: int, name: str = "batch", notes: list[str] | None = None):
        self.limit, self.name = limit, name
        self.notes = [] if notes is None else notes

    def map(self, n: int, work: Callable[[slice], T]) -> list[T]:
        """`work` on consecutive slices that cover range(n). It must change nothing outside, since it is called again, on
        half as much, when memory runs out; at one example there is nothing left to halve (Resources, exit 5).
        """
        done: list[T] = []
        at = 0
        while at < n:
            piece = slice(at, min(at + self.limit, n))
            try:
                done.append(work(piece))
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
            else:
                at = piece.stop
                continue
            self._halve(piece.stop - piece.start)  # only here has the error, and with it the failed piece's memory, been let go
        return done

    def _halve(self, size: int) -> None:
        if size <= 1:
            raise Resources(f"out of memory with a {self.name} of one example", fix="a smaller net, smaller examples, or a machine with more memory")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.notes.append(f"out of memory: {self.name} {size} -> {size // 2}, results unchanged")
        self.limit = size // 2


def out_of_memory(error: BaseException) -> bool:
    """Whether this is memory running out, on any device."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error) or "out of memory" in str(error).lower()


class Live(TorchDispatchMode):
    """Counts the bytes of tensors that are made within it: of those alive, and `most` at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.most = 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in tree_iter(out):
            if isinstance(t, Tensor) and (key := (storage := t.untyped_storage())._cdata) not in self._known:
                self._known.add(key)
                self._add(storage.nbytes())
                weakref.finalize(storage, self._freed, key, storage.nbytes())
        return out

    def _add(self, n: int) -> None:
        self.alive += n
        self.most = max(self.most, self.alive)

    def _freed(self, key: int, n: int) -> None:
        self._known.discard(key)
        self.alive -= n


def peak_bytes(device: torch.device | str = "cpu") -> int:
    """The most memory this process has held: on the GPU if that is where it works, else resident on the host."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
