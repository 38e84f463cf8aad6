# SPDX-License-Identifier: Apache-2.0
"""Heads under shift, as the page shows them."""

from __future__ import annotations

from ldae.evaluation.default_head import NAME
from ldae.evaluation.record import TABLE, read_result
from ldae.report.elements import Element, Table, make_picture
from ldae.report.robustness_figures import NAMES, shift_figure
from ldae.report.run import Run
from ldae.report.tables import Column, make_table

SHOWN = ("clean", "gaussian", "motion", "white_box_apgd", "inverted_contrast")


def robustness_table(run: Run) -> Table:
    """A row a head: clean scans, corrupted ones, attacks and foreign scans."""
    frame = run.table(NAME, TABLE)
    frame["head"] = frame["head"].map(NAMES).fillna(frame["head"])
    notes = read_result(run.run_dir / "evaluation" / NAME)["notes"]
    return make_table(
        frame,
        [
            Column("head", "head"),
            Column("balanced_accuracy", "balanced accuracy", ".3f"),
            Column("nll", "NLL", ".3f"),
            Column("aurc", "AURC", ".3f"),
            Column("corruption_balanced_accuracy", "balanced accuracy, corrupted", ".3f"),
            Column("corruption_nll", "NLL, corrupted", ".3f"),
            Column("white_box_accuracy", "accuracy, white-box APGD", ".3f"),
            Column("near_auroc", "AUROC, near", ".2f"),
            Column("far_auroc", "AUROC, far", ".2f"),
        ],
        caption=(
            "Test scans, means over seeds, with 95 % intervals over subjects; corrupted: the mean over all "
            f"corruptions and grades; AUROC: foreign scans told by a head's own doubt. {' '.join(notes)}"
        ),
        command=run.evaluation(NAME),
    )


def robustness_pictures(run: Run) -> list[Element]:
    """Some of the shifts; the folder of the evaluation holds a figure of each."""
    folder = run.run_dir / "evaluation" / NAME
    return [
        make_picture(
            shift_figure(run.table(NAME, f"{name}.csv")),
            alt=f"every head under the shift {name}",
            caption=f"{name.replace('_', ' ')}: every head, means over seeds.",
            command=run.evaluation(NAME),
        )
        for name in SHOWN
        if (folder / f"{name}.csv").is_file()
    ]
