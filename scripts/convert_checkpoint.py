# SPDX-License-Identifier: Apache-2.0
"""Turn an older checkpoint into component folders; see `ldae.pipeline.convert`."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from _program import Parser, add_spec, read_spec, run

KINDS = ("autoencoder", "ldae", "diffusion_unet")
HEADS_HELP = "attention heads of the UNet, where the file does not tell (default: 1, as published)"


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Read the words after the script's name."""
    parser = Parser(description="Turn an older checkpoint into component folders. Nothing in it is executed.")
    parser.add_argument(
        "--source",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="state dict, Lightning checkpoint or safetensors file, or several that belong together",
    )
    parser.add_argument(
        "--kind",
        choices=KINDS,
        required=True,
        help="autoencoder: MONAI Generative's AutoencoderKL; ldae: the published LDAE layout; "
        "diffusion_unet: MONAI Generative's DiffusionModelUNet",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the component's folder; for ldae a run folder"
    )
    parser.add_argument(
        "--prefix", metavar="WORDS.", help="before the network's keys, where there are several"
    )
    parser.add_argument("--groups", type=int, metavar="N", help="groups of the autoencoder's normalisations")
    parser.add_argument("--heads", type=int, metavar="N", help=HEADS_HELP)
    parser.add_argument("--arguments", type=Path, metavar="JSON", help="arguments of the DiffusionModelUNet")
    parser.add_argument(
        "--cohort",
        type=Path,
        metavar="CSV",
        help="cohort whose split the networks were trained on, to assemble",
    )
    add_spec(parser)
    return parser.parse_args(words)


def main(words: Sequence[str]) -> None:
    """Convert, and tell what was written and what was left out."""
    args = parse(words)

    from ldae.data.artefact import read_json
    from ldae.data.cohort import read_cohort
    from ldae.data.split import split_hash
    from ldae.pipeline.convert import ConversionOptions, convert_checkpoint
    from ldae.pipeline.convert_ldae import Heads

    options = ConversionOptions(
        spec=read_spec(args),
        split=split_hash(read_cohort(args.cohort, check="table")) if args.cohort else None,
        prefix=args.prefix,
        groups=args.groups,
        heads=Heads(args.heads) if args.heads else None,
        arguments=read_json(args.arguments) if args.arguments else {},
    )
    done = convert_checkpoint(args.source, args.out, kind=args.kind, options=options)
    for folder, sha256 in done.components.items():
        print(f"wrote {folder} (sha256 {sha256[:12]})")
    for reason, count in Counter(done.left_out.values()).items():
        print(f"left out {count} keys: {reason}")


if __name__ == "__main__":
    run(main)
