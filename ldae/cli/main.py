# SPDX-License-Identifier: Apache-2.0
"""The program `ldae`: finds the verb, reads its words, runs it, turns a user's mistake into exit code 2."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from types import ModuleType
from typing import NoReturn

from ldae import __version__
from ldae.cli.ending import TERMINATED, Terminated, terminable
from ldae.data.lock import held
from ldae.data.storage import full_disk
from ldae.errors import CheckpointError, InputError, Interrupted, StorageError

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
INTERRUPTED = 130  # as a shell tells that Ctrl-C ended a program
STOPPED = "Stopped. What was finished is kept, and the same command goes on from there."


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one sentence that ends with the way to the help."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message}. See: {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: The words after the program's name; those of the process by default.

    Returns:
        0 when done, 2 when the input is wrong or the disk full, 130 when it was interrupted by Ctrl-C, 143 by
        SIGTERM; the sentence that says what is on stderr.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        with terminable():
            return _run(words)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else BAD_INPUT if stop.code else 0
    except (InputError, CheckpointError, StorageError, FileNotFoundError) as error:
        return _tell(_sentence(error), code=BAD_INPUT)
    except OSError as error:
        reason = full_disk(error) or (error.strerror if error.filename else None)
        if reason is None:
            raise
        return _tell(
            f"{error.filename or 'A file'} cannot be read or written: {reason}. Put that right and give the "
            "same command again.",
            code=BAD_INPUT,
        )
    except Interrupted as stop:
        return _tell(str(stop), code=INTERRUPTED)
    except Terminated as stop:
        return _tell(str(stop) or STOPPED, code=TERMINATED)
    except KeyboardInterrupt:
        return _tell(STOPPED, code=INTERRUPTED)


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
    args = _parse(module, verb=verb, words=rest)
    # of fit, only its configuration tells which part of the run it writes
    folder = module.writes(args) if hasattr(module, "writes") else None
    with nullcontext() if folder is None else held(folder):
        code: int = module.run(args)
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


def _tell(sentence: str, *, code: int) -> int:
    print(f"ldae: {sentence}", file=sys.stderr)
    return code


def _sentence(error: Exception) -> str:
    """The message of an error; one that the system raised is put into words."""
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return f"{error.filename} must exist, but there is no such file or folder."
    return str(error)
