# SPDX-License-Identifier: Apache-2.0
"""`ldae check`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ldae.cli.options import add_pipeline, add_scans
from ldae.cli.scans import check_choice, load_pipeline, read_scans, show_progress
from ldae.data.artefact import write_json

if TYPE_CHECKING:
    from ldae.pipeline.scan_jobs import ScanCheck

HELP = "say how scans differ from what a pipeline expects, or read every scan of a cohort"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_scans(parser)
    add_pipeline(parser, required=False)
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write check.json there")


def writes(args: argparse.Namespace) -> Path | None:
    """The folder that no other command may write meanwhile, if any is written."""
    folder: Path | None = args.out
    return folder


def run(args: argparse.Namespace) -> int:
    """Compare scans with a pipeline, or with the default preprocessing where none is given."""
    check_choice(args)
    if args.cohort and args.pipeline is None:
        return _check_cohort(args)
    checks = _compare(args, args.scans or [scan.path for scan in read_scans(args)])
    for check in checks:
        _show(check)
    if args.out:
        write_json(args.out / "check.json", [check.to_dict() for check in checks])
    refused = any(item.differs and not item.handled for check in checks for item in check.differences)
    return 2 if refused else 0


def _check_cohort(args: argparse.Namespace) -> int:
    from ldae.data.cohort import read_cohort

    frame = read_cohort(args.cohort, check="voxels", progress=show_progress())
    print(f"{args.cohort}: {len(frame)} scans of {frame['subject'].nunique()} subjects, all readable")
    return 0


def _compare(args: argparse.Namespace, paths: list[Path]) -> list[ScanCheck]:
    from ldae.data.spec import PreprocessingSpec
    from ldae.pipeline.scan_jobs import ScanCheck, check_scans

    if args.pipeline is not None:
        return check_scans(load_pipeline(args), paths)
    spec = PreprocessingSpec()
    return [ScanCheck(path, spec.differences(path), None) for path in paths]


def _show(check: ScanCheck) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "scan", "pipeline", "what is done", title=str(check.path), title_justify="left")
    for item in check.differences:
        mark = "ok" if not item.differs else "differs" if item.handled else "PROBLEM"
        table.add_row(f"{item.item}: {mark}", item.scan, item.spec, item.action)
    Console().print(table)
    if check.novelty is not None:
        print(f"{check.path}: {check.novelty.verdict}")
