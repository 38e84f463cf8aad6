# SPDX-License-Identifier: Apache-2.0
"""`ldae sample`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ldae.cli.options import (
    DEFAULT_STEPS,
    SOLVERS,
    add_out,
    add_pipeline,
    add_seed,
    add_stop_fraction,
    positive,
)
from ldae.cli.scans import load_pipeline, show_progress, tell

HELP = "draw new scans of nobody, of one class where it is given"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_pipeline(parser)
    parser.add_argument("-n", type=positive, default=16, metavar="N", help="how many (default: 16)")
    parser.add_argument(
        "--class", dest="target_class", metavar="CLASS", help="only of this class, such as AD"
    )
    add_seed(parser)
    parser.add_argument(
        "--steps",
        type=positive,
        default=DEFAULT_STEPS,
        metavar="N",
        help="network calls from noise to scan (default: %(default)s)",
    )
    parser.add_argument(
        "--solver", choices=SOLVERS, default=SOLVERS[0], help="how the steps are taken (default: %(default)s)"
    )
    add_stop_fraction(parser)
    parser.add_argument(
        "--embeddings",
        type=Path,
        metavar="PARQUET",
        help="table in which to look for the nearest training scan of each (default: embeddings.parquet "
        "beside the pipeline, if it is there)",
    )
    add_out(parser, "outputs/sample")


def writes(args: argparse.Namespace) -> Path:
    """The folder that no other command may write meanwhile."""
    folder: Path = args.out
    return folder


def run(args: argparse.Namespace) -> int:
    """Sample."""
    from ldae.pipeline.samples import sample_scans
    from ldae.pipeline.scan_jobs import Sampling

    beside = args.pipeline.parent / "embeddings.parquet"
    result = sample_scans(
        load_pipeline(args),
        args.n,
        out=args.out,
        target_class=args.target_class,
        seed=args.seed,
        sampling=Sampling(steps=args.steps, solver=args.solver, stop_fraction=args.stop_fraction),
        embeddings=args.embeddings or (beside if beside.is_file() else None),
        progress=show_progress(),
    )
    return tell(result)
