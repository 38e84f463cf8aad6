# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from ldae.cli.main import main
from ldae.data.artefact import read_json, write_json
from ldae.data.spec import PreprocessingSpec
from ldae.errors import CheckpointError
from ldae.evaluation.baselines import oracle_auc
from ldae.evaluation.comparison import evaluate_comparison
from ldae.evaluation.material import Material
from ldae.evaluation.predictions import read_metrics
from ldae.evaluation.probes import fit_probe

ROOT = Path(__file__).resolve().parents[2]


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


def test_trained_networks_stand_beside_the_probe(
    material: Material, judged_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "cache").symlink_to(judged_run / "cache")
    spec = PreprocessingSpec.from_dict(read_json(judged_run / "representation" / "config.json")["spec"])
    tiny = ROOT / "tests" / "tiny" / "supervised.yaml"
    common = [f"--config={tiny}", f"--data.init_args.cohort={material.cohort}", "--run_dir", str(run)]
    common += [f"--data.init_args.spacing={list(spec.spacing)}", f"--data.init_args.size={list(spec.size)}"]
    for task in ("classification", "regression"):
        assert main(["fit", f"--config=demo/{task}.yaml", *common]) == 0, capfd.readouterr().err
    # one that was judged on fewer scans
    fewer = shutil.copytree(run / "baselines" / "diagnosis-cnn", run / "baselines" / "diagnosis-fewer")
    lines = (fewer / "predictions.csv").read_text().splitlines()
    last = max(number for number, line in enumerate(lines) if ",test," in line)
    (fewer / "predictions.csv").write_text("\n".join([*lines[:last], *lines[last + 1 :]]) + "\n")

    def compare(out: str) -> Path:
        return evaluate_comparison(
            material.pipeline,
            material.cohort,
            out=tmp_path / out,
            embeddings=judged_run / "embeddings.parquet",
            heads=tmp_path / "heads",
            run_dir=run,
            device="cpu",
        )

    folder = compare("one")
    result, table = read_json(folder / "result.json"), pd.read_csv(folder / "table.csv")
    metrics = {target: read_metrics(run / "baselines" / f"{target}-cnn") for target in ("diagnosis", "age")}
    assert result["values"]["network_cnn_auc"] == metrics["diagnosis"]["auc"]
    assert result["values"]["network_cnn_auc_ci"] == metrics["diagnosis"]["auc_ci"]
    assert result["values"]["network_cnn_age_mae"] == metrics["age"]["mae"]
    rows = table[table["features"] == "network cnn"].set_index(["target", "metric"])["value"]
    assert rows["diagnosis", "nll"] == pytest.approx(metrics["diagnosis"]["nll"])
    assert result["notes"] == [f"{fewer} is left out: it was judged on other scans than the probe."]

    # of another split it must not stand there
    path = run / "baselines" / "age-cnn" / "metrics.json"
    write_json(path, {**read_json(path), "split": "f" * 64})
    with pytest.raises(CheckpointError, match="was trained on split ffffffffffff, but the embeddings have"):
        compare("two")
