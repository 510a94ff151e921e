"""The test split, sealed: it can be read once per training seed, and a second read voids the run."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..data.task import Real
from ..errors import SecondTestRead


class Sealed:
    """Wraps the test split; the only way to it is `read(seed)`. `reads` counts them by seed."""

    def __init__(self, test: Real):
        self.__test = test
        self.size = len(test)
        self.reads: dict[int, int] = {}

    def read(self, seed: int, batch: int = 512) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches (x in network space, labels) of the whole split, for one seed, once."""
        self.reads[seed] = self.reads.get(seed, 0) + 1
        if self.reads[seed] > 1:
            raise SecondTestRead(
                f"the test split was read {self.reads[seed]} times for seed {seed}",
                "one read for each training seed, after all choices are made",
                "choose on validation data; this run is void",
            )
        return self._batches(batch)

    def _batches(self, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.arange(len(self.__test)).split(batch):
            yield self.__test.read(rows), self.__test.labels[rows]
