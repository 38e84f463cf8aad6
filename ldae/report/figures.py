# SPDX-License-Identifier: Apache-2.0
"""Curves of the report: numbers in, matplotlib figures out."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter
from numpy.typing import ArrayLike, NDArray

from ldae.report.cuts import Volume

INK, QUIET, GRID = "#1f2328", "#6b7280", "#e3e5e8"
BLUE, RUST, GOLD = "#2b5c8a", "#b5482f", "#c19a3d"
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "figure.facecolor": "white",
}
DOTS_PER_INCH = 150
WIDTH = 9.6  # inches: the text's width of the page


def encode_png(figure: Figure) -> str:
    """A figure as a data URI of a PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def target_curves(targets: ArrayLike, volumes: ArrayLike, *, label: str) -> Figure:
    """Measured volumes [subjects, targets] against wanted probabilities: a line each, their mean thick."""
    wanted, measured = np.asarray(targets, float), np.asarray(volumes, float)
    with rc_context(STYLE):
        figure = Figure(figsize=(0.62 * WIDTH, 3.4), layout="constrained")
        axis = figure.subplots()
        axis.plot(wanted, measured.T, color=BLUE, alpha=0.22, linewidth=0.9)
        axis.plot(
            wanted, measured.mean(axis=0), color=RUST, linewidth=2.4, marker="o", markersize=4, label="mean"
        )
        axis.set(xlabel=f"wanted {label}", ylabel="measured ventricle volume, ml", xticks=wanted)
        axis.set_title(f"{len(measured)} test subjects, a line each")
        axis.legend(loc="upper left")
    return figure


def probe_figure(
    truth: ArrayLike, score: ArrayLike, *, auc: float, known: ArrayLike, predicted: ArrayLike, r2: float
) -> Figure:
    """ROC curve of a class (left) and predicted against known volumes (right), held-out scans.

    Args:
        truth: Whether each scan is of the positive class [N].
        score: Its probability [N].
        auc: Area under the curve.
        known: Known volumes [M], ml.
        predicted: Predicted volumes [M], ml.
        r2: Share of their variance that is explained.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * 0.86, 3.7), layout="constrained")
        left, right = figure.subplots(1, 2)
        _roc(left, np.asarray(truth, bool), np.asarray(score, float))
        left.set_title(f"AD against CN, AUC {auc:.3f}")
        first, second = np.asarray(known, float), np.asarray(predicted, float)
        limits = _padded(np.concatenate([first, second]))
        right.plot(limits, limits, color=QUIET, linewidth=0.8, linestyle=(0, (4, 3)))
        right.scatter(first, second, s=11, color=BLUE, alpha=0.6, linewidths=0)
        right.set(
            xlim=limits,
            ylim=limits,
            aspect="equal",
            xlabel="known ventricle volume, ml",
            ylabel="predicted from the code, ml",
        )
        right.set_title(f"ventricle volume, R² {r2:.3f}")
    return figure


def _roc(axis: Axes, truth: NDArray[np.bool_], score: NDArray[np.float64]) -> None:
    order = np.argsort(-score, kind="stable")
    hits = np.concatenate([[0], np.cumsum(truth[order]) / truth.sum()])
    alarms = np.concatenate([[0], np.cumsum(~truth[order]) / (~truth).sum()])
    axis.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=(0, (4, 3)))
    axis.plot(alarms, hits, color=BLUE)
    axis.fill_between(alarms, hits, color=BLUE, alpha=0.08, linewidth=0)
    axis.set(
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.01),
        aspect="equal",
        xlabel="share of CN taken for AD",
        ylabel="share of AD recognised",
    )


def _padded(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    edge = 0.05 * max(high - low, 1e-6)
    return low - edge, high + edge


def line_figure(lines: Mapping[str, tuple[ArrayLike, ArrayLike]], *, x: str, y: str) -> Figure:
    """A few named lines over one axis, each as (x, y)."""
    with rc_context(STYLE):
        figure = Figure(figsize=(0.62 * WIDTH, 3.2), layout="constrained")
        axis = figure.subplots()
        _lines(axis, lines, x=x, y=y)
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(lines), borderaxespad=0.2)
    return figure


def doubt_figure(
    reliability: Mapping[str, tuple[ArrayLike, ArrayLike]],
    referral: Mapping[str, tuple[ArrayLike, ArrayLike]],
) -> Figure:
    """Accuracy against confidence (left) and error rate against the share of scans kept (right).

    Args:
        reliability: (confidence, accuracy) of each calibration, a point a bin.
        referral: (coverage, risk) of each doubt.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(0.86 * WIDTH, 3.7), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=(0, (4, 3)))
        _lines(left, reliability, x="confidence", y="share of scans that are right")
        lowest = min(float(np.min(values)) for line in reliability.values() for values in line)
        left.set(xlim=(max(lowest - 0.05, 0), 1.01), ylim=(max(lowest - 0.05, 0), 1.01))
        _lines(right, referral, x="share of scans kept", y="share of those that are wrong")
        right.set(xlim=(0, 1.01), ylim=(0, None))
    return figure


