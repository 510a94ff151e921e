"""Python objects: (X, y), ((X, y), (X_test, y_test)), and dicts of arrays or of splits. What the caller owns is never changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..errors import BadInput
from ..text import safe
from . import arrays
from .raw import SPLIT_WORDS, Ask, Raw

EXPECTED = "(X, y), ((X_train, y_train), (X_test, y_test)), {'x_train': .., 'y_train': .., 'x_test': .., 'y_test': ..} or {'train': .., 'test': ..}"


def read_pair(source: tuple | list, ask: Ask) -> Raw:
    """(X, y), or pairs for train and test, as Keras gives them."""
    if len(source) == 2 and all(isinstance(part, tuple) and len(part) == 2 and hasattr(part[0], "shape") for part in source):
        return read_mapping({"train": source[0], "test": source[1]}, ask)
    if len(source) != 2:
        raise BadInput(f"a {type(source).__name__} of {len(source)} things", EXPECTED)
    return read_mapping({"train": tuple(source)}, ask)


def read_mapping(source: Mapping[str, Any], ask: Ask) -> Raw:
    """Arrays by name, or splits by name (each a pair, a data frame or a torch Dataset)."""
    names = list(source)
    if not all(isinstance(name, str) for name in names):
        raise BadInput("a dict with keys that are no text", EXPECTED)
    if not names or not all(name.lower() in SPLIT_WORDS for name in names):
        return arrays.of_mapping("arrays", {name: _view(source[name]) for name in names}, ask)
    splits = {SPLIT_WORDS[name.lower()]: source[name] for name in names}
    if "train" not in splits:
        raise BadInput(f"splits {', '.join(safe(n) for n in names)}", "a 'train' among them")
    if all(type(part).__module__.startswith("pandas") for part in splits.values()):
        from . import table

        return table.of_frames(splits, ask)
    if all(isinstance(part, (tuple, list)) and len(part) == 2 for part in splits.values()):
        pairs = {split: tuple(part) for split, part in splits.items()}
        if all(hasattr(x, "columns") for x, _ in pairs.values()):
            from . import table

            return table.of_frames_and_labels(pairs, ask)
        labels = {split: arrays.label_vector(y, "y") for split, (_, y) in pairs.items()}
        return arrays.of_parts("arrays", {split: _view(x) for split, (x, _) in pairs.items()}, labels, ask)
    from . import items

    return items.read_splits(splits, ask)


def _view(x: Any) -> Any:
    """As numpy, but owning nothing: so that readers copy it instead of using it up. Tensors stay tensors (their channels come first)."""
    if isinstance(x, torch.Tensor):
        return x
    try:
        return np.asarray(x).view()
    except ValueError as error:  # ragged lists
        raise BadInput(f"lists of different lengths ({safe(error)})", "arrays") from error
