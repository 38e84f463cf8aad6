# SPDX-License-Identifier: Apache-2.0
"""Heads under shift, as the page shows them."""

from __future__ import annotations

from ldae.evaluation.default_head import NAME
from ldae.evaluation.record import TABLE, read_result
from ldae.report.elements import Element, make_picture
from ldae.report.robustness_figures import NAMES, shift_figure
from ldae.report.run import Run
from ldae.report.tables import Column, make_table

SHOWN = ("clean", "gaussian", "motion", "white_box_apgd", "inverted_contrast")


def robustness_tables(run: Run) -> list[Element]:
    """A row a head: what it says of clean and corrupted scans, then attacks and foreign scans."""
    frame = run.table(NAME, TABLE)
    frame["head"] = frame["head"].map(NAMES).fillna(frame["head"])
    notes = read_result(run.run_dir / "evaluation" / NAME)["notes"]
    return [
        make_table(
            frame,
            [
                Column("head", "head"),
                Column("balanced_accuracy", "balanced accuracy", ".3f"),
                Column("nll", "NLL", ".3f"),
                Column("aurc", "AURC", ".3f"),
                Column("corruption_nll", "NLL, corrupted", ".3f"),
            ],
            caption=(
                "Test scans, means over seeds, with 95 % intervals over subjects; corrupted: the mean over "
                f"all corruptions and grades. {' '.join(notes)}"
            ),
            command=run.evaluation(NAME),
        ),
        make_table(
            frame,
            [
                Column("head", "head"),
                Column("corruption_balanced_accuracy", "balanced accuracy, corrupted", ".3f"),
                Column("transfer_accuracy", "accuracy, transfer", ".3f"),
                Column("white_box_accuracy", "accuracy, white box", ".3f"),
                Column("near_auroc", "AUROC, near", ".2f"),
                Column("far_auroc", "AUROC, far", ".2f"),
            ],
            caption=(
                "Accuracy under the largest change by APGD, made for the linear probe (transfer) or for the "
                "head itself (white box); AUROC: foreign scans, near and far, told by a head's own doubt."
            ),
            command=run.evaluation(NAME),
        ),
    ]


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
