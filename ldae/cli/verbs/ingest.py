# SPDX-License-Identifier: Apache-2.0
"""`ldae ingest`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldae.cli.options import add_out, add_seed, positive

if TYPE_CHECKING:
    from ldae.data.ingest import Summary

HELP = "turn DICOM files, a BIDS dataset or NIfTI files into a de-identified cohort"
EPILOG = (
    "Faces are still in the scans: run ldae preprocess, which keeps the brain only, before you share them."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder of the scans; it is only read")
    add_out(parser, "outputs/cohort")
    parser.add_argument(
        "--contrast", default="T1w", metavar="NAME", help="T1w, T2w or FLAIR (default: %(default)s)"
    )
    parser.add_argument(
        "--clinical", type=Path, metavar="CSV", help="visits: subject, and date, diagnosis, report, age, sex"
    )
    parser.add_argument(
        "--window",
        type=positive,
        default=180,
        metavar="DAYS",
        help="most days between a scan and its visit (default: %(default)s)",
    )
    parser.add_argument(
        "--subject",
        metavar="REGEX",
        help="finds the subject in the place of a NIfTI file, such as '(case[0-9]+)' "
        "(default: behind sub-, else the first folder, else the name up to _ or .)",
    )
    parser.add_argument("--vocabulary", type=Path, metavar="YAML", help="words of the diagnoses")
    parser.add_argument(
        "--min-slices", type=positive, default=40, metavar="N", help="fewest of a scan (default: %(default)s)"
    )
    parser.add_argument(
        "--key", type=Path, metavar="FILE", help="key of the pseudonyms (default: beside the cohort's folder)"
    )
    parser.add_argument(
        "--keep-labels",
        action="store_true",
        help="keep subjects' and sessions' labels, because the source is de-identified already",
    )
    parser.add_argument(
        "--review", type=Path, nargs="+", default=(), metavar="CSV", help="apply one or two reviewers' files"
    )
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="processes (default: 1)")
    add_seed(parser)


def writes(args: argparse.Namespace) -> Path:
    """The folder that no other command may write meanwhile."""
    folder: Path = args.out
    return folder


def run(args: argparse.Namespace) -> int:
    """Make the cohort."""
    from ldae.cli.scans import show_progress
    from ldae.data.ingest import ingest

    summary = ingest(
        args.source,
        args.out,
        key=args.key,
        contrast=args.contrast,
        clinical=args.clinical,
        vocabulary=args.vocabulary,
        subject=args.subject,
        window=args.window,
        min_slices=args.min_slices,
        keep_labels=args.keep_labels,
        reviews=args.review,
        seed=args.seed,
        jobs=args.jobs,
        progress=show_progress(),
    )
    _show(summary)
    return 0


def _show(summary: Summary) -> None:
    print(f"{summary.found} found, {summary.accepted} accepted, {sum(summary.rejected.values())} rejected")
    for reason, count in summary.rejected.items():
        print(f"  {count:5} {reason}")
    if summary.ignored:
        print(f"{summary.ignored} other files")
    if summary.closed:
        print(f"{summary.closed} folders cannot be read, and what is in them is missing")
    if summary.gone:
        print(f"{summary.gone} of the last run are no longer in the source, and were taken out")
    show_review(summary.review)
    print(f"Wrote {summary.cohort or 'no cohort, as nothing was accepted'}")
    print(f"Look at {summary.page} ({summary.flagged} flagged). Keep {summary.key} secret.")
    _show_split(summary)
    if summary.faces:
        print(
            f"{summary.faces} scans are whole heads: a face can be rebuilt from them. Share them only after "
            "ldae preprocess, which keeps the brain alone, or after defacing."
        )


def _show_split(summary: Summary) -> None:
    if summary.split:
        told = ", ".join(f"{count} {part}" for part, count in summary.split.items())
        print(f"Split of {summary.subjects} subjects: {told}")
    elif summary.cohort:
        print("No split was drawn: it takes four subjects, and no diagnoses but CN, MCI and AD.")
    if empty := [part for part, count in summary.split.items() if not count]:
        print(
            f"Nobody is left in {', '.join(empty)}. If nothing was trained on the split yet, run: "
            f"ldae split --cohort {summary.cohort} --overwrite"
        )


def show_review(review: Mapping[str, Any]) -> None:
    """Say what the reviewers' files did."""
    if share := review.get("agreement"):
        print(f"Reviewers: {share['scans']} scans both, agreement {share['share']}, kappa {share['kappa']}")
    if review.get("unknown"):
        print(f"{review['unknown']} decisions are on scans that are not there or have changed since")
