# SPDX-License-Identifier: Apache-2.0
"""`ldae manipulate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ldae.cli.options import add_out, add_pipeline, add_scans, add_steps
from ldae.cli.scans import load_pipeline, read_sampling, read_scans, show_progress, tell

HELP = "render this brain, had a fitted head said otherwise: P(AD) = 0.1, or another age"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_scans(parser)
    add_pipeline(parser)
    parser.add_argument(
        "--head", type=Path, required=True, metavar="DIR", help="head folder that ldae probe wrote"
    )
    parser.add_argument(
        "--target",
        type=float,
        action="append",
        required=True,
        metavar="VALUE",
        help="what the head shall say: a probability, or an age; may be repeated for a series",
    )
    parser.add_argument(
        "--target-class", metavar="CLASS", help="class that the probability speaks of, such as AD"
    )
    parser.add_argument(
        "--hold",
        nargs="+",
        default=[],
        metavar="HEAD_DIR_or_COLUMN",
        help="what shall stay: head folders, or columns of numbers in the embeddings, such as age",
    )
    parser.add_argument(
        "--embeddings",
        type=Path,
        metavar="FILE",
        help="table of the held columns (default: the one that the head was fitted on)",
    )
    add_steps(parser)
    add_out(parser, "outputs/manipulate")


def writes(args: argparse.Namespace) -> Path:
    """The folder that no other command may write meanwhile."""
    folder: Path = args.out
    return folder


def run(args: argparse.Namespace) -> int:
    """Manipulate."""
    from ldae.pipeline.manipulation_job import manipulate_scans

    scans = read_scans(args)
    result = manipulate_scans(
        load_pipeline(args),
        scans,
        out=args.out,
        head=args.head,
        targets=args.target,
        target_class=args.target_class,
        hold=args.hold,
        embeddings=args.embeddings,
        sampling=read_sampling(args),
        progress=show_progress(),
    )
    return tell(result)
