# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pandas as pd

from ldae.report.tables import Column, make_table, number


def test_numbers_carry_their_interval_and_rows_their_heading() -> None:
    frame = pd.DataFrame(
        {
            "against": ["input", "input", "autoencoder"],
            "kind": ["a", None, "c"],
            "ssim": [0.91234, 0.5, float("nan")],
            "ssim_low": [0.9, 0.4, float("nan")],
            "ssim_high": [0.92, 0.6, float("nan")],
            "scans": [3, 3, 2],
        }
    )
    table = make_table(
        frame,
        [Column("kind", "what"), Column("ssim", "SSIM", ".2f"), Column("scans", "scans", ".0f")],
        group=["against"],
        heading="against the {against}",
        caption="c",
        command="ldae x",
    )
    assert table.columns == ["what", "SSIM", "scans"]
    assert table.numeric == [False, True, True]
    assert table.groups == {
        "against the input": [["a", "0.91 (0.90 to 0.92)", "3"], ["–", "0.50 (0.40 to 0.60)", "3"]],
        "against the autoencoder": [["c", "–", "2"]],
    }


def test_rows_without_a_group_have_no_heading() -> None:
    table = make_table(pd.DataFrame({"n": [1.5]}), [Column("n", "n", ".1f")], caption="", command="")
    assert table.groups == {"": [["1.5"]]}


def test_what_is_not_known_is_a_dash() -> None:
    assert number(float("nan"), ".3f") == "–"
    assert number(0.1256, ".3f") == "0.126"


def test_only_a_long_table_gets_a_frame_of_its_own() -> None:
    rows = pd.DataFrame({"n": range(41), "half": [number // 21 for number in range(41)]})
    whole, some = (
        make_table(part, [Column("n", "n", ".0f")], caption="", command="", group=["half"], heading="{half}")
        for part in (rows, rows[:40])
    )
    assert (whole.long, some.long) == (True, False)
