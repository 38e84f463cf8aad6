# SPDX-License-Identifier: Apache-2.0
"""Calibration, conformal sets and selective prediction of fitted heads."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from coded_cohort import write_coded_cohort

from ldae.data.artefact import read_json, write_json
from ldae.errors import CheckpointError, InputError
from ldae.evaluation.calibration import evaluate_calibration
from ldae.evaluation.predictions import read_predictions
from ldae.evaluation.probes import fit_probe
from ldae.evaluation.record import read_result
from ldae.pipeline.embeddings import read_embeddings, write_embeddings
from ldae.pipeline.folder import PipelineIndex, write_index

CLASSES = ["CN", "MCI", "AD"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with heads for two classes, three classes, and age."""
    run_dir = tmp_path_factory.mktemp("run")
    components = {"autoencoder": "a", "denoiser": "d", "representation": "r", "statistics": "s"}
    index = PipelineIndex(components, spec={}, split="")
    (run_dir / "pipeline").mkdir()
    write_index(run_dir / "pipeline", index)
    frame = read_embeddings(write_coded_cohort(run_dir, subjects=1200, pipeline=index.sha256))
    # one subject of the class "01" in the test split, and another word that pandas reads as nothing
    tested = frame.index[(frame["split"] == "test") & (frame["diagnosis"] == "MCI")]
    words = frame["diagnosis"].map({"CN": "None", "AD": "NA", "MCI": "01"})
    frame["word"] = words.drop(tested[1:])
    embeddings = run_dir / "embeddings.parquet"
    write_embeddings(frame, embeddings)
    fit_probe(embeddings, target="diagnosis", out=run_dir / "heads" / "diagnosis")
    fit_probe(embeddings, target="diagnosis", classes=CLASSES, out=run_dir / "heads" / "three")
    fit_probe(embeddings, target="age", out=run_dir / "heads" / "age")
    fit_probe(embeddings, target="word", out=run_dir / "heads" / "word")
    (run_dir / "cohort.csv").touch()
    return run_dir


def judged(run: Path, head: str, out: Path, **options: str) -> Path:
    """The folder of one evaluation."""
    return evaluate_calibration(
        run / "pipeline", run / "cohort.csv", out=out, head=run / "heads" / head, **options
    )


def test_a_head_of_two_classes(run: Path, tmp_path: Path) -> None:
    folder = judged(run, "diagnosis", tmp_path)
    values, table = read_result(folder)["values"], pd.read_csv(folder / "table.csv")
    predictions = pd.read_csv(run / "heads" / "diagnosis" / "predictions.csv")
    test = predictions[predictions["split"] == "test"]
    own = np.where(test["y_true"] == "AD", test["p_AD"], test["p_CN"])
    assert values["nll_as_fitted"] == pytest.approx(-np.log(own).mean())
    assert values["accuracy_temperature"] == pytest.approx((test["y_true"] == test["y_pred"]).mean())
    assert values["coverage_lac_90"] == pytest.approx(0.9, abs=0.06)
    assert values["coverage_lac_95"] == pytest.approx(0.95, abs=0.06)
    assert 0 < values["aurc_1_probability"] < values["augrc_1_probability"] * 2
    sets = table[(table["part"] == "conformal") & (table["method"] == "lac") & (table["level"] == 0.9)]
    by_metric = sets.set_index("metric")["value"]
    assert by_metric[["coverage_AD", "coverage_CN"]].mean() == pytest.approx(by_metric["coverage"], abs=0.01)
    assert set(table["method"]) >= {"as fitted", "temperature", "sigmoid", "isotonic", "lac by class"}
    reliability = pd.read_csv(folder / "reliability.csv")
    assert reliability.groupby("method")["scans"].sum().eq(len(test)).all()
    curve = pd.read_csv(folder / "risk_coverage.csv")
    assert curve["coverage"].iloc[-1] == 1
    assert curve["risk"].iloc[-1] == pytest.approx((test["y_true"] != test["y_pred"]).mean())


def test_three_classes_have_adaptive_sets(run: Path, tmp_path: Path) -> None:
    values = read_result(judged(run, "three", tmp_path))["values"]
    for score in ("lac", "aps", "raps", "lac_by_class"):
        assert values[f"coverage_{score}_90"] > 0.82
        assert 1 <= values[f"set_size_{score}_90"] < 3


