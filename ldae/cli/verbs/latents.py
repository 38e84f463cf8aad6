# SPDX-License-Identifier: Apache-2.0
"""`ldae latents`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ldae.cli.options import add_batch_size, add_device, add_run_dir, add_shard
from ldae.cli.scans import show_progress
from ldae.data.shard import Shard

HELP = "compress a cohort with the trained autoencoder into run_dir/latents; only what is missing or stale"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_run_dir(parser)
    parser.add_argument("--cohort", type=Path, metavar="CSV", help="default: cohort/cohort.csv of the run")
    add_batch_size(parser)
    parser.add_argument("--overwrite", action="store_true", help="make all of them anew")
    add_shard(parser)
    add_device(parser)


def writes(args: argparse.Namespace) -> Path | None:
    """The folder that no other command may write meanwhile; parts are written beside each other."""
    return None if args.shard else args.run_dir / "latents"


def run(args: argparse.Namespace) -> int:
    """Compress."""
    shard = Shard.parse(args.shard) if args.shard else None
    from ldae.pipeline.compress import compress_cohort

    store = compress_cohort(
        args.run_dir,
        cohort=args.cohort,
        batch_size=args.batch_size,
        device=args.device,
        overwrite=args.overwrite,
        shard=shard,
        progress=show_progress(),
    )
    print(f"{store} is up to date." if shard is None else f"Part {shard} of {store} is up to date.")
    return 0
