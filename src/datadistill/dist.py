"""Collectives that do nothing on one rank. With a torch.distributed group they sum gradients and gather lists."""

from __future__ import annotations

import torch
import torch.distributed as td
from torch import Tensor


def rank() -> int:
    """Which of `ranks` processes this is; 0 when there is one."""
    return td.get_rank() if td.is_available() and td.is_initialized() else 0


def ranks() -> int:
    """How many processes work together."""
    return td.get_world_size() if td.is_available() and td.is_initialized() else 1


def sum_(tensors: list[Tensor]) -> None:
    """Add each tensor over all ranks, in place."""
    if ranks() > 1 and tensors:
        flat = torch.cat([t.reshape(-1) for t in tensors])
        td.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))
