# SPDX-License-Identifier: Apache-2.0
"""Scans of nobody beside the training scans that are most like them, and how they are judged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ldae.evaluation.record import TABLE
from ldae.evaluation.sampling import SCAN
from ldae.report.cuts import Panel
from ldae.report.elements import Picture, Table, make_picture
from ldae.report.run import Run, scan_name
from ldae.report.tables import Column, make_table
from ldae.report.volumes import volume_figure

SHOWN_SAMPLES = 4
NEAREST = "NearestTrainingScan"
SPACES = {SCAN: "as scans, embedded again", "code": "as codes"}


def sample_picture(run: Run) -> Picture:
    """Drawn scans, each beside its nearest training scan where that is known."""
    job = run.jobs["sample"]
    panels, told = [], []
    for number, output in enumerate(job.outputs[:SHOWN_SAMPLES], start=1):
        panels.append(Panel(f"drawn {number}", run.viewer.drawn(output["path"])))
        nearest = _nearest(run, output)
        if nearest is not None:
            path, distance = nearest
            scan = run.scans.pipeline.read(path)
            panels.append(Panel(f"nearest to {number}", np.asarray(scan.data[0].numpy())))
            told.append(f"{number}: {scan_name(run, path)}, at {distance:.1f}")
    caption = (
        "Drawn scans."
        if not told
        else (
            "Drawn scans, each beside the training scan whose code is nearest to its own; distances in "
            f"standard deviations of the training codes. Nearest to {'; '.join(told)}."
        )
    )
    return make_picture(
        volume_figure(panels, spacing=run.scans.pipeline.spec.spacing),
        alt="Three planes of drawn scans, each beside the training scan that is most like it",
        caption=caption,
        command=job.command(),
    )


def _nearest(run: Run, output: Mapping[str, Any]) -> tuple[Path, float] | None:
    """The nearest training scan, where the run's cohort has it now, and its distance."""
    if NEAREST not in output:
        return None
    found, frame = output[NEAREST], run.scans.frame
    same = (frame["subject"] == found["Subject"]) & (frame["session"] == found["Session"])
    paths = frame.loc[same, "path"]
    return None if paths.empty else (Path(paths.iloc[0]), float(found["Distance"]))


def sampling_table(run: Run) -> Table:
    """How like real scans drawn ones are, beside what real scans reach."""
    frame = run.table("sampling", TABLE)
    frame["space"] = frame["space"].map(SPACES)
    frame = frame.sort_values("space", key=lambda space: space != SPACES[SCAN], kind="stable")
    columns = [
        Column("method", "what is compared with test scans"),
        Column("kid", "KID", ".3f"),
        Column("fid", "FID", ".1f"),
        Column("precision", "precision", ".2f"),
        Column("recall", "recall", ".2f"),
        Column("nearest", "nearest training scan", ".1f"),
        Column("close", "closer than 95 % of test scans", ".2f"),
    ]
    if "auc" in frame:
        columns.append(Column("auc", "AUC of a probe fitted on them", ".2f"))
    return make_table(
        frame,
        columns,
        group=["space"],
        heading="{space}",
        caption=(
            f"{frame['n'].iloc[0]} scans a row against as many test scans, in the encoder's space; 95 % "
            "intervals over scans. All but the AUC depend on that number: what real scans reach is what can "
            "be reached."
        ),
        command=run.evaluation("sampling"),
    )
