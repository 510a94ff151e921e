"""In what precision nets compute."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]
"""Of convolutions and linear maps; auto: bfloat16 where the device has instructions for it. Sums, norms and losses stay in float32."""


def in_halves(precision: Precision, device: torch.device) -> bool:
    """Whether to work in bfloat16."""
    if precision == "auto":
        cpu = torch.cpu
        return device.type == "cuda" or device.type == "cpu" and any(getattr(cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return precision == "bfloat16"


def computing(precision: Precision, device: torch.device) -> torch.autocast:
    """Within it nets compute in this precision; what comes out may be bfloat16."""
    return torch.autocast(device.type, torch.bfloat16, enabled=in_halves(precision, device))


def training(device: torch.device) -> torch.autocast:
    """Within it teachers and backbones compute: bfloat16 on a GPU, and float32 on a CPU, where what is trained does not depend on its instructions."""
    return computing("bfloat16" if device.type == "cuda" else "float32", device)
