# SPDX-License-Identifier: Apache-2.0
"""An evaluation on disk: table.csv, scans.csv, result.json and the stamp that saves doing it again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldae import __version__
from ldae.data.artefact import atomic_path, read_json, write_json
from ldae.data.stamp import is_current, write_stamp

if TYPE_CHECKING:
    import pandas as pd

    from ldae.evaluation.material import Material

logger = logging.getLogger(__name__)

RESULT = "result.json"
TABLE = "table.csv"
SCANS = "scans.csv"
STAMP = "stamp.json"
SWEEPS = {
    "solvers": "reconstruction --sweep",
    "solvers_reference": "reconstruction --reference-compatible",
}
"""Folders that `ldae evaluate` does not name as it names the measurement."""


@dataclass
class Findings:
    """What an evaluation found.

    Attributes:
        values: Numbers by name, and their intervals [lo, hi] by that name with `_ci` behind.
        table: What a reader looks at first, a row a method or level.
        scans: One row a scan and method.
        counts: How many scans and subjects the numbers come from.
        notes: Sentences on what was done that the settings do not say.
        more: Further tables by file name.
    """

    values: dict[str, Any]
    table: pd.DataFrame
    scans: pd.DataFrame
    counts: dict[str, int]
    notes: list[str] = field(default_factory=list)
    more: dict[str, pd.DataFrame] = field(default_factory=dict)


def evaluate_once(
    material: Material,
    *,
    name: str,
    settings: Mapping[str, Any],
    compute: Callable[[], Findings],
    inputs: Sequence[Path] = (),
    more: Sequence[str] = (),
) -> Path:
    """Do an evaluation and write its folder, unless it was done with the same inputs and settings.

    Args:
        material: What it works on.
        name: What it is called.
        settings: What else decides on the result; JSON-able.
        compute: Does the work.
        inputs: Files and folders that it reads besides pipeline and cohort.
        more: File names of the further tables that `compute` makes.

    Returns:
        The folder.
    """
    folder = material.out
    outputs = [folder / file for file in (TABLE, SCANS, RESULT, *more)]
    command = ["evaluate", name, material.split, *(f"{key}={value}" for key, value in settings.items())]
    read = [material.pipeline, material.cohort, *inputs]
    if is_current(folder / STAMP, command=command, inputs=read, outputs=outputs):
        logger.info("%s is up to date", folder)
    else:
        started = time.perf_counter()
        findings = compute()
        seconds = time.perf_counter() - started
        _write(folder, findings, material=material, name=name, settings=settings, seconds=seconds)
        write_stamp(folder / STAMP, command=command, inputs=read, outputs=outputs, seconds=seconds)
        logger.info("%s: %s (%.0f s)", folder, _short(findings.values), seconds)
    return folder


def read_result(folder: str | Path) -> dict[str, Any]:
    """What an evaluation found, from its folder.

    Raises:
        FileNotFoundError: It has not been done.
    """
    path = Path(folder) / RESULT
    if not path.is_file():
        name = path.parent.name
        raise FileNotFoundError(f"{path} is missing. Run first: ldae evaluate {SWEEPS.get(name, name)}")
    result: dict[str, Any] = read_json(path)
    return result


def _write(
    folder: Path,
    findings: Findings,
    *,
    material: Material,
    name: str,
    settings: Mapping[str, Any],
    seconds: float,
) -> None:
    for file, frame in {TABLE: findings.table, SCANS: findings.scans, **findings.more}.items():
        with atomic_path(folder / file) as temporary:
            frame.to_csv(temporary, index=False)
    document = {
        "evaluation": name,
        "ldae_version": __version__,
        "pipeline": str(material.pipeline),
        "cohort": str(material.cohort),
        "split": material.split,
        "settings": dict(settings),
        **findings.counts,
        "values": findings.values,
        "notes": findings.notes,
        "seconds": round(seconds, 2),
    }
    write_json(folder / RESULT, document)


def _short(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in values.items() if isinstance(value, float))
