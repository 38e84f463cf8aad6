# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64

import numpy as np
from matplotlib.colors import to_hex

from ldae.report.figures import (
    BLUE,
    attention_figure,
    encode_png,
    line_figure,
    probe_figure,
    target_curves,
    training_figure,
)


def test_png_is_embedded() -> None:
    uri = encode_png(line_figure({"own": ([0, 1], [1, 2])}, x="t", y="error"))
    assert uri.startswith("data:image/png;base64,")
    assert base64.b64decode(uri.split(",")[1]).startswith(b"\x89PNG")


def test_curves_show_each_subject_and_the_mean() -> None:
    figure = target_curves([0.1, 0.5, 0.9], [[10, 20, 30], [30, 40, 50]], label="P(AD)")
    lines = figure.axes[0].lines
    assert len(lines) == 3
    np.testing.assert_allclose(lines[-1].get_ydata(), [20, 30, 40])
    assert to_hex(lines[0].get_color()) == BLUE


def test_roc_reaches_the_corner_of_a_perfect_score() -> None:
    figure = probe_figure([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], auc=1, known=[1, 2], predicted=[1, 2], r2=1)
    curve = figure.axes[0].lines[1]
    assert (0, 1) in set(zip(curve.get_xdata(), curve.get_ydata(), strict=True))
    assert figure.axes[0].get_title(loc="left") == "AD against CN, AUC 1.000"


def test_lines_are_labelled() -> None:
    figure = line_figure({"own": ([0, 1], [1, 2]), "none": ([0, 1], [2, 3])}, x="t", y="error")
    assert [line.get_label() for line in figure.axes[0].lines] == ["own", "none"]
    stages = training_figure({"Stage 1": {"loss": ([0, 1], [1, 0.1])}, "Stage 2": {"loss": ([0, 1], [3, 2])}})
    assert [axis.get_title(loc="left") for axis in stages.axes] == ["Stage 1", "Stage 2"]
    assert stages.axes[0].get_yscale() == "log"


def test_even_attention_is_one() -> None:
    figure = attention_figure(np.full((3, 8), 1 / 8), np.zeros((8, 6)), plane="axial")
    np.testing.assert_allclose(figure.axes[1].lines[-1].get_xdata(), 1)
