# SPDX-License-Identifier: Apache-2.0
"""`ldae sample`."""

from __future__ import annotations

import argparse

from ldae.cli.options import DEFAULT_STEPS, add_out, add_pipeline, add_seed, positive
from ldae.cli.scans import load_pipeline, show_progress

HELP = "draw new scans of nobody, of a class where one is given"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_pipeline(parser)
    parser.add_argument("-n", type=positive, default=16, metavar="N", help="how many (default: 16)")
    parser.add_argument(
        "--class", dest="target_class", metavar="CLASS", help="only of this class, such as AD"
    )
    parser.add_argument(
        "--steps", type=positive, default=DEFAULT_STEPS, metavar="N", help="network calls from noise to scan"
    )
    add_seed(parser)
    add_out(parser, "outputs/sample")


def run(args: argparse.Namespace) -> int:
    """Sample."""
    from ldae.pipeline.sampling import sample_scans

    result = sample_scans(
        load_pipeline(args),
        args.n,
        out=args.out,
        target_class=args.target_class,
        seed=args.seed,
        steps=args.steps,
        progress=show_progress(),
    )
    print(f"wrote {args.n} scans, listed in {result}")
    return 0
