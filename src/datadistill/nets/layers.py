"""What the layers of a net say on their way to the logits."""

from __future__ import annotations

from torch import Tensor, nn

from .base import Net


def hidden(net: Net, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """(the outputs of its ReLU modules, first to last, as they are shaped; the features (n, features) before the head)."""
    said: list[Tensor] = []
    hooks = [module.register_forward_hook(lambda module, given, out: said.append(out)) for module in net.modules() if isinstance(module, nn.ReLU)]
    try:
        features = net.embed(x)
    finally:
        for hook in hooks:
            hook.remove()
    return said, features
