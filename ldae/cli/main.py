# SPDX-License-Identifier: Apache-2.0
"""The program `ldae`: finds the verb, reads its words, runs it, turns a user's mistake into exit code 2."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import NoReturn

from ldae import __version__
from ldae.errors import CheckpointError, InputError

GROUPS = {
    "train": ("fit", "validate", "test"),
    "data": ("ingest", "preprocess", "phantom", "split", "check"),
    "artefacts": ("latents", "assemble", "embed", "probe"),
    "scans": ("reconstruct", "vary", "interpolate", "manipulate", "sample"),
    "results": ("evaluate", "doctor", "report"),
    "all of it": ("demo",),
}
VERBS = tuple(verb for verbs in GROUPS.values() for verb in verbs)
BAD_INPUT = 2


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one sentence that ends with the way to the help."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message}. See: {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: The words after the program's name; those of the process by default.

    Returns:
        0 when done, 2 when the input is wrong; the sentence that says what is on stderr.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else BAD_INPUT if stop.code else 0
    except (InputError, CheckpointError, FileNotFoundError) as error:
        print(f"ldae: {_sentence(error)}", file=sys.stderr)
        return BAD_INPUT


def entry() -> NoReturn:
    """The console script."""
    sys.exit(main())


def _run(words: list[str]) -> int:
    parser = _program()
    if not words or words[0].startswith("-"):
        parser.parse_args(words or ["--help"])
        parser.error("the first word must be a verb")
    verb, *rest = words
    if verb not in VERBS:
        parser.error(f"verb must be one of {', '.join(VERBS)}, got {verb!r}")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("ldae").setLevel(logging.INFO)
    module = import_module(f"ldae.cli.verbs.{verb}")
    code: int = module.run(_parse(module, verb=verb, words=rest))
    return code


def _program() -> Parser:
    lines = []
    for title, verbs in GROUPS.items():
        lines.append(f"{title}:")
        lines += [f"  {verb:12} {import_module(f'ldae.cli.verbs.{verb}').HELP}" for verb in verbs]
    parser = Parser(
        prog="ldae",
        usage="ldae VERB [options]     (ldae VERB --help tells the options)",
        description="Latent diffusion autoencoders for 3D brain MRI.",
        epilog="\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ldae {__version__}")
    return parser


def _parse(module: ModuleType, *, verb: str, words: list[str]) -> argparse.Namespace:
    """Read a verb's words; a verb with `PASSES_ON` gets those it does not know as `args.rest`."""
    parser = Parser(
        prog=f"ldae {verb}",
        description=module.HELP,
        epilog=getattr(module, "EPILOG", None),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    if getattr(module, "PASSES_ON", False):
        known, rest = parser.parse_known_args(words)
        known.rest = rest
        return known
    return parser.parse_intermixed_args(words)


def _sentence(error: Exception) -> str:
    """The message of an error; one that the system raised is put into words."""
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return f"{error.filename} must exist, but there is no such file or folder."
    return str(error)