def test_what_the_calibration_scans_do_not_allow_is_left_out_and_said(run: Path, tmp_path: Path) -> None:
    predictions = pd.read_csv(run / "heads" / "three" / "predictions.csv")
    few = predictions[(predictions["split"] != "cal") | (predictions.groupby("split").cumcount() < 115)]
    (tmp_path / "head").mkdir()
    few.to_csv(tmp_path / "head" / "predictions.csv", index=False)
    found = read_result(judged(run, str(tmp_path / "head"), tmp_path / "out"))
    assert found["notes"] == ["raps at 95 % is left out: it needs 210 calibration subjects, there are 115."]
    assert "coverage_raps_90" in found["values"]
    assert "coverage_raps_95" not in found["values"]


def test_sets_within_a_column_and_intervals_of_a_number(run: Path, tmp_path: Path) -> None:
    values = read_result(judged(run, "diagnosis", tmp_path / "sets", by="sex"))["values"]
    assert values["coverage_lac_by_sex_90"] == pytest.approx(0.9, abs=0.07)
    folder = judged(run, "age", tmp_path / "age", by="sex")
    values, scans = read_result(folder)["values"], pd.read_csv(folder / "scans.csv")
    assert values["coverage_absolute_error_90"] == pytest.approx(0.9, abs=0.06)
    assert values["coverage_absolute_error_by_sex_90"] == pytest.approx(0.9, abs=0.07)
    inside = (scans["low_90"] <= scans["y_true"]) & (scans["y_true"] <= scans["high_90"])
    assert inside.mean() == pytest.approx(values["coverage_absolute_error_90"])
    # the noise on age has a standard deviation of 1
    assert values["width_absolute_error_90"] == pytest.approx(2 * 1.645, rel=0.2)


def test_classes_are_the_words_that_were_written_and_a_single_subject_has_no_interval(
    run: Path, tmp_path: Path
) -> None:
    folder = judged(run, "word", tmp_path)
    table = pd.read_csv(folder / "table.csv").set_index(["method", "level", "metric"])
    alone = table.loc[("lac", 0.9, "coverage_01")]
    assert alone["value"] in (0, 1)
    assert alone[["low", "high"]].isna().all()
    assert table.loc[("lac", 0.9, "coverage_NA"), ["low", "high"]].notna().all()
    assert read_result(folder)["values"]["coverage_01_lac_90_ci"] == [None, None]


def test_scans_that_were_seen_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got cal, which calibration is learned from"):
        judged(run, "diagnosis", tmp_path, split="cal")
    with pytest.raises(InputError, match="got train, which the head was fitted on"):
        judged(run, "age", tmp_path, split="train")


def test_a_head_of_another_pipeline_is_refused(run: Path, tmp_path: Path) -> None:
    head = shutil.copytree(run / "heads" / "age", tmp_path / "age")
    document = read_json(head / "head.json")
    write_json(head / "head.json", {**document, "pipeline": "0" * 64})
    with pytest.raises(CheckpointError, match=r"fitted on embeddings of pipeline 000000000000, but .* is"):
        judged(run, str(head), tmp_path / "out")


def test_a_handful_of_calibration_scans_is_refused(run: Path, tmp_path: Path) -> None:
    predictions = read_predictions(run / "heads" / "diagnosis")
    few = predictions[(predictions["split"] != "cal") | (predictions.groupby("split").cumcount() < 3)]
    (tmp_path / "head").mkdir()
    few.to_csv(tmp_path / "head" / "predictions.csv", index=False)
    with pytest.raises(InputError, match="at least 5 calibration scans, got 3"):
        judged(run, str(tmp_path / "head"), tmp_path / "out")


def test_a_second_time_does_nothing(run: Path, tmp_path: Path) -> None:
    written = (judged(run, "age", tmp_path) / "result.json").stat().st_mtime_ns
    assert (judged(run, "age", tmp_path) / "result.json").stat().st_mtime_ns == written


def test_bad_input_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Run first: ldae probe"):
        judged(run, "none", tmp_path)
    with pytest.raises(InputError, match=r"by must be a column of .*got 'site'"):
        judged(run, "age", tmp_path, by="site")
    with pytest.raises(InputError, match=r"needs at least 11 calibration scans of s\d+, got 1"):
        judged(run, "age", tmp_path, by="subject")
    with pytest.raises(InputError, match="must have calibration scans, got none of test"):
        judged(run, "age", tmp_path, by="split")
    assert not (tmp_path / "result.json").exists()
