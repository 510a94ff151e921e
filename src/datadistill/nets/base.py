"""What every net offers: `embed` (the features before the head, flattened) and `forward` (logits)."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..replay import sent


class Net(nn.Module):
    """family: its name; axes: how many axes an example may have; batch_norm: whether its statistics mix a batch."""

    family: ClassVar[str]
    axes: ClassVar[tuple[int, ...]]
    batch_norm: ClassVar[bool] = False
    head: nn.Linear
    size: dict[str, int]  # what it was built with, where that is not its family's own

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """(n, *shape) -> (n, features): psi of the papers."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, *shape) -> (n, classes) logits."""
        return self.head(self.embed(x))


class ChannelsLast(nn.Module):
    """From here on channels lie innermost in memory: convolutions with few channels and batch norm are faster so. No number changes."""

    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def initialise_(net: nn.Module, rng: torch.Generator) -> None:
    """PyTorch's own defaults (uniform in 1/sqrt(fan in) for weights and biases, ones and zeros for norms), drawn from `rng`; embeddings
    are normal with a deviation of 0.02, as transformers have them. Drawn in float32, whatever they are kept in."""

    def uniform(t: Tensor, bound: float) -> None:
        t.copy_(torch.empty(t.shape).uniform_(-bound, bound, generator=rng))

    for module in net.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            bound = 1 / math.sqrt(module.weight[0].numel())
            uniform(module.weight, bound)
            if module.bias is not None:
                uniform(module.bias, bound)
        elif isinstance(module, nn.Embedding):
            module.weight.copy_(torch.empty(module.weight.shape).normal_(0, 0.02, generator=rng))
        elif isinstance(module, (nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)):
            module.reset_parameters()


@torch.no_grad()
def take_(net: nn.Module, other: nn.Module) -> None:
    """Give a net the weights of another of its kind, in place and in one piece: between devices, one copy."""
    own, others = list(net.parameters()), [p.detach().reshape(-1) for p in other.parameters()]
    flat = sent(torch.cat(others), own[0].device)
    torch._foreach_copy_(own, [part.view(p.shape) for p, part in zip(own, flat.split([o.numel() for o in others]), strict=True)])


@torch.no_grad()
def largest_activation(net: nn.Module, shape: tuple[int, ...]) -> int:
    """Bytes of the largest tensor that any layer makes of one example; the net is run once, on a copy without numbers."""
    net = copy.deepcopy(net).to("meta", torch.float32).eval()
    sizes = [4 * math.prod(shape)]

    def see(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel() * output.element_size())

    for module in net.modules():
        module.register_forward_hook(see)
    net(torch.empty((1, *shape), device="meta"))
    return max(sizes)
