# SPDX-License-Identifier: Apache-2.0
"""Options that several verbs share, spelled and explained once."""

from __future__ import annotations

import argparse
from pathlib import Path

from ldae.cli.configs import DEFAULT_RUN_DIR

SPLITS = ("train", "val", "cal", "test")
SOLVERS = ("gaussian-2m", "exact", "ddim-next", "ddim", "dpm++2m")
DEFAULT_STEPS = 20


def positive(word: str) -> int:
    """A whole number of 1 or more, as argparse wants it."""
    value = int(word)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {word}")
    return value


def seed(word: str) -> int:
    """A whole number of 0 or more, as argparse wants it."""
    value = int(word)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {word}")
    return value


# argparse names the type in its complaint
positive.__name__ = seed.__name__ = "whole number"


def add_run_dir(parser: argparse.ArgumentParser) -> None:
    """The run folder."""
    parser.add_argument(
        "--run-dir",
        "--run_dir",
        type=Path,
        default=Path(DEFAULT_RUN_DIR),
        metavar="DIR",
        help="folder of the run (default: %(default)s)",
    )


def add_pipeline(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """The trained pipeline and the device to run it on."""
    parser.add_argument(
        "--pipeline",
        type=Path,
        required=required,
        metavar="DIR",
        help="folder of the trained pipeline, such as outputs/demo/pipeline",
    )
    add_device(parser)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Where to compute."""
    parser.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda:1, ...")


def add_cohort(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """The cohort and which of its splits."""
    parser.add_argument(
        "--cohort", type=Path, required=required, metavar="CSV", help="cohort as CSV, or a BIDS folder"
    )
    parser.add_argument("--split", choices=SPLITS, help="only this split of the cohort")


def add_scans(parser: argparse.ArgumentParser) -> None:
    """Scans by path, or those of a cohort."""
    parser.add_argument("scans", type=Path, nargs="*", metavar="SCAN", help="NIfTI file")
    add_cohort(parser)


def add_out(parser: argparse.ArgumentParser, default: str) -> None:
    """Where results go."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(default),
        metavar="DIR",
        help="folder of the results (default: %(default)s)",
    )


def add_steps(parser: argparse.ArgumentParser) -> None:
    """Network calls each way, and the solver."""
    parser.add_argument(
        "--steps",
        type=positive,
        default=DEFAULT_STEPS,
        metavar="N",
        help="network calls each way (default: %(default)s)",
    )
    parser.add_argument(
        "--encode-steps", type=positive, metavar="N", help="of the way to noise, instead of --steps"
    )
    parser.add_argument(
        "--decode-steps", type=positive, metavar="N", help="of the way back, instead of --steps"
    )
    parser.add_argument(
        "--solver", choices=SOLVERS, default=SOLVERS[0], help="of both ways (default: %(default)s)"
    )


def add_stop_fraction(parser: argparse.ArgumentParser) -> None:
    """Where the semantic code is switched off."""
    parser.add_argument(
        "--stop-fraction",
        type=float,
        default=0.0,
        metavar="P",
        help="share of the noise levels, the lowest, at which the semantic code is switched off (default: 0)",
    )


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Seed of whatever is drawn."""
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="seed of whatever is drawn (default: 0)"
    )


def add_batch_size(parser: argparse.ArgumentParser) -> None:
    """Scans at a time."""
    parser.add_argument(
        "--batch-size", type=positive, metavar="N", help="scans at a time (default: what fits)"
    )


def add_shard(parser: argparse.ArgumentParser) -> None:
    """Which part of the cohort, for the jobs of an array."""
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="only the I-th of N parts of the scans; run once more without it when all parts are done",
    )
