# SPDX-License-Identifier: Apache-2.0
"""`ldae preprocess`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ldae.cli.options import add_out, positive

HELP = "bring a cohort's scans to MNI152: reorient, N4, brain extraction, registration"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--cohort", type=Path, required=True, metavar="CSV", help="cohort as CSV, or BIDS")
    add_out(parser, "outputs/preprocessed")
    parser.add_argument(
        "--transform", choices=("affine", "syn"), default="affine", help="kind (default: %(default)s)"
    )
    parser.add_argument(
        "--masks", metavar="COLUMN", help="column with a brain mask a scan, instead of the template's"
    )
    parser.add_argument(
        "--spacing", type=positive, default=1, metavar="MM", help="of the result (default: %(default)s)"
    )
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="processes (default: 1)")


def writes(args: argparse.Namespace) -> Path:
    """The folder that no other command may write meanwhile."""
    folder: Path = args.out
    return folder


def run(args: argparse.Namespace) -> int:
    """Preprocess the cohort."""
    from ldae.cli.scans import show_progress
    from ldae.data.ingest.preprocess import preprocess

    table = preprocess(
        args.cohort,
        args.out,
        transform=args.transform,
        masks=args.masks,
        spacing=args.spacing,
        jobs=args.jobs,
        progress=show_progress(),
    )
    done = int((table["reason"] == "").sum())
    print(f"{len(table)} scans, {done} preprocessed; see {args.out / 'preprocess.csv'}")
    for reason, count in table.loc[table["reason"] != "", "reason"].value_counts().items():
        print(f"  {count:5} {reason}")
    return 0