def training_figure(stages: Mapping[str, Mapping[str, tuple[ArrayLike, ArrayLike]]]) -> Figure:
    """The lines of each stage, a plot each, over optimiser steps."""
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
        for axis, (stage, lines) in zip(
            figure.subplots(1, len(stages), squeeze=False)[0], stages.items(), strict=True
        ):
            _lines(axis, lines, x="optimiser steps", y="")
            _scale_by_factors(axis, lines)
            axis.set_title(stage)
    return figure


def _lines(axis: Axes, lines: Mapping[str, tuple[ArrayLike, ArrayLike]], *, x: str, y: str) -> None:
    colours = (BLUE, RUST, GOLD, QUIET, INK)
    for number, (name, (steps, values)) in enumerate(lines.items()):
        few = np.size(steps) <= 40
        axis.plot(
            steps,
            values,
            label=name,
            color=colours[number % len(colours)],
            marker="o" if few else None,
            markersize=3,
            linewidth=1.6 if few else 1.1,
        )
    axis.set(xlabel=x, ylabel=y)
    axis.legend()


def _scale_by_factors(axis: Axes, lines: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> None:
    axis.set_yscale("log", subs=(2, 3, 4, 6))
    axis.yaxis.set_major_formatter(ScalarFormatter())
    axis.yaxis.set_minor_formatter(ScalarFormatter() if _is_narrow(lines) else NullFormatter())
    axis.grid(visible=True, which="minor", linewidth=0.3)


def _is_narrow(lines: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> bool:
    """Whether the values stay within a factor of 100, so that powers of ten alone say too little."""
    values = np.concatenate([np.asarray(y, float) for _, y in lines.values()])
    return bool(values.max() < 100 * values.min())


def attention_figure(weights: ArrayLike, picture: Volume, *, plane: str) -> Figure:
    """How much each slice counts [N, S]: mean and spread over scans, beside a picture of where slices lie.

    Args:
        weights: Rows that sum to one.
        picture: A cut [height, width] whose rows are the slices.
        plane: Plane of the slices.
    """
    values = np.asarray(weights, float) * np.shape(weights)[1]
    slices = np.arange(values.shape[1])
    low, high = np.percentile(values, (10, 90), axis=0)
    shape = picture.shape[1] / picture.shape[0]
    with rc_context(STYLE):
        figure = Figure(figsize=(0.62 * WIDTH, 3.0), layout="constrained")
        left, right = figure.subplots(
            1, 2, sharey=True, width_ratios=(2.6 * shape, 0.62 * WIDTH - 2.6 * shape - 0.6)
        )
        left.imshow(picture, cmap="gray", vmin=0, vmax=1, origin="lower", interpolation="bilinear")
        left.grid(visible=False)
        left.set(xticks=[], ylabel=f"{plane} slice")
        left.spines[["left", "bottom"]].set_visible(False)
        right.axvline(1, color=QUIET, linewidth=0.8, linestyle=(0, (4, 3)))
        right.fill_betweenx(slices, low, high, color=BLUE, alpha=0.18, linewidth=0)
        right.plot(values.mean(axis=0), slices, color=BLUE)
        right.set(xlabel="weight (1: even)", ylim=(-0.5, len(slices) - 0.5))
    return figure
