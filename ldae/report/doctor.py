# SPDX-License-Identifier: Apache-2.0
"""The picture of an examination: the error by noise level, and what each slice has to say."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ldae.data.artefact import atomic_path, read_json
from ldae.evaluation.doctor import DOCUMENT, LEVELS, SLICES
from ldae.report.figures import BLUE, DOTS_PER_INCH, GOLD, QUIET, RUST, STYLE, WIDTH

PICTURE = "doctor.png"
CODES = {
    "right": ("own code", BLUE),
    "shuffled": ("another subject's", RUST),
    "none": ("no code", GOLD),
}
SHARES = {
    "prediction": ("predicted latent", BLUE),
    "code": ("code", RUST),
    "attention": ("attention", GOLD),
}
ENDS = {"axial": "below to above", "coronal": "back to front", "sagittal": "left to right"}


def write_doctor_figure(folder: str | Path) -> Path:
    """Draw what `examine_pipeline` wrote into its folder, there."""
    folder = Path(folder)
    plane = read_json(folder / DOCUMENT)["values"]["plane"]
    figure = doctor_figure(pd.read_csv(folder / LEVELS), pd.read_csv(folder / SLICES), plane=plane)
    with atomic_path(folder / PICTURE) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH)
    return folder / PICTURE


def doctor_figure(levels: pd.DataFrame, slices: pd.DataFrame, *, plane: str) -> Figure:
    """Error by noise level with three codes (left), weight of each slice in up to three senses (right).

    Args:
        levels: Columns level, right, shuffled and none.
        slices: Columns slice, attention, code and perhaps prediction.
        plane: Plane of the slices.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for name, (label, colour) in CODES.items():
            left.plot(levels["level"], levels[name], label=label, color=colour, marker="o", markersize=3)
        left.set(xlabel="noise level t", ylabel="error of v, per latent element", ylim=(0, None))
        _legend_above(left)
        right.axhline(1, color=QUIET, linewidth=0.8, linestyle=(0, (4, 3)))
        for name, (label, colour) in SHARES.items():
            if name in slices and slices[name].sum() > 0:
                weights = slices[name] / slices[name].mean()
                right.plot(slices["slice"], weights, label=label, color=colour)
        right.set(
            xlabel=f"{plane} slice, {ENDS[plane]}", ylabel="what the slice moves (1: even)", ylim=(0, None)
        )
        _legend_above(right)
    return figure


def _legend_above(axis: Axes) -> None:
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2, columnspacing=1.2)
