# SPDX-License-Identifier: Apache-2.0
"""`ldae preprocess`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ldae.cli.options import add_out, positive

if TYPE_CHECKING:
    from ldae.data.ingest.preprocess import Preprocessed

HELP = "bring a cohort's scans to MNI152: reorient, N4, brain extraction, registration"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--cohort", type=Path, required=True, metavar="CSV", help="cohort as CSV, or BIDS")
    add_out(parser, "outputs/preprocessed")
    parser.add_argument(
        "--transform", choices=("affine", "syn"), default="affine", help="kind (default: %(default)s)"
    )
    mask = parser.add_mutually_exclusive_group()
    mask.add_argument(
        "--brain",
        choices=("template", "hd-bet"),
        default="template",
        help="where its mask comes from; hd-bet is a program of its own (default: %(default)s)",
    )
    mask.add_argument("--masks", metavar="COLUMN", help="column with a brain mask for each scan")
    parser.add_argument(
        "--spacing", type=positive, default=1, metavar="MM", help="of the result (default: %(default)s)"
    )
    parser.add_argument(
        "--review", type=Path, nargs="+", default=(), metavar="CSV", help="apply one or two reviewers' files"
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

    done = preprocess(
        args.cohort,
        args.out,
        transform=args.transform,
        brain=args.brain,
        masks=args.masks,
        spacing=args.spacing,
        reviews=args.review,
        jobs=args.jobs,
        progress=show_progress(),
    )
    _show(done, args.out)
    return 0


def _show(done: Preprocessed, out: Path) -> None:
    from ldae.cli.verbs.ingest import show_review

    left_out = sum(done.rejected.values())
    print(f"{len(done.table)} scans, {len(done.table) - left_out} preprocessed, {left_out} left out")
    for reason, count in done.rejected.items():
        print(f"  {count:5} {reason}")
    show_review(done.review)
    print(f"Wrote {done.cohort or 'no cohort, as nothing was preprocessed'}; see {out / 'preprocess.csv'}")
    if done.page:
        print(f"Look at {done.page}: the brain on the scan, and registered, with the template's outline.")
