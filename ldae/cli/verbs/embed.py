# SPDX-License-Identifier: Apache-2.0
"""`ldae embed`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ldae.cli.options import add_batch_size, add_pipeline, add_scans, add_shard
from ldae.cli.scans import check_choice, load_pipeline, show_progress
from ldae.data.shard import Shard

HELP = "write the semantic codes of scans or a cohort as a table, embeddings.parquet"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_scans(parser)
    add_pipeline(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("outputs/embed"),
        metavar="DIR",
        help="folder of embeddings.parquet (default: %(default)s)",
    )
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="folder of preprocessed volumes, such as a run's cache"
    )
    parser.add_argument(
        "--depths", action="store_true", help="add the encoder's earlier depths, e1_000 and on, for heads"
    )
    add_batch_size(parser)
    add_shard(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="compute the codes even if the same lie there"
    )


def writes(args: argparse.Namespace) -> Path | None:
    """The folder that no other command may write meanwhile; parts are written beside each other."""
    return None if args.shard else args.out


def run(args: argparse.Namespace) -> int:
    """Embed."""
    check_choice(args)
    shard = Shard.parse(args.shard) if args.shard else None
    from ldae.pipeline.embed_cohort import embed_cohort

    out = embed_cohort(
        args.pipeline,
        args.cohort or args.scans,
        out=args.out / "embeddings.parquet",
        splits=[args.split] if args.split else None,
        batch_size=args.batch_size,
        device=args.device,
        cache=args.cache,
        overwrite=args.overwrite,
        progress=show_progress(),
        depths=args.depths,
        shard=shard,
    )
    if args.scans:
        for path, novelty in zip(args.scans, load_pipeline(args).novelty(args.scans), strict=True):
            print(f"{path}: {novelty.verdict}")
    print(f"The codes are in {out}")
    return 0
