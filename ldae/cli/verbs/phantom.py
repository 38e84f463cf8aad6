# SPDX-License-Identifier: Apache-2.0
"""`ldae phantom`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ldae.cli.options import add_out, add_seed, positive

HELP = "make a synthetic cohort with known anatomy, age and diagnosis"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_out(parser, "outputs/phantom")
    parser.add_argument(
        "--subjects", type=positive, default=1200, metavar="N", help="how many (default: 1200)"
    )
    parser.add_argument("--spacing", type=float, default=5.0, metavar="MM", help="voxel size (default: 5)")
    parser.add_argument(
        "--size",
        type=positive,
        nargs=3,
        default=(32, 40, 32),
        metavar=("X", "Y", "Z"),
        help="voxels (default: 32 40 32)",
    )
    parser.add_argument(
        "--label-maps",
        type=Path,
        metavar="DIR",
        help="real anatomies as FreeSurfer labels, instead of the MNI152 template",
    )
    parser.add_argument("--jobs", type=positive, metavar="N", help="threads (default: one a core)")
    add_seed(parser)


def writes(args: argparse.Namespace) -> Path:
    """The folder that no other command may write meanwhile."""
    folder: Path = args.out
    return folder


def run(args: argparse.Namespace) -> int:
    """Make the cohort."""
    from ldae.data.phantom import make_phantom

    table = make_phantom(
        args.out,
        subjects=args.subjects,
        seed=args.seed,
        spacing=args.spacing,
        size=args.size,
        label_maps=args.label_maps,
        jobs=args.jobs,
        progress=True,
    )
    print(f"Wrote {table}")
    return 0
