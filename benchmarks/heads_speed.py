# SPDX-License-Identifier: Apache-2.0
"""How long heads take to fit and to sample, and LaDiNE's one batch against the plain loop, in one process.

    python benchmarks/heads_speed.py

The loop goes over members, samples and 1000 levels, one label at a time, as LaDiNE is published; it is timed
on a part of its calls and scaled, which the result says. Floor: the operations of matrix products over the
rate of a large one, in the head's precision: float32 to fit, double to sample.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import torch
from turns import Result, in_turns, matrix_rate, operations, ratio, seconds, tell

from ldae.heads import EvidentialClassifier, LaDiNEClassifier
from ldae.heads.label_diffusion import LEVELS
from ldae.heads.stacked import StackedLinear

WIDTH, BATCH = 768, 64


def one_member(head: LaDiNEClassifier) -> LaDiNEClassifier:
    """A copy whose predictor is the first member's alone."""
    alone = deepcopy(head)
    for layer in alone.denoiser_.modules():
        if isinstance(layer, StackedLinear):
            layer.weight.data, layer.bias.data = layer.weight.data[:1], layer.bias.data[:1]
    return alone


def plain_calls(head: LaDiNEClassifier, codes: np.ndarray, *, calls: int) -> Callable[[], object]:
    """So many calls of the innermost loop: one member, one sample, one level."""
    standardised = head._standardised(codes[:1])
    condition = head.denoiser_.condition(head._prior(standardised), head._code(standardised)[None])
    member, predictor = condition.member(0), one_member(head).denoiser_
    label = torch.zeros(1, 1, 1, len(head.classes_)).double()

    def loop() -> None:
        for level in range(calls):
            predictor.expected_label(label, member, level=level % LEVELS)

    return loop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--calls", type=int, default=200, help="of the plain loop, then scaled")
    parser.add_argument("--scans", type=int, default=1000, help="that the heads are fitted on, 64 or more")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    args = parser.parse_args()
    random = np.random.default_rng(0)
    codes = random.standard_normal((args.scans, WIDTH))
    labels = (codes[:, :5].sum(axis=1) + random.standard_normal(args.scans) > 0).astype(int)
    head = LaDiNEClassifier()
    fits = {"evidential": EvidentialClassifier().fit, "ladine": head.fit}
    fitted = {name: seconds(partial(fit, codes, labels)) for name, fit in fits.items()}
    works: dict[str, Callable[[], object]] = {
        "one": lambda: head.sample(codes[:1]),
        "many": lambda: head.sample(codes[:BATCH]),
        "plain": plain_calls(head, codes, calls=args.calls),
    }
    taken = in_turns(works, repeats=args.repeats)
    scale = len(head.columns_) * head.samples * LEVELS / args.calls
    plain = [scale * second for second in taken["plain"]]
    rate = matrix_rate(dtype=torch.float64)
    result: Result = {
        **{f"{name}_fit_s": round(second, 2) for name, second in fitted.items()},
        **{
            f"{name}_fit_floor_s": round(operations(partial(fit, codes, labels)) / matrix_rate(), 2)
            for name, fit in fits.items()
        },
        "one_scan_ms": round(1e3 * min(taken["one"]), 2),
        "one_scan_floor_ms": round(1e3 * operations(works["one"]) / rate, 2),
        "batch_of_64_ms_per_scan": round(1e3 * min(taken["many"]) / BATCH, 2),
        "batch_of_64_floor_ms_per_scan": round(1e3 * operations(works["many"]) / rate / BATCH, 2),
        "plain_loop_s": round(min(plain), 2),
        "plain_loop_scaled_from_calls": args.calls,
        "plain_loop_over_one_scan": ratio(plain, taken["one"]),
        "matrix_gflops_float64": round(rate / 1e9, 1),
    }
    tell(result, out=args.out)


if __name__ == "__main__":
    main()
