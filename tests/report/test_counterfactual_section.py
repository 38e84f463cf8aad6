# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ldae.data.artefact import read_json, write_json
from ldae.report.counterfactual_section import counterfactual_elements, fit_ruler
from ldae.report.elements import Picture, Series, Table, View
from ldae.report.evaluation_tables import truth_table
from ldae.report.run import Run


@pytest.fixture(scope="module")
def run(finished_run: Path) -> Run:
    return Run.open(finished_run, device="cpu")


@pytest.fixture(scope="module")
def elements(run: Run) -> tuple[Series, Table, Picture, View]:
    series, table, picture, view = counterfactual_elements(run)
    assert isinstance(series, Series)
    assert isinstance(table, Table)
    assert isinstance(picture, Picture)
    assert isinstance(view, View)
    return series, table, picture, view


def test_the_scan_stands_in_its_place_in_the_series(
    run: Run, elements: tuple[Series, Table, Picture, View]
) -> None:
    series = elements[0]
    before = run.jobs["manipulate"].outputs[0]["HeadBefore"]
    assert len(series.frames) == 3
    still = series.frames[sum(target < before for target in (0.2, 0.8))]
    assert still.label.startswith(
        f"Not moved (reconstruction): the head says P(AD) = {before:.2f}, ventricles "
    )
    moved = [frame for frame in series.frames if frame is not still]
    assert [frame.short for frame in moved] == ["0.2", "0.8"]
    steps = [abs(one["Step"]) for one in run.jobs["manipulate"].outputs]
    assert series.frames[series.start] is moved[int(np.argmax(steps))]
    for frame, target in zip(moved, (0.2, 0.8), strict=True):
        pattern = (
            rf"Target P\(AD\) = {target}: the head says {target:.2f}, ventricles -?\d+\.\d ml as measured"
        )
        assert re.fullmatch(pattern, frame.label)
    assert len({frame.source for frame in series.frames}) == 3


def test_volumes_are_measured_in_the_very_pictures(
    run: Run, elements: tuple[Series, Table, Picture, View]
) -> None:
    ruler = fit_ruler(run)
    assert ruler is not None
    outputs = run.jobs["manipulate"].outputs
    voxels = np.stack([run.viewer.pipeline.read(one["path"]).data[0].numpy() for one in outputs])
    table = elements[1]
    shown = [float(row[table.columns.index("ventricles, ml")]) for row in table.groups[""]]
    np.testing.assert_allclose(shown, ruler.predict(voxels), atol=0.051)


def test_held_heads_say_the_same_before_and_after(
    run: Run, elements: tuple[Series, Table, Picture, View]
) -> None:
    table = elements[1]
    before, after = (table.columns.index(f"age {when}") for when in ("before", "after"))
    for row, output in zip(table.groups[""], run.jobs["manipulate"].outputs, strict=True):
        assert row[before] == row[after] == f"{output['Hold'][0]['Before']['age']:.2f}"
    assert "Held: age; " in table.caption
    assert "--hold" in table.command


def test_without_holding_the_table_says_so(finished_run: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "free"
    shutil.copytree(finished_run, run_dir, ignore=shutil.ignore_patterns("evaluation", "logs"))
    record = run_dir / "scans" / "manipulate" / "result.json"
    document = read_json(record)
    for output in document["outputs"]:
        output["Hold"] = []
    write_json(record, document)
    table = counterfactual_elements(Run.open(run_dir, device="cpu"))[1]
    assert isinstance(table, Table)
    assert "Nothing was held." in table.caption
    assert not any("age" in name for name in table.columns)


def test_unknown_volumes_are_left_out(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    few = run.scans.frame[run.scans.frame["split"] == "train"].iloc[:5]
    assert fit_ruler(replace(run, scans=replace(run.scans, frame=few))) is None
    assert "at least 20 scans" in caplog.text
    caplog.clear()
    unknown = few.drop(columns="ventricle_ml")
    assert fit_ruler(replace(run, scans=replace(run.scans, frame=unknown))) is None
    assert not caplog.text


def test_known_truth_is_told_by_rendering(finished_run: Path, tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "evaluation" / "counterfactual"
    folder.mkdir(parents=True)
    names = "ssim_changed,mse_changed,mse_rest,moved_rest,ventricle_error_ml,age_change"
    (folder / "truth.csv").write_text(
        f"rendering,method,{names}\n"
        "decoded,nothing,0.8245,0.019913,0.00388,0,24.77,0\n"
        "decoded,something new,0.9,0.01,0.004,0.01,8.2,1.27\n"
        "added to the scan,manipulated,0.93,0.00675,0.0003,0.011,9.1,1.3\n"
    )
    (folder / "truth_scans.csv").write_text("subject\na\na\nb\n")
    values = {"truth_gain_manipulated_over_nothing": 0.54, "truth_gain_manipulated_over_linear": 0.055}
    values |= {"truth_gain_manipulated_over_nothing_ci": [0.5, 0.58]}
    values |= {"truth_gain_manipulated_over_linear_ci": [-0.006, 0.113]}
    document = {"evaluation": "counterfactual", "split": "test", "settings": {"limit": 16}, "values": values}
    write_json(folder / "result.json", document)
    table = truth_table(Run(tmp_path, run.scans, {}, run.viewer))
    assert list(table.groups) == ["as decoded", "the decoded change, added to the scan"]
    decoded, added = table.groups.values()
    assert decoded[0] == ["do nothing", "0.825", "0.0199", "0.00388", "0.0000", "24.8", "0.0"]
    assert decoded[1][0] == "something new"
    assert added[0][0] == "code moved by ldae manipulate"
    assert table.columns[-1] == "age head moved by"
    assert table.caption.startswith("Means over 2 test subjects")
    assert "the move avoids 54% (50% to 58%) of the squared error there that doing nothing" in table.caption
    assert "and 6% (-1% to 11%) of what the mean difference image makes" in table.caption
    assert table.command.startswith("ldae evaluate counterfactual --limit 16 --run-dir ")
