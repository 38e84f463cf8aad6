# SPDX-License-Identifier: Apache-2.0
"""`ldae report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ldae.cli.options import add_device, add_run_dir

HELP = "write the page of a run, report.html, and summary.json once all of it is measured"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_run_dir(parser)
    add_device(parser)


def writes(args: argparse.Namespace) -> Path:
    """The folder that no other command may write meanwhile."""
    folder: Path = args.run_dir
    return folder


def run(args: argparse.Namespace) -> int:
    """Write the page."""
    from ldae.report.page import write_report

    print(f"Wrote {write_report(args.run_dir, device=args.device)}")
    return 0
