# SPDX-License-Identifier: Apache-2.0
"""`ldae report`."""

from __future__ import annotations

import argparse

from ldae.cli.options import add_run_dir

HELP = "write the page of a run, report.html, and for a demo summary.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_run_dir(parser)


def run(args: argparse.Namespace) -> int:
    """Write the page."""
    from ldae.evaluation.summary import TIMINGS, write_summary
    from ldae.report.page import write_report

    # only the demo times its parts and knows the anatomy that the figures are held against
    if (args.run_dir / TIMINGS).is_file():
        print(f"Wrote {write_summary(args.run_dir)}")
    print(f"Wrote {write_report(args.run_dir)}")
    return 0
