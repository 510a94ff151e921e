"""The same work again and again: on a GPU it is recorded once, as a CUDA graph, and then replayed.

A small net on a GPU waits for Python, which launches its kernels one by one. A recording is launched as a whole. What may be recorded
is maths: the same kernels at every call, no look at a number, nothing fetched from the host on the way. So whatever is drawn is drawn
before, and goes in; `sent` takes it there without waiting. On other devices nothing is recorded, and the work is simply done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map_only, tree_unflatten

T = TypeVar("T")


def sent(t: Tensor, device: torch.device | str) -> Tensor:
    """t on the device. From the host to a GPU the host does not wait for it; inside a recording that would be a mistake, and raises."""
    device = torch.device(device)
    if device.type != "cuda" or t.device.type != "cpu":
        return t.to(device)
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError("fetched from the host inside a recording")
    return t.pin_memory().to(device, non_blocking=True)


def abreast(works: Sequence[Callable[[], T]], streams: int = 4) -> list[T]:
    """What each of these gives, none of which needs another: inside a recording on several streams, where small kernels fill what large ones leave."""
    if not torch.cuda.is_available() or not torch.cuda.is_current_stream_capturing():
        return [work() for work in works]
    here, found = torch.cuda.current_stream(), []
    beside = [torch.cuda.Stream() for _ in works[:streams]]
    for stream in beside:
        stream.wait_stream(here)
    for k, work in enumerate(works):
        with torch.cuda.stream(beside[k % streams]):
            found.append(work())
    for stream in beside:
        here.wait_stream(stream)
    return found


def there(given: Any, device: torch.device | str) -> Any:
    """All tensors in it on the device."""
    return tree_map_only(Tensor, lambda t: sent(t, device), given)


class Replay:
    """work(*given) -> tensors, nested as one likes, that hold until the next call; `given` too may be nested, on the host or the device.

    What else `work` uses must stay where it is (nets whose weights are changed in place). Whatever cannot be recorded is done as it stands, and `notes` (the caller's list) says why.
    """

    def __init__(self, work: Callable[..., Any], device: torch.device | str, notes: list[str] | None = None):
        self.work, self.device = work, torch.device(device)
        self.notes = [] if notes is None else notes
        self._seen: set[Any] = set()
        self._recordings: dict[Any, _Recording | None] = {}  # by shapes; none for what cannot be recorded

    def __call__(self, *given: Any) -> Any:
        if self.device.type != "cuda":
            return self.work(*given)
        leaves, form = tree_flatten(given)
        key = repr(form), tuple((t.shape, t.dtype, t.device.type) if isinstance(t, Tensor) else t for t in leaves)
        ready = key in self._seen and _get_current_dispatch_mode() is None  # libraries prepare themselves at a first call; a counter wants every operation
        self._seen.add(key)
        if ready and key not in self._recordings:
            self._recordings[key] = self._record(leaves, form)
        if ready and (recording := self._recordings[key]) is not None:
            return recording(leaves)
        return self.work(*there(given, self.device))

    def _record(self, leaves: list[Any], form: TreeSpec) -> _Recording | None:
        stream = torch.cuda.current_stream(self.device)
        try:
            return _Recording(self.work, leaves, form, self.device)
        except RuntimeError as error:
            torch.cuda.set_stream(stream)
            torch.cuda.synchronize(self.device)
            self.notes.append(f"not recorded for the GPU, step by step instead, results unchanged: {str(error).splitlines()[0]}")
            return None


class _Recording:
    """A graph, the tensors it reads, and those it writes. What comes from the host lies end to end, so that it is one copy."""

    def __init__(self, work: Callable[..., Any], leaves: list[Any], form: TreeSpec, device: torch.device):
        self.host: dict[torch.dtype, tuple[list[int], Tensor]] = {}  # dtype: which leaves, and where they lie
        own = list(leaves)
        for k, t in enumerate(leaves):
            if isinstance(t, Tensor) and t.device.type == "cpu":
                self.host.setdefault(t.dtype, ([], torch.empty(0)))[0].append(k)
            elif isinstance(t, Tensor):
                own[k] = torch.empty_like(t, memory_format=torch.contiguous_format)
        for dtype, (which, _) in list(self.host.items()):
            room = torch.empty(sum(leaves[k].numel() for k in which), dtype=dtype, device=device)
            self.host[dtype] = which, room
            for k, part in zip(which, room.split([leaves[k].numel() for k in which]), strict=True):
                own[k] = part.view(leaves[k].shape)
        self.own = own
        self.there = [k for k, t in enumerate(leaves) if isinstance(t, Tensor) and t.device.type != "cpu"]
        self._take(leaves)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.out = work(*tree_unflatten(own, form))

    @torch.no_grad()
    def _take(self, leaves: list[Any]) -> None:
        for which, room in self.host.values():
            room.copy_(torch.cat([leaves[k].reshape(-1) for k in which]).pin_memory(), non_blocking=True)
        if self.there:
            torch._foreach_copy_([self.own[k] for k in self.there], [leaves[k].detach() for k in self.there])

    def __call__(self, leaves: list[Any]) -> Any:
        self._take(leaves)
        self.graph.replay()
        return self.out


def differentiable(work: Callable[..., Tensor], device: torch.device | str, notes: list[str] | None = None) -> Callable[..., Tensor]:
    """work(given, *inputs) -> a scalar. The same, differentiable by its floating-point inputs; where it is recorded, so are these slopes."""
    if torch.device(device).type != "cuda":
        return work

    def slopes(given: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in inputs]
            value = work(given, *leaves)
        return value.detach(), *torch.autograd.grad(value, leaves)

    replay = Replay(slopes, device, notes)

    def found(given: Any, *inputs: Tensor) -> Tensor:
        return _Known.apply(replay, given, *inputs) if torch.is_grad_enabled() else work(there(given, device), *inputs)

    return found


class _Known(torch.autograd.Function):
    """A value whose slopes came with it."""

    @staticmethod
    def forward(ctx, replay: Replay, given: Any, *inputs: Tensor) -> Tensor:
        value, *ctx.slopes = (t.clone() for t in replay(given, *inputs))
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g: Tensor):
        return None, None, *(g * slope for slope in ctx.slopes)
