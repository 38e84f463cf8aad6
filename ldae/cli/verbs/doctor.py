# SPDX-License-Identifier: Apache-2.0
"""`ldae doctor`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ldae.cli.options import add_pipeline, add_seed, positive
from ldae.cli.scans import show_progress
from ldae.data.artefact import read_json
from ldae.errors import InputError

HELP = "say whether a pipeline's code does anything, or how much memory training takes"
DEFAULT_LIMIT = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_pipeline(parser, required=False)
    parser.add_argument(
        "--run-dir",
        "--run_dir",
        type=Path,
        metavar="DIR",
        help="folder of the run (default: the one that holds the pipeline)",
    )
    parser.add_argument("--cohort", type=Path, metavar="CSV", help="default: cohort/cohort.csv of the run")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: evaluation/doctor of the run")
    parser.add_argument(
        "--limit",
        type=positive,
        default=DEFAULT_LIMIT,
        metavar="N",
        help="first visits of so many test subjects at most, for errors and slices (default: %(default)s)",
    )
    add_seed(parser)
    parser.add_argument(
        "--memory",
        action="store_true",
        help="tell instead what each stage's training takes, by batch and card",
    )
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="NAME.yaml",
        help="with --memory: a configuration of each stage (default: those of published size)",
    )


def writes(args: argparse.Namespace) -> Path | None:
    """The folder that no other command may write meanwhile, if any is written."""
    examines = not args.memory and args.pipeline is not None
    return args.out or (_run_dir(args) / "evaluation" / "doctor" if examines else None)


def run(args: argparse.Namespace) -> int:
    """Examine, draw, and tell; a bad code is a finding, not a failure."""
    if args.memory:
        from ldae.cli.memory import tell_memory

        tell_memory(args.config, out=args.out)
        return 0
    if args.pipeline is None:
        raise InputError("--pipeline must be given, got none. Or ask for --memory.")
    from ldae.evaluation.doctor import DOCUMENT, examine_pipeline
    from ldae.report.doctor import write_doctor_figure

    run_dir = _run_dir(args)
    folder = examine_pipeline(
        args.pipeline,
        args.cohort or run_dir / "cohort" / "cohort.csv",
        out=args.out or run_dir / "evaluation" / "doctor",
        run_dir=run_dir,
        limit=args.limit,
        seed=args.seed,
        device=args.device,
        progress=show_progress(),
    )
    write_doctor_figure(folder)
    _tell(read_json(folder / DOCUMENT))
    print(f"Wrote {folder}")
    return 0


def _run_dir(args: argparse.Namespace) -> Path:
    folder: Path = args.run_dir or args.pipeline.absolute().parent
    return folder


def _tell(document: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("check", "value", "limit", "state")
    for check in document["checks"]:
        table.add_row(check["name"], f"{check['value']:.3g}", f"{check['limit']:.3g}", check["state"])
    Console().print(table)
    print(document["verdict"])
