# SPDX-License-Identifier: Apache-2.0
"""`ldae interpolate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ldae.cli.options import add_out, add_pipeline, add_steps
from ldae.cli.scans import load_pipeline, read_sampling, tell

HELP = "render what lies between two scans, in the space of the first"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("first", type=Path, metavar="SCAN", help="NIfTI file at fraction 0")
    parser.add_argument("second", type=Path, metavar="SCAN", help="NIfTI file at fraction 1")
    parser.add_argument(
        "--fraction",
        type=float,
        action="append",
        metavar="F",
        help="where between the two; may be repeated (default: .25, .5 and .75)",
    )
    parser.add_argument("--extrapolate", action="store_true", help="allow fractions below 0 and above 1")
    parser.add_argument(
        "--trajectory", action="store_true", help="mix the two codes' gradients at every step, not the codes"
    )
    add_pipeline(parser)
    add_steps(parser)
    add_out(parser, "outputs/interpolate")


def writes(args: argparse.Namespace) -> Path:
    """The folder that no other command may write meanwhile."""
    folder: Path = args.out
    return folder


def run(args: argparse.Namespace) -> int:
    """Interpolate."""
    from ldae.pipeline.scan_jobs import gather_scans, interpolate_scans

    # each by itself: two visits of one subject may bear the same file name
    (first,), (second,) = gather_scans([args.first]), gather_scans([args.second])
    result = interpolate_scans(
        load_pipeline(args),
        first,
        second=second,
        out=args.out,
        fractions=args.fraction or (0.25, 0.5, 0.75),
        extrapolate=args.extrapolate,
        trajectory=args.trajectory,
        sampling=read_sampling(args),
    )
    return tell(result)
