# SPDX-License-Identifier: Apache-2.0
"""What the scripts share: a user's mistake becomes one sentence and exit code 2, as in the program `ldae`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ldae.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from ldae.data.spec import PreprocessingSpec

BAD_INPUT = 2


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one sentence that ends with the way to the help."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message}. See: {self.prog} --help\n")


def run(main: Callable[[Sequence[str]], None]) -> NoReturn:
    """Run a script's main function on the words after its name."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("ldae").setLevel(logging.INFO)
    try:
        main(sys.argv[1:])
    except (InputError, CheckpointError, FileNotFoundError) as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    sys.exit(0)


def add_spec(parser: argparse.ArgumentParser) -> None:
    """The grid that an old checkpoint was trained on, which its file does not tell."""
    parser.add_argument(
        "--size",
        type=int,
        nargs=3,
        metavar=("X", "Y", "Z"),
        help="voxels of its scans (default: 128 160 128)",
    )
    parser.add_argument(
        "--spacing",
        type=float,
        nargs=3,
        metavar=("X", "Y", "Z"),
        help="mm of its voxels (default: 1.5 1.5 1.5)",
    )


def read_spec(args: argparse.Namespace) -> PreprocessingSpec:
    """The published preprocessing on the grid that was asked for."""
    from dataclasses import replace

    from ldae.pipeline.convert import PUBLISHED_SPEC

    default = PUBLISHED_SPEC
    return replace(default, size=args.size or default.size, spacing=args.spacing or default.spacing)
