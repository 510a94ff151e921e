"""Where a run keeps what it may need again: snapshots, what is cached, finished units. On a disk that is `store.Workspace`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from .costs import COST

State = dict[str, Any]


class Snapshots(Protocol):
    """Where a run keeps its snapshots and its cache; `store.Workspace` on a disk, `Nowhere` in a test."""

    def save(self, state: State) -> None: ...
    def load(self) -> State | None: ...
    def cached(self, name: str, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]: ...
    def part(self, name: str) -> Part: ...


class Part(Snapshots, Protocol):
    """The same for one unit of a run: `save` and `load` while it is in hand, `keep` when it is finished, after which `kept` has it."""

    def keep(self, data: bytes) -> None: ...
    def kept(self) -> bytes | None: ...


class Nowhere:
    """No disk: nothing is resumed, nothing is cached beyond this object."""

    def __init__(self) -> None:
        self._cache: dict[tuple[str, str], dict[str, Tensor]] = {}

    def save(self, state: State) -> None: ...

    def load(self) -> State | None:
        return None

    def cached(self, name: str, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        if (name, key) not in self._cache:
            self._cache[name, key] = make()
        return self._cache[name, key]

    def bytes(self) -> dict[str, int]:
        """What is cached under each name, without what is told of its cost."""
        found: dict[str, int] = {}
        for (name, _), entry in self._cache.items():
            found[name] = found.get(name, 0) + sum(t.nbytes for part, t in entry.items() if part != COST)
        return found

    def part(self, name: str) -> Nowhere:
        return self

    def keep(self, data: bytes) -> None: ...

    def kept(self) -> None:
        return None


class Aside(Nowhere):
    """In a worker: the cache of its machine, and no snapshots."""

    def __init__(self, snapshots: Snapshots):
        self._snapshots = snapshots

    def cached(self, name: str, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        return self._snapshots.cached(name, key, make)
