# SPDX-License-Identifier: Apache-2.0
"""Whether a head knows when it does not know, as the page shows it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ldae.evaluation.calibration import (
    CALIBRATION,
    CONFORMAL,
    CURVE,
    NAME,
    RELIABILITY,
    SELECTIVE,
)
from ldae.evaluation.record import TABLE, read_result
from ldae.report.elements import Element, Picture, Table, make_picture
from ldae.report.figures import doubt_figure
from ldae.report.renderings import short_path
from ldae.report.run import Run
from ldae.report.tables import Column, make_table

METRICS = {
    CALIBRATION: {
        "nll": "negative log likelihood",
        "brier": "Brier score",
        "ece": "calibration error",
        "accuracy": "accuracy",
    },
    CONFORMAL: {
        "coverage": "truth within",
        "set_size": "classes named",
        "one_class": "one class named",
        "width": "width",
    },
    SELECTIVE: {"aurc": "AURC", "augrc": "AUGRC"},
}
CAPTIONS = {
    CALIBRATION: "Probabilities as the head was fitted, and mapped on the scans of the cal split.",
    CONFORMAL: "Sets and intervals that shall hold the truth so often; calibrated on one scan a subject.",
    SELECTIVE: "Mean error over all shares of scans kept, by the doubt that refers the others; low is good.",
}


def calibration_elements(run: Run) -> list[Element]:
    """Reliability and referral as curves, where the head says classes, and a table for each question."""
    table = run.table(NAME, TABLE)
    result = read_result(run.run_dir / "evaluation" / NAME)
    head, by = Path(result["settings"]["head"]), result["settings"]["by"]
    within = f" --by {by}" if by else ""
    command = run.command(f"evaluate {NAME} --head {short_path(head)}{within}")
    elements: list[Element] = []
    if (table["part"] == SELECTIVE).any():
        elements.append(_curves(run, name=head.name, scans=result["scans"], command=command))
    return [
        *elements,
        *(_table(rows, str(part), command) for part, rows in table.groupby("part", sort=False)),
    ]


def _curves(run: Run, *, name: str, scans: int, command: str) -> Picture:
    bins, curve = run.table(NAME, RELIABILITY), run.table(NAME, CURVE)
    figure = doubt_figure(
        {str(method): (rows["confidence"], rows["accuracy"]) for method, rows in bins.groupby("method")},
        {str(doubt): (rows["coverage"], rows["risk"]) for doubt, rows in curve.groupby("doubt")},
    )
    return make_picture(
        figure,
        alt="Accuracy against confidence, and error rate against the share of scans that are kept",
        caption=f"Head {name} on {scans} held-out scans. Left: on the diagonal, confidence is what it says. "
        "Right: how the error falls when the scans in greatest doubt are referred to a human.",
        command=command,
    )


def _table(rows: pd.DataFrame, part: str, command: str) -> Table:
    """One row a method and level, one column a measure."""
    metrics: Sequence[str] = [name for name in METRICS[part] if (rows["metric"] == name).any()]
    told = []
    for (method, level), found in rows.groupby(["method", "level"], dropna=False, sort=False):
        row: dict[str, object] = {"method": method, "level": level}
        for metric, values in found.set_index("metric")[["value", "low", "high"]].iterrows():
            row |= {f"{metric}": values["value"], f"{metric}_low": values["low"]}
            row |= {f"{metric}_high": values["high"]}
        told.append(row)
    columns = [Column("method", part)]
    if part == CONFORMAL:
        columns.append(Column("level", "wanted", ".2f"))
    columns += [Column(name, METRICS[part][name], ".3f") for name in metrics]
    return make_table(pd.DataFrame(told), columns, caption=CAPTIONS[part], command=command)
