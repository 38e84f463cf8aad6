# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from ldae.evaluation.explanation import NAME, evaluate_explanation
from ldae.evaluation.record import TABLE
from ldae.report.elements import Element, Picture
from ldae.report.explanation_section import explanation_pictures
from ldae.report.run import Run

pytest.importorskip("captum")
pytest.importorskip("shap")


@pytest.fixture(scope="module")
def run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run with an explanation, which others of this room do without."""
    folder = tmp_path_factory.mktemp("explained")
    evaluate_explanation(
        finished_run / "pipeline",
        finished_run / "cohort" / "cohort.csv",
        head=finished_run / "heads" / "age",
        out=folder / "evaluation" / NAME,
        run_dir=finished_run,
        limit=1,
        steps=2,
        decode_steps=2,
        device="cpu",
    )
    return replace(Run.open(finished_run, device="cpu"), run_dir=folder)


def pictures(elements: list[Element]) -> list[Picture]:
    return [element for element in elements if isinstance(element, Picture)]


def test_maps_and_slices_are_shown(run: Run) -> None:
    maps, slices = pictures(explanation_pictures(run))
    assert "of the mean training scan" in maps.caption
    assert "AUC" not in maps.caption
    assert slices.caption.startswith("Axial slices, mean of 1 scans")
    assert "ldae evaluate explanation" in maps.command


def test_where_the_truth_is_known_the_caption_says_who_finds_it(run: Run) -> None:
    path = run.run_dir / "evaluation" / NAME / TABLE
    table = pd.read_csv(path)
    table.assign(auc=[0.6, 0.7, 0.8, 0.9]).to_csv(path, index=False)
    maps, _ = pictures(explanation_pictures(run))
    assert "counterfactual 0.80, scan minus baseline 0.90" in maps.caption
    table.to_csv(path, index=False)
