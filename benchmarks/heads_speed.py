# SPDX-License-Identifier: Apache-2.0
"""How long heads take to fit and to sample, and LaDiNE's one batch against the plain loop, in one process.

    python benchmarks/heads_speed.py

The loop goes over members, samples and 1000 levels, one label at a time, as LaDiNE is published; it is timed
on a part of its calls and scaled, which the result says.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from copy import deepcopy

import numpy as np
import torch

from ldae.heads import EvidentialClassifier, LaDiNEClassifier
from ldae.heads.label_diffusion import LEVELS
from ldae.heads.stacked import StackedLinear

WIDTH, BATCH = 768, 64


def seconds(work: Callable[[], object], *, repeats: int) -> list[float]:
    """Wall-clock seconds of each run."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return taken


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
    args = parser.parse_args()
    random = np.random.default_rng(0)
    codes = random.standard_normal((args.scans, WIDTH))
    labels = (codes[:, :5].sum(axis=1) + random.standard_normal(args.scans) > 0).astype(int)
    evidential = seconds(lambda: EvidentialClassifier().fit(codes, labels), repeats=1)[0]
    head = LaDiNEClassifier()
    fit = seconds(lambda: head.fit(codes, labels), repeats=1)[0]
    loop = plain_calls(head, codes, calls=args.calls)
    head.sample(codes[:1])
    one, many, plain = [], [], []
    for _ in range(args.repeats):  # in turns, so that a busy machine slows all of them
        one += seconds(lambda: head.sample(codes[:1]), repeats=1)
        many += seconds(lambda: head.sample(codes[:BATCH]), repeats=1)
        plain += seconds(loop, repeats=1)
    calls = len(head.columns_) * head.samples * LEVELS
    scaled = min(plain) / args.calls * calls
    result = {
        "threads": torch.get_num_threads(),
        "evidential_fit_s": evidential,
        "ladine_fit_s": fit,
        "one_scan_ms": 1e3 * min(one),
        "batch_of_64_ms_per_scan": 1e3 * min(many) / BATCH,
        "plain_loop_s": scaled,
        "plain_loop_scaled_from_calls": args.calls,
        "plain_loop_over_one_scan": scaled / min(one),
        "median_ratio": float(np.median(plain)) / args.calls * calls / float(np.median(one)),
    }
    print(json.dumps({name: round(value, 3) for name, value in result.items()}, indent=1))


if __name__ == "__main__":
    main()
