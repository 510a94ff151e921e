"""Ridge regression as a differentiable layer: what a linear model fitted to S says of other examples."""

from __future__ import annotations

import torch
from torch import Tensor


def predict(queries: Tensor, features: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """(m, outputs) queries @ W, where W minimises ||features W - targets||^2 + ridge ||W||^2; solved in the space of examples. NaN where
    there is not one such W, as `kernel.dual`.

    queries (m, d)      features (n, d)      targets (n, outputs); differentiable in all of them
    """
    gram = features @ features.T + ridge * torch.eye(len(features)).to(features)
    solved, failed = torch.linalg.solve_ex(gram, targets)
    return queries @ (features.T @ torch.where(failed > 0, torch.nan, solved))
