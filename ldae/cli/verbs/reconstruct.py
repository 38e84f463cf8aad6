# SPDX-License-Identifier: Apache-2.0
"""`ldae reconstruct`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ldae.cli.options import add_out, add_pipeline, add_scans, add_steps, add_stop_fraction
from ldae.cli.scans import load_pipeline, read_sampling, read_scans, show_progress, tell

HELP = "encode scans and decode them again, each in its own space"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_scans(parser)
    add_pipeline(parser)
    add_steps(parser)
    add_stop_fraction(parser)
    add_out(parser, "outputs/reconstruct")


def writes(args: argparse.Namespace) -> Path:
    """The folder that no other command may write meanwhile."""
    folder: Path = args.out
    return folder


def run(args: argparse.Namespace) -> int:
    """Reconstruct."""
    from ldae.pipeline.scan_jobs import reconstruct_scans

    scans = read_scans(args)
    result = reconstruct_scans(
        load_pipeline(args), scans, out=args.out, sampling=read_sampling(args), progress=show_progress()
    )
    return tell(result)
