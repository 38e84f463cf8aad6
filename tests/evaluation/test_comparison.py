# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ldae.data.artefact import read_json
from ldae.evaluation.baselines import oracle_auc
from ldae.evaluation.comparison import evaluate_comparison
from ldae.evaluation.material import Material
from ldae.evaluation.probes import fit_probe, read_metrics


def test_code_stands_beside_voxels_and_oracle(material: Material, judged_run: Path) -> None:
    shared = fit_probe(
        judged_run / "embeddings.parquet", target="diagnosis", out=judged_run / "heads" / "diagnosis"
    )
    folder = evaluate_comparison(
        material.pipeline, material.cohort, out=judged_run / "evaluation" / "comparison", device="cpu"
    )
    result, table = read_json(folder / "result.json"), pd.read_csv(folder / "table.csv")
    values = result["values"]
    assert values["probe_auc"] == read_metrics(shared)["auc"]
    assert values["probe_auc_ci"] == read_metrics(shared)["auc_ci"]
    assert values["ventricle_r2"] == read_metrics(folder / "heads" / "ventricle_ml")["r2"]
    assert not (folder / "heads" / "diagnosis").exists()
    assert values["baseline_auc"] > 0.9  # the cavity's size is in the first components
    assert values["oracle_auc"] == oracle_auc(pd.read_csv(material.cohort))
    assert result["voxel_components"] == result["code_numbers"] == 12
    assert set(table["features"]) == {"semantic code", "principal components of the voxels"}


def test_a_head_that_was_fitted_otherwise_is_left_alone(
    material: Material, judged_run: Path, tmp_path: Path
) -> None:
    embeddings = judged_run / "embeddings.parquet"
    other = fit_probe(
        embeddings, target="diagnosis", out=tmp_path / "heads" / "diagnosis", classes=("MCI", "AD")
    )
    before = (other / "head.json").read_bytes()
    folder = evaluate_comparison(
        material.pipeline, material.cohort, out=tmp_path / "out", heads=tmp_path / "heads", device="cpu"
    )
    assert (other / "head.json").read_bytes() == before
    own = folder / "heads" / "diagnosis"
    assert read_json(folder / "result.json")["values"]["probe_auc"] == read_metrics(own)["auc"]


def test_codes_must_be_there(material: Material, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="ldae embed"):
        evaluate_comparison(
            material.pipeline, material.cohort, out=tmp_path / "out", embeddings=tmp_path / "e.parquet"
        )
