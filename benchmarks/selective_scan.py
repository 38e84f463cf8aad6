# SPDX-License-Identifier: Apache-2.0
"""How long the chunked selective scan takes against one token after the other, in turns in one process.

    python benchmarks/selective_scan.py

The lengths are those of MedMamba-T's four stages on slices of 128 x 160 pixels, with its channels and states.
Floor: what is given read and the answer written once, and both again for the gradients, at the rate at which
memory is copied.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from turns import in_turns, memory_rate, ratio, tell

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


def run(scan: Callable[..., Tensor], values: list[Tensor], *, backward: bool) -> None:
    """The scan, and its gradients where they are wanted."""
    with torch.set_grad_enabled(backward):
        y = scan(*values)
    if backward:
        torch.autograd.grad(y.sum(), values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    args = parser.parse_args()
    torch.manual_seed(0)
    rows, rate = [], memory_rate()
    for slices in args.slices:
        for tokens, channels in STAGES.items():
            values = material(slices=slices, tokens=tokens, channels=channels)
            for backward in (False, True):
                works = {
                    "sequential": partial(run, sequential_scan, values, backward=backward),
                    "chunked": partial(run, selective_scan, values, backward=backward),
                }
                taken = in_turns(works, repeats=args.repeats)
                moved = 4 * (sum(value.numel() for value in values) + values[0].numel()) * (1 + backward)
                rows.append(
                    {
                        "slices": slices,
                        "tokens": tokens,
                        "channels": channels,
                        "backward": backward,
                        **{f"{name}_ms": round(1e3 * statistics.median(t), 1) for name, t in taken.items()},
                        "floor_ms": round(1e3 * moved / rate, 2),
                        "sequential_over_chunked": ratio(taken["sequential"], taken["chunked"]),
                    }
                )
    tell({"scans": rows}, out=args.out)


if __name__ == "__main__":
    main()
