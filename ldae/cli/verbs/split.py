# SPDX-License-Identifier: Apache-2.0
"""`ldae split`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ldae.cli.options import SPLITS, add_seed

HELP = "freeze a subject-level split of a cohort, stratified by diagnosis, once"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--cohort", type=Path, required=True, metavar="CSV", help="cohort that receives the column"
    )
    parser.add_argument(
        "--fractions",
        type=float,
        nargs=4,
        default=(0.6, 0.15, 0.1, 0.15),
        metavar=tuple(word.upper() for word in SPLITS),
        help="shares of the subjects (default: .6 .15 .1 .15)",
    )
    add_seed(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="draw it anew; what was trained on it is void"
    )


def writes(args: argparse.Namespace) -> Path:
    """The folder that no other command may write meanwhile."""
    from ldae.data.table import table_path

    return table_path(args.cohort).parent


def run(args: argparse.Namespace) -> int:
    """Draw the split."""
    from ldae.data.split import freeze_split

    frame = freeze_split(args.cohort, seed=args.seed, fractions=args.fractions, overwrite=args.overwrite)
    subjects = frame.drop_duplicates("subject")
    counts = (
        subjects.groupby(["split", subjects["diagnosis"].fillna("unlabelled")]).size().unstack(fill_value=0)
    )
    print(f"Subjects of {args.cohort}:\n{counts.reindex(list(SPLITS)).to_string()}")
    return 0
