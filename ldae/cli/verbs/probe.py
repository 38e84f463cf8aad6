# SPDX-License-Identifier: Apache-2.0
"""`ldae probe`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ldae.cli.options import add_run_dir, add_seed

HELP = "fit a head on embeddings and measure it on held-out subjects"


# Named here, so that --help need not load what fits them; a test compares them to the heads.
HEADS = (
    "linear",
    "tempered",
    "mlp",
    "ensemble",
    "dropout",
    "laplace",
    "neighbours",
    "depths",
    "ladine",
    "card",
    "evidential",
    "hac",
    "density",
    "noise-aware",
    "purify",
    "diffusion",
    "augmented",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_run_dir(parser)
    parser.add_argument(
        "--embeddings", type=Path, metavar="FILE", help="default: embeddings.parquet of the run"
    )
    parser.add_argument(
        "--target", required=True, metavar="COLUMN", help="what to predict, such as diagnosis or age"
    )
    parser.add_argument(
        "--classes", nargs="+", metavar="CLASS", help="only these, such as CN AD (default for diagnosis)"
    )
    parser.add_argument("--positive", metavar="CLASS", help="class that counts as positive (default: AD)")
    parser.add_argument(
        "--head",
        choices=HEADS,
        help="linear probe (tempered: with a temperature), networks (mlp; ensemble: five; dropout; laplace), "
        "nearest neighbours, an ensemble over the encoder's depths, label diffusion (ladine: over the same "
        "depths; card: one member), Dirichlet heads (evidential; hac: modulated first; density), trained "
        "with noise (noise-aware), on purified codes (purify), by denoising error (diffusion), linear with "
        "drawn codes for rare classes (augmented) "
        "(default: linear, unless `ldae evaluate robustness` of the run has found a better one)",
    )
    given = parser.add_mutually_exclusive_group()
    given.add_argument(
        "--latents",
        action="store_true",
        help="give noise-aware, purify or diffusion the spatial latents of `ldae latents`, not the codes",
    )
    given.add_argument(
        "--depths",
        action="store_true",
        help="give depths or ladine the encoder's depths of `ldae embed --depths`",
    )
    given.add_argument(
        "--context",
        nargs="+",
        default=(),
        metavar="COLUMN",
        help="let hac modulate the code by these columns of the embeddings, such as site, scanner or age",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="head folder (default: heads/COLUMN or COLUMN-HEAD of the run)",
    )
    add_seed(parser)


def writes(args: argparse.Namespace) -> Path:
    """The folder that no other command may write meanwhile."""
    folder: Path = args.out or args.run_dir / "heads" / _folder_name(args)
    return folder


def run(args: argparse.Namespace) -> int:
    """Fit and measure."""
    from ldae.evaluation.default_head import default_head
    from ldae.evaluation.head_choice import DEPTH_HEADS
    from ldae.evaluation.probes import fit_probe

    # What the benchmark has chosen, it has chosen for the classes that a target has by default.
    head = args.head or (HEADS[0] if args.classes else default_head(args.run_dir, target=args.target))
    chosen = args.head is None and head != HEADS[0]
    if chosen:
        print(f"{head} is fitted, the choice of evaluation/robustness. For another: --head {HEADS[0]}")
    folder = fit_probe(
        args.embeddings or args.run_dir / "embeddings.parquet",
        target=args.target,
        out=writes(args),
        classes=args.classes,
        positive=args.positive,
        seed=args.seed,
        head=head,
        depths=args.depths or (chosen and head in DEPTH_HEADS),
        latents=args.run_dir / "latents" if args.latents else None,
        context=args.context,
    )
    print(f"Wrote {folder}")
    return 0


def _folder_name(args: argparse.Namespace) -> str:
    """The column, and the head unless it is the default."""
    latents = "-latents" if args.latents else ""
    named = args.target if args.head in (None, HEADS[0]) else f"{args.target}-{args.head}"
    return f"{named}{latents}"
