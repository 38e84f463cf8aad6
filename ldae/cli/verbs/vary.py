# SPDX-License-Identifier: Apache-2.0
"""`ldae vary`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ldae.cli.options import (
    add_out,
    add_pipeline,
    add_scans,
    add_seed,
    add_steps,
    add_stop_fraction,
    positive,
)
from ldae.cli.scans import load_pipeline, read_sampling, read_scans, show_progress, tell

HELP = "render scans with the same semantic code and fresh stochastic codes, and their mean and spread"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_scans(parser)
    add_pipeline(parser)
    parser.add_argument(
        "-n", type=positive, default=8, metavar="N", help="how many for each scan (default: 8)"
    )
    add_seed(parser)
    add_steps(parser)
    add_stop_fraction(parser)
    add_out(parser, "outputs/vary")


def writes(args: argparse.Namespace) -> Path:
    """The folder that no other command may write meanwhile."""
    folder: Path = args.out
    return folder


def run(args: argparse.Namespace) -> int:
    """Vary."""
    from ldae.pipeline.variation import vary_scans

    scans = read_scans(args)
    result = vary_scans(
        load_pipeline(args),
        scans,
        out=args.out,
        n=args.n,
        seed=args.seed,
        sampling=read_sampling(args),
        progress=show_progress(),
    )
    return tell(result)
