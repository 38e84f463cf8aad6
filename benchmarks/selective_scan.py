# SPDX-License-Identifier: Apache-2.0
"""How long the chunked selective scan takes against one token after the other, in turns in one process.

    python benchmarks/selective_scan.py

The lengths are those of MedMamba-T's four stages on slices of 128 x 160 pixels, with its channels and states.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ldae.nets.selective_scan import selective_scan, sequential_scan

PATHS, STATES = 4, 16
STAGES = {1280: 96, 320: 192, 80: 384, 20: 768}
"""Tokens and inner channels of each stage."""


def material(*, slices: int, tokens: int, channels: int) -> list[Tensor]:
    """x, delta, a, b, c as a new network has them, as leaves."""
    shape = (slices, PATHS, tokens)
    x, b, c = (torch.randn(*shape, last) for last in (channels, STATES, STATES))
    delta = torch.empty(*shape, channels).uniform_(1e-3, 0.1)
    a = -torch.arange(1.0, STATES + 1).repeat(PATHS, channels, 1)
    return [value.requires_grad_() for value in (x, delta, a, b, c)]


def seconds(scan: Callable[..., Tensor], values: list[Tensor], *, backward: bool) -> float:
    """Wall-clock seconds of one run."""
    start = time.perf_counter()
    with torch.set_grad_enabled(backward):
        y = scan(*values)
    if backward:
        torch.autograd.grad(y.sum(), values)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.manual_seed(0)
    for slices in args.slices:
        for tokens, channels in STAGES.items():
            values = material(slices=slices, tokens=tokens, channels=channels)
            for backward in (False, True):
                taken: dict[str, list[float]] = {"sequential": [], "chunked": []}
                for _ in range(args.repeats + 1):  # in turns, so that a busy machine slows both
                    taken["sequential"].append(seconds(sequential_scan, values, backward=backward))
                    taken["chunked"].append(seconds(selective_scan, values, backward=backward))
                # the first run of each warms up
                slow, fast = (statistics.median(times[1:]) for times in taken.values())
                row = {
                    "slices": slices,
                    "tokens": tokens,
                    "channels": channels,
                    "backward": backward,
                    "sequential_ms": round(1000 * slow, 1),
                    "chunked_ms": round(1000 * fast, 1),
                    "ratio": round(slow / fast, 2),
                }
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
