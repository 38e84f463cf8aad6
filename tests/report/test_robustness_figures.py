# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ldae.evaluation.head_choice import HEADS as OFFERED
from ldae.report.robustness_figures import LEADING, MARKS, NAMES, shift_figure, write_figures

HEADS = list(NAMES)
METRICS = ("balanced_accuracy", "accuracy", "nll", "aurc", "auroc")


def table(family: str, shift: str, grades: list[float]) -> pd.DataFrame:
    random = np.random.default_rng(0)
    rows = []
    for grade in grades:
        for head in HEADS:
            row = {"family": family, "shift": shift, "grade": grade, "head": head, "own": True}
            for name in METRICS:
                value = random.uniform(0.5, 0.9)
                row |= {name: value, f"{name}_low": value - 0.05, f"{name}_high": value + 0.05}
            rows.append(row)
    return pd.DataFrame(rows)


def test_every_head_has_a_name_and_a_mark_of_its_own() -> None:
    assert NAMES.keys() == OFFERED.keys()
    assert len(set(NAMES.values())) == len(NAMES) <= len(set(MARKS))


def test_grades_run_from_mild_to_severe_with_a_line_a_head() -> None:
    figure = shift_figure(table("corruption", "contrast", [0.9, 0.8, 0.7]))
    left, right = figure.axes
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["0.9", "0.8", "0.7"]
    assert len(left.get_lines()) == len(right.get_lines()) == len(HEADS)
    own = table("corruption", "contrast", [0.9, 0.8, 0.7])
    ladine = own[own["head"] == "ladine"]["nll"]
    line = right.get_lines()[HEADS.index("ladine")]
    np.testing.assert_allclose(line.get_ydata(), ladine)
    assert line.get_color() == LEADING["ladine"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(NAMES.values())


def test_what_has_no_grades_is_ranked_with_its_interval() -> None:
    figure = shift_figure(table("outside", "inverted_contrast", [0.0]))
    (axis,) = figure.axes
    assert [tick.get_text() for tick in axis.get_yticklabels()] == list(NAMES.values())[::-1]
    assert len(shift_figure(table("clean", "clean", [0.0])).axes) == 3
    assert len(shift_figure(table("white_box", "pgd", [0.01])).axes) == 2


def test_a_figure_lies_beside_each_shift_and_nothing_else(tmp_path: Path) -> None:
    table("transfer", "fgsm", [0.01, 0.03]).to_csv(tmp_path / "transfer_fgsm.csv", index=False)
    pd.DataFrame({"head": ["linear"]}).to_csv(tmp_path / "costs.csv", index=False)
    assert write_figures(tmp_path) == [tmp_path / "transfer_fgsm.png"]
    assert (tmp_path / "transfer_fgsm.png").read_bytes().startswith(b"\x89PNG")
