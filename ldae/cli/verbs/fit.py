# SPDX-License-Identifier: Apache-2.0
"""`ldae fit`."""

from __future__ import annotations

import argparse
import time

from ldae.cli.request import Request, add_request_arguments
from ldae.cli.state import find_complete

HELP = "train a stage; goes on from its checkpoint, and does nothing when it is up to date"
PASSES_ON = True
EPILOG = """\
Any key can follow as --KEY VALUE, such as --trainer.max_epochs 5 or --model.init_args.seed 1.
--print_config shows all keys with their values, before any stage has run.

examples:
  ldae fit --config aekl.yaml
  ldae fit --config demo/aekl.yaml --config my_overlay.yaml --run_dir outputs/mine
  ldae fit --config ldae_repr_learn.yaml --trainer.fast_dev_run true"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_request_arguments(parser)
    parser.add_argument(
        "--overwrite",
        nargs="?",
        const="true",
        default="false",
        choices=("false", "true", "stale"),
        help="train anew: always (true), or where configuration or inputs changed (stale)",
    )


def run(args: argparse.Namespace) -> int:
    """Train, unless these very words did so already."""
    started = time.perf_counter()
    request = Request.from_arguments(args)
    if not request.is_special and args.overwrite != "true":
        done = find_complete(request.run_dir, request=request.sha256, cohort=request.cohort)
        if done is not None:
            print(f"{done.artefact.parent} is up to date.")
            return 0
    from ldae.cli.training import fit_stage

    fit_stage([*request.words, f"--overwrite={args.overwrite}"], request=request.sha256, started=started)
    return 0
