# SPDX-License-Identifier: Apache-2.0
"""Batches side by side: on a CPU small networks run faster as several batches than with several threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from tqdm import tqdm

from ldae.pipeline.networks import Networks

Item = TypeVar("Item")
Result = TypeVar("Result")

# Each holds the activations of a batch of its own.
MOST_WORKERS = 4


def count_workers(networks: Networks) -> int:
    """How many batches run side by side: one on a GPU, or with scans so large that a batch is one."""
    if networks.device.type != "cpu":
        return 1
    return min(torch.get_num_threads(), MOST_WORKERS, networks.volume_batch)


def side_by_side(
    compute: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    networks: Networks,
    name: str,
    progress: bool = False,
) -> list[Result]:
    """What `compute` makes of each item, in their order.

    Args:
        compute: Works on one batch.
        items: The batches.
        networks: What it computes with.
        name: Title of the bar.
        progress: Show a bar.
    """
    threads = torch.get_num_threads()
    workers = count_workers(networks)

    def work(item: Item) -> Result:
        torch.set_num_threads(threads // workers)  # holds for the calling thread only
        return compute(item)

    try:
        with ThreadPoolExecutor(workers) as pool:
            return list(tqdm(pool.map(work, items), total=len(items), desc=name, disable=not progress))
    finally:
        torch.set_num_threads(threads)
