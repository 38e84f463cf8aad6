# SPDX-License-Identifier: Apache-2.0
"""`ldae assemble`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ldae.cli.options import add_device, add_run_dir
from ldae.cli.scans import show_progress

HELP = "put the trained stages of a run together as one pipeline folder; fit does it after stage 3"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_run_dir(parser)
    parser.add_argument("--cohort", type=Path, metavar="CSV", help="default: cohort/cohort.csv of the run")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: pipeline/ of the run")
    add_device(parser)


def writes(args: argparse.Namespace) -> Path:
    """The folder that no other command may write meanwhile."""
    folder: Path = args.out or args.run_dir / "pipeline"
    return folder


def run(args: argparse.Namespace) -> int:
    """Assemble."""
    from ldae.pipeline.assemble import assemble_pipeline

    folder = assemble_pipeline(
        args.run_dir, cohort=args.cohort, out=args.out, device=args.device, progress=show_progress()
    )
    print(f"Wrote {folder}")
    return 0
