# SPDX-License-Identifier: Apache-2.0
"""Which scans come when, and in which of several processes that train together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import DistributedSampler

from ldae.data.augmentation import Drawn


class _Places(DistributedSampler[int]):
    """Lightning leaves a distributed sampler as it is, where it would put its own in the place of others."""

    def __init__(self, size: int, *, rank: int, ranks: int) -> None:
        # torch's own reads nothing but the length of the data
        super().__init__(range(size), num_replicas=ranks, rank=rank, drop_last=True)  # type: ignore[arg-type]
        self.size = size


class EpochSampler(_Places):
    """A permutation that depends on seed and epoch alone, so that a resumed run sees the same order.

    Of several processes each takes every n-th scan, so that their batches together are those of one process;
    scans that do not go round are left out.

    Args:
        size: Number of scans.
        seed: Seed of the order.
        rank: This process.
        ranks: Number of processes.
    """

    def __init__(self, size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> None:
        super().__init__(size, rank=rank, ranks=ranks)
        self.seed = seed
        self.seen: tuple[int, int] = (0, 0)

    def go_on(self, epoch: int, seen: int) -> None:
        """Begin with this epoch, whose first scans all processes of a run that was interrupted have seen."""
        self.epoch, self.seen = epoch, (epoch, seen)

    def __len__(self) -> int:
        return self.size // self.num_replicas

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size)
        own = order[self.rank :: self.num_replicas][: len(self)]
        epoch, seen = self.seen
        return iter(own[seen // self.num_replicas if epoch == self.epoch else 0 :].tolist())


class DrawSampler(EpochSampler):
    """The same, with the epoch beside every place: what loader processes draw for a scan depends on both."""

    def __iter__(self) -> Iterator[Any]:
        return (Drawn(self.epoch, place) for place in super().__iter__())


class TurnSampler(_Places):
    """Every scan once, in its order; each process takes every n-th, and some may have one more than others.

    Args:
        size: Number of scans.
        rank: This process.
        ranks: Number of processes.
    """

    def __len__(self) -> int:
        return len(range(self.rank, self.size, self.num_replicas))

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rank, self.size, self.num_replicas))
