"""Students, teachers and embeddings: plain modules that take network-space input, built with named randomness.

`build("convnet", spec, rng)` gives a `Net`; a family's sizes are keyword arguments (`width=128`). The nets of the papers, by their defaults:

    convnet     ConvNet-3 (ConvNet-4 for a side of 64): width 128        resnet18   ResNet-18: width 64, blocks 2-2-2-2
    vgg         VGG-11 with batch norm: width 64 (64, 128, 256, 512)     vit        ViT-small: width 384, depth 12
    mlp         two hidden layers of width 128                           resnet     the narrow ResNet of width 16, blocks 1-1-1, for a CPU
    resnet18-224, resnet34-224, resnet50-224     torchvision's, for pictures of about that side
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from ..spec import Spec
from .base import Net, initialise_, largest_activation, take_
from .convnet import VGG, ConvNet
from .mlp import MLP, Linear, TabResNet
from .published import PUBLISHED
from .resnet import ResNet, ResNet18
from .vit import ViT

FAMILIES: dict[str, type[Net]] = {net.family: net for net in (ConvNet, ResNet, VGG, MLP, Linear, TabResNet, ResNet18, ViT, *PUBLISHED)}


def build(family: str, spec: Spec, rng: torch.Generator, **size: Any) -> Net:
    """A freshly initialised net of a family for examples of `spec`, in train mode, its weights drawn from `rng`."""
    if family not in FAMILIES:
        raise UsageError(f"no net family {family!r}", f"one of {', '.join(FAMILIES)}")
    kind = FAMILIES[family]
    if len(spec.shape) not in kind.axes:
        raise UsageError(f"net family {family!r} cannot take examples of shape {spec.shape}", f"{' or '.join(map(str, kind.axes))} axes")
    with torch.device("meta"):
        net = kind(spec.shape, len(spec.classes), **size)
    net.to_empty(device="cpu")
    initialise_(net, rng)
    net.size = dict(size)
    return net


def restore(spec: Spec, family: str, size: dict[str, Any], state: dict[str, Tensor]) -> Net:
    """A frozen net in eval mode with these weights, which are not copied; ValueError, TypeError or RuntimeError for what does not fit, before
    anything of its size is made.
    """
    if family not in FAMILIES or len(spec.shape) not in FAMILIES[family].axes or any(type(n) is not int or not 1 <= n <= 4096 for n in size.values()):
        raise ValueError("no such net")
    with torch.device("meta"):
        net = FAMILIES[family](spec.shape, len(spec.classes), **size)
    net.load_state_dict(state, assign=True)
    net.size = dict(size)
    return net.eval().requires_grad_(False)


def parameter_count(net: torch.nn.Module) -> int:
    """How many numbers the net learns."""
    return sum(math.prod(p.shape) for p in net.parameters())


__all__ = ["FAMILIES", "Net", "build", "initialise_", "largest_activation", "parameter_count", "restore", "take_"]
