# SPDX-License-Identifier: Apache-2.0
"""Heads under shift as figures: one a shift, every head in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import ScalarFormatter

from ldae.data.artefact import atomic_path
from ldae.evaluation.corruptions import CORRUPTIONS
from ldae.evaluation.head_choice import DEPTH_ENSEMBLE, LADINE, LINEAR
from ldae.report.figures import BLUE, DOTS_PER_INCH, GOLD, INK, QUIET, RUST, STYLE, WIDTH

NAMES = {
    "linear": "linear probe",
    "tempered": "linear probe, tempered",
    "mlp": "MLP",
    "ensemble": "deep ensemble",
    "dropout": "MC dropout",
    "laplace": "last-layer Laplace",
    "neighbours": "nearest neighbours",
    "depths": "depth ensemble, no diffusion",
    "ladine": "LaDiNE",
    "card": "CARD",
    "evidential": "evidential",
    "hac": "evidential, modulated",
    "density": "density Dirichlet",
    "noise-aware": "noise-aware",
    "purify": "purified, linear probe",
    "diffusion": "denoising error",
    "augmented": "linear probe, augmented",
}
UNITS = {one.name: one.unit for one in CORRUPTIONS}
LEADING = {LINEAR: INK, DEPTH_ENSEMBLE: BLUE, LADINE: RUST, "evidential": GOLD}
"""Heads in colour; the others are told apart by their marks."""
MARKS = "osD^vP*Xh<>pd12x+"
BALANCED, ACCURACY, LOSS = "balanced_accuracy", "accuracy", "nll"
TITLES = {
    BALANCED: "balanced accuracy",
    ACCURACY: "accuracy",
    LOSS: "negative log-likelihood",
    "auroc": "AUROC, its own doubt",
    "aurc": "AURC",
}


def write_figures(folder: Path) -> list[Path]:
    """A PNG beside each shift's table of the benchmark's folder."""
    written = []
    for path in sorted(folder.glob("*.csv")):
        table = pd.read_csv(path)
        if "family" in table.columns:
            target = path.with_suffix(".png")
            with atomic_path(target) as temporary:
                shift_figure(table).savefig(
                    temporary, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None}
                )
            written.append(target)
    return written


def shift_figure(table: pd.DataFrame) -> Figure:
    """What becomes of every head under one shift.

    Over its grades where it has several; else a line a head, with its interval over subjects.

    Args:
        table: Of one shift, as `ldae evaluate robustness` writes it.
    """
    family, shift = str(table["family"].iloc[0]), str(table["shift"].iloc[0])
    if family == "outside":
        own = table[table["own"]]
        return _ranked(own, ["auroc"], title=f"{_words(shift)}: told from clean test scans")
    if table["grade"].nunique() == 1:
        attacked = family in ("transfer", "white_box")
        metrics = [ACCURACY if attacked else BALANCED, LOSS, *([] if attacked else ["aurc"])]
        return _ranked(table, metrics, title=_title(family, shift))
    return _graded(table, title=_title(family, shift), unit=UNITS.get(shift, "eps, of the range of a scan"))


def _title(family: str, shift: str) -> str:
    words = _words(shift) if family in ("clean", "corruption") else shift.upper()
    kind = {
        "clean": "test scans as they are",
        "corruption": "corrupted test scans",
        "transfer": "made for the linear probe, shown to every head (transfer)",
        "white_box": "made for each head, end to end (white box)",
    }[family]
    return f"{words}: {kind}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _style(head: str, place: int) -> dict[str, object]:
    colour = LEADING.get(head, QUIET)
    leading = head in LEADING
    return {
        "color": colour,
        "marker": MARKS[place % len(MARKS)],
        "markersize": 5 if leading else 4,
        "linewidth": 1.8 if leading else 0.8,
        "linestyle": (0, (4, 2)) if head == LADINE else "-",  # the depth ensemble may lie under it
        "alpha": 1.0 if leading else 0.75,
        "zorder": 3 if leading else 2,
    }


def _graded(table: pd.DataFrame, *, title: str, unit: str) -> Figure:
    heads = list(dict.fromkeys(table["head"]))
    attacked = table["family"].iloc[0] in ("transfer", "white_box")
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        axes = figure.subplots(1, 2)
        for axis, metric in zip(axes, (ACCURACY if attacked else BALANCED, LOSS), strict=True):
            for place, head in enumerate(heads):
                own = table[table["head"] == head].sort_values("grade")
                label = [f"{grade:.3g}" for grade in own["grade"]]
                turned = _descending(table)
                own, label = (own[::-1], label[::-1]) if turned else (own, label)
                axis.plot(range(len(own)), own[metric], **_style(head, place))
                axis.set_xticks(range(len(own)), label)
            if metric == LOSS and table[LOSS].max() > 3:
                axis.set_yscale("log", subs=(2, 5))
                axis.yaxis.set_major_formatter(ScalarFormatter())
                axis.yaxis.set_minor_formatter(ScalarFormatter())
            axis.set(xlabel=unit, ylabel=TITLES[metric])
        axes[0].set_title(title)
        handles = [
            Line2D([], [], label=NAMES.get(head, head), **_style(head, place))  # type: ignore[arg-type]
            for place, head in enumerate(heads)
        ]
        figure.legend(handles=handles, loc="outside right center")
    return figure


def _descending(table: pd.DataFrame) -> bool:
    """Whether lower grades are worse, as those of contrast are."""
    shift = str(table["shift"].iloc[0])
    return any(one.name == shift and one.grades[0] > one.grades[-1] for one in CORRUPTIONS)


def _ranked(table: pd.DataFrame, metrics: Sequence[str], *, title: str) -> Figure:
    heads = list(dict.fromkeys(table["head"]))[::-1]
    rows = table.set_index("head").loc[heads]
    with rc_context(STYLE):
        figure = Figure(
            figsize=(WIDTH * (0.6 + 0.2 * (len(metrics) - 1)), 0.8 + 0.24 * len(heads)), layout="constrained"
        )
        axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for axis, metric in zip(axes, metrics, strict=True):
            _intervals(axis, rows, metric)
            axis.set_xlabel(TITLES[metric])
        axes[0].set_yticks(range(len(heads)), [NAMES.get(head, head) for head in heads])
        figure.suptitle(title, x=0.01, ha="left", fontsize=STYLE["axes.titlesize"])
        if metrics == ["auroc"]:
            axes[0].axvline(0.5, color=QUIET, linewidth=0.8, linestyle=(0, (4, 3)))
            axes[0].set_xlim(min(0.0, float(rows["auroc_low"].min()) - 0.02), 1.02)
    return figure


def _intervals(axis: Axes, rows: pd.DataFrame, metric: str) -> None:
    for place, (head, row) in enumerate(rows.iterrows()):
        colour = LEADING.get(str(head), QUIET)
        axis.plot([row[f"{metric}_low"], row[f"{metric}_high"]], [place, place], color=colour, linewidth=1.4)
        axis.plot(row[metric], place, marker="o", color=colour, markersize=5)
