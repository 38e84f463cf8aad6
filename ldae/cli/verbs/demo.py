# SPDX-License-Identifier: Apache-2.0
"""`ldae demo`."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "make a synthetic cohort, train all three stages on it, measure, render and report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--run-dir",
        "--run_dir",
        type=Path,
        default=Path("outputs/demo"),
        metavar="DIR",
        help="folder of the run (default: %(default)s)",
    )


def writes(args: argparse.Namespace) -> Path:
    """The folder that no other command may write meanwhile."""
    folder: Path = args.run_dir
    return folder


def run(args: argparse.Namespace) -> int:
    """Run the demo's commands one after another."""
    from ldae.cli.demo import Demo
    from ldae.cli.main import main

    return Demo(args.run_dir).run(main)
