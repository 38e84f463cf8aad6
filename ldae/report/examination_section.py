# SPDX-License-Identifier: Apache-2.0
"""What `ldae doctor` found, as the page shows it."""

from __future__ import annotations

from ldae.data.artefact import read_json
from ldae.evaluation.doctor import DOCUMENT, LEVELS, SLICES
from ldae.evaluation.record import TABLE
from ldae.report.doctor import doctor_figure
from ldae.report.elements import Element, make_picture
from ldae.report.renderings import short_path
from ldae.report.run import Run
from ldae.report.tables import Column, make_table

NAME = "doctor"


def examination_elements(run: Run) -> list[Element]:
    """The picture of the examination with its verdict, and every check."""
    document = read_json(run.run_dir / "evaluation" / NAME / DOCUMENT)
    figure = doctor_figure(
        run.table(NAME, LEVELS), run.table(NAME, SLICES), plane=document["values"]["plane"]
    )
    command = run.command(f"doctor --pipeline {short_path(run.run_dir / 'pipeline')}")
    picture = make_picture(
        figure,
        alt="Denoising error by noise level with three codes, and what each slice moves",
        caption=document["verdict"],
        command=command,
    )
    table = make_table(
        run.table(NAME, TABLE),
        [
            Column("name", "check"),
            Column("value", "value", ".3g"),
            Column("limit", "bad from", ".3g"),
            Column("state", "state"),
            Column("finding", "finding"),
        ],
        caption=f"Checks on {document['subjects']} subjects of split {document['split']}.",
        command=command,
    )
    return [picture, table]
