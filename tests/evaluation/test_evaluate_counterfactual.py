# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ldae.data.artefact import read_json
from ldae.errors import InputError
from ldae.evaluation.counterfactual import evaluate_counterfactual, within_subject_spearman
from ldae.evaluation.material import Material
from ldae.evaluation.probes import fit_probe


@pytest.fixture(scope="module")
def head(judged_run: Path) -> Path:
    return fit_probe(
        judged_run / "embeddings.parquet", target="diagnosis", out=judged_run / "heads" / "diagnosis"
    )


def test_rank_correlation_of_one_subject() -> None:
    assert within_subject_spearman([0.1, 0.5, 0.9], [20.0, 21.0, 60.0]) == pytest.approx(1)
    assert within_subject_spearman([0.1, 0.5, 0.9], [3.0, 2.0, 1.0]) == pytest.approx(-1)
    assert within_subject_spearman([0.1, 0.5, 0.9], [2.0, 2.0, 2.0]) == 0


def test_targets_are_reached_and_volumes_measured(material: Material, head: Path) -> None:
    folder = evaluate_counterfactual(
        material.pipeline,
        material.cohort,
        head=head,
        out=material.run_dir / "evaluation" / "counterfactual",
        targets=(0.2, 0.5, 0.8),
        steps=2,
        decode_steps=2,
        limit=5,
        device="cpu",
    )
    scans, result = pd.read_csv(folder / "scans.csv"), read_json(folder / "result.json")
    assert scans["subject"].nunique() == result["subjects"] == 5
    assert (scans.groupby("subject").size() == 3).all()
    np.testing.assert_allclose(scans["head_after"], scans["target"], atol=1e-4)
    assert scans.groupby("subject")["head_before"].nunique().max() == 1
    by_subject = [
        within_subject_spearman(list(part["target"]), list(part["ventricle_ml"]))
        for _, part in scans.groupby("subject")
    ]
    assert result["values"]["counterfactual_spearman"] == pytest.approx(np.mean(by_subject))
    assert result["values"]["ventricle_estimator_r"] > 0.9  # the cavity is plain to see
    assert list(pd.read_csv(folder / "table.csv")["target"]) == [0.2, 0.5, 0.8]


def test_targets_out_of_reach_are_said(material: Material, head: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"within reach for at least 2 subjects, got 0"):
        evaluate_counterfactual(
            material.pipeline,
            material.cohort,
            head=head,
            out=tmp_path,
            targets=(0.5, 1.5),
            steps=2,
            limit=3,
            device="cpu",
        )


def test_a_cohort_without_known_volumes_is_refused(material: Material, head: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(material.cohort).drop(columns="ventricle_ml")
    frame["path"] = [str(material.cohort.parent / path) for path in frame["path"]]
    frame.to_csv(tmp_path / "cohort.csv", index=False)
    with pytest.raises(InputError, match="must have the column ventricle_ml"):
        evaluate_counterfactual(
            material.pipeline, tmp_path / "cohort.csv", head=head, out=tmp_path / "out", device="cpu"
        )
