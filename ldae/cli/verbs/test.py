# SPDX-License-Identifier: Apache-2.0
"""`ldae test`."""

from __future__ import annotations

import argparse

from ldae.cli.request import Request, add_request_arguments

HELP = "run a trained stage's test loop on its last checkpoint"
PASSES_ON = True
EPILOG = (
    "Any key can follow as --KEY VALUE, such as --data.init_args.batch_size 4; --print_config shows all keys."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_request_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure."""
    request = Request.from_arguments(args)
    from ldae.cli.training import evaluate_stage

    evaluate_stage(request.words, verb="test")
    return 0
