# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from coded_cohort import SIZE, write_coded_cohort
from safetensors.numpy import load_file, save_file
from sklearn.metrics import mean_absolute_error, roc_auc_score

from ldae.cli.main import main
from ldae.cli.verbs.probe import HEADS as OFFERED
from ldae.data.artefact import read_json, sha256_file
from ldae.data.latents import LatentStore
from ldae.data.split import split_hash
from ldae.errors import CheckpointError, InputError
from ldae.evaluation.head_choice import HEADS
from ldae.evaluation.predictions import read_metrics
from ldae.evaluation.probes import fit_probe, is_fitted
from ldae.pipeline.embeddings import read_embeddings
from ldae.pipeline.head_folder import load_head
from ldae.pipeline.manipulation import resolve_head

SUBJECTS = 120


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of a cohort of known codes."""
    return write_coded_cohort(tmp_path_factory.mktemp("embeddings"), subjects=SUBJECTS)


def test_diagnosis_is_ad_against_cn_on_test_subjects(embeddings: Path, tmp_path: Path) -> None:
    folder = fit_probe(embeddings, target="diagnosis", out=tmp_path / "diagnosis")
    metrics, predictions = read_metrics(folder), pd.read_csv(folder / "predictions.csv")
    assert list(predictions.columns) == ["subject", "session", "split", "y_true", "y_pred", "p_AD", "p_CN"]
    assert set(predictions["y_true"]) == {"AD", "CN"}
    test = predictions[predictions["split"] == "test"]
    assert metrics["auc"] == pytest.approx(roc_auc_score(test["y_true"] == "AD", test["p_AD"]))
    assert metrics["auc"] > 0.9
    assert metrics["scans_test"] == len(test)
    assert metrics["auc_ci"][0] <= metrics["auc"] <= metrics["auc_ci"][1]
    assert {"accuracy", "balanced_accuracy", "precision", "recall", "f1", "nll", "brier", "ece"} < set(
        metrics
    )


def test_the_head_can_be_read_and_leads_towards_ad(embeddings: Path, tmp_path: Path) -> None:
    folder = fit_probe(embeddings, target="diagnosis", out=tmp_path / "diagnosis")
    fitted, frame = load_head(folder), read_embeddings(embeddings)
    assert fitted.pipeline == frame.attrs["pipeline"]
    assert fitted.provenance["target"] == "diagnosis"
    assert fitted.directions.shape == (1, SIZE)
    assert fitted.directions[0].argmax() == 0
    predictions = pd.read_csv(folder / "predictions.csv").set_index("subject")
    row = frame[frame["diagnosis"] == "AD"].iloc[0]
    code = row[[f"y_{i:03d}" for i in range(SIZE)]].to_numpy(dtype=float)[None]
    chance = fitted.head.predict_proba(code)[0, 0]  # type: ignore[attr-defined]
    assert chance == pytest.approx(predictions.loc[row["subject"], "p_AD"])


def test_age_is_a_number(embeddings: Path, tmp_path: Path) -> None:
    folder = fit_probe(embeddings, target="age", out=tmp_path / "age")
    metrics, predictions = read_metrics(folder), pd.read_csv(folder / "predictions.csv")
    test = predictions[predictions["split"] == "test"]
    assert len(predictions) == SUBJECTS
    assert metrics["mae"] == pytest.approx(mean_absolute_error(test["y_true"], test["y_pred"]))
    assert metrics["mae"] < 2
    assert metrics["r2"] > 0.9


def test_classes_can_be_chosen(embeddings: Path, tmp_path: Path) -> None:
    three = fit_probe(embeddings, target="diagnosis", out=tmp_path / "three", classes=("CN", "MCI", "AD"))
    assert {"p_AD", "p_CN", "p_MCI"} < set(pd.read_csv(three / "predictions.csv").columns)
    sex = fit_probe(embeddings, target="sex", out=tmp_path / "sex", positive="F")
    assert read_json(sex / "head.json")["state"]["parameters"]["positive_label"] == "F"


def test_the_same_probe_is_not_fitted_again(embeddings: Path, tmp_path: Path) -> None:
    folder = fit_probe(embeddings, target="age", out=tmp_path / "age")
    before = (folder / "head.json").stat().st_mtime_ns
    assert is_fitted(folder, embeddings=embeddings, target="age")
    fit_probe(embeddings, target="age", out=folder)
    assert (folder / "head.json").stat().st_mtime_ns == before
    assert not is_fitted(folder, embeddings=embeddings, target="age", seed=1)
    (folder / "predictions.csv").unlink()
    fit_probe(embeddings, target="age", out=folder)
    assert (folder / "predictions.csv").is_file()


def test_what_cannot_be_predicted_is_said(embeddings: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"target must be a column of .*got 'height'\. It has: subject"):
        fit_probe(embeddings, target="height", out=tmp_path)
    with pytest.raises(InputError, match="must have scans in split train, got none of FTD"):
        fit_probe(embeddings, target="diagnosis", out=tmp_path, classes=("CN", "FTD"))
    with pytest.raises(InputError, match="Every class of age must have scans in split train, got none of CN"):
        fit_probe(embeddings, target="age", out=tmp_path, classes=("CN",))
    with pytest.raises(FileNotFoundError, match="ldae probe"):
        read_metrics(tmp_path / "nothing")
    assert not list(tmp_path.iterdir())


def test_every_head_is_offered() -> None:
    assert tuple(HEADS) == OFFERED


@pytest.mark.parametrize("head", ["density", "evidential"])
def test_another_head_leads_along_the_linear_probe(head: str, embeddings: Path, tmp_path: Path) -> None:
    linear = fit_probe(embeddings, target="diagnosis", out=tmp_path / "linear")
    folder = fit_probe(embeddings, target="diagnosis", out=tmp_path / head, head=head)
    fitted, frame = load_head(folder), read_embeddings(embeddings)
    np.testing.assert_allclose(fitted.directions, load_head(linear).directions, atol=1e-9)
    predictions = pd.read_csv(folder / "predictions.csv")
    assert {"p_AD", "u_vacuity", "u_dissonance", "u_epistemic"} < set(predictions.columns)
    codes = frame.set_index("subject").loc[predictions["subject"], [f"y_{i:03d}" for i in range(SIZE)]]
    chances = fitted.head.predict_proba(codes.to_numpy(dtype=float))  # type: ignore[attr-defined]
    np.testing.assert_allclose(chances[:, 0], predictions["p_AD"], atol=1e-9)
    assert read_metrics(folder)["auc"] > 0.85


def test_heads_that_do_not_suit_are_refused(embeddings: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="head must be linear for the numbers of 'age', got 'ladine'"):
        fit_probe(embeddings, target="age", out=tmp_path / "age", head="ladine")
    with pytest.raises(InputError, match=r"head must be one of linear, .*, ladine"):
        fit_probe(embeddings, target="diagnosis", out=tmp_path / "x", head="forest")
    with pytest.raises(InputError, match="Run: ldae embed --depths"):
        fit_probe(embeddings, target="diagnosis", out=tmp_path / "x", head="ladine", depths=True)


def write_latents(run: Path, frame: pd.DataFrame, *, split: str | None = None) -> LatentStore:
    """A store of latents that are raised in one corner in AD."""
    store = LatentStore(run / "latents", autoencoder="a" * 64, spec="s" * 64)
    generator = torch.Generator().manual_seed(0)
    for subject, diagnosis in zip(frame["subject"], frame["diagnosis"], strict=True):
        mean = torch.randn((2, 4, 4, 4), generator=generator)
        mean[0, :2, :2, :2] += 2.0 * (diagnosis == "AD")
        store.write(subject, mean, torch.ones_like(mean))
    store.write_index(frame.assign(key=frame["subject"]), split or split_hash(frame))
    return store


@pytest.mark.slow
def test_heads_can_be_fitted_on_spatial_latents(embeddings: Path, tmp_path: Path) -> None:
    frame = read_embeddings(embeddings)
    write_latents(tmp_path, frame)
    words = ["probe", "--run-dir", tmp_path, "--embeddings", embeddings, "--target", "diagnosis"]
    assert main([*map(str, words), "--head", "noise-aware", "--latents"]) == 0
    folder = tmp_path / "heads" / "diagnosis-noise-aware-latents"
    fitted, metrics = load_head(folder), read_metrics(folder)
    assert fitted.head.latent_shape_ == (2, 4, 4, 4)  # type: ignore[attr-defined]
    assert fitted.directions.shape == (1, SIZE)
    assert metrics["auc"] > 0.9
    assert {"u_entropy", "u_disagreement"} < set(pd.read_csv(folder / "predictions.csv").columns)
    with pytest.raises(InputError, match=r"code of 6 numbers, got .*-latents, which takes 128"):
        resolve_head(folder, std=np.ones(SIZE), pipeline=fitted.pipeline)


def test_latents_that_do_not_fit_are_refused(embeddings: Path, tmp_path: Path) -> None:
    frame, out = read_embeddings(embeddings), tmp_path / "head"
    with pytest.raises(FileNotFoundError, match="Run first: ldae latents"):
        fit_probe(embeddings, target="diagnosis", out=out, head="purify", latents=tmp_path / "latents")
    with pytest.raises(InputError, match="latents must be left out for head density; noise-aware"):
        fit_probe(embeddings, target="diagnosis", out=out, head="density", latents=tmp_path / "latents")
    write_latents(tmp_path, frame[frame["diagnosis"] != "CN"], split=split_hash(frame))
    with pytest.raises(InputError, match=r"must have a latent in .*, got none of s000 1"):
        fit_probe(embeddings, target="diagnosis", out=out, head="diffusion", latents=tmp_path / "latents")
    write_latents(tmp_path, frame, split="b" * 64)
    with pytest.raises(InputError, match=r"must be of the split of the embeddings, .* got bbbbbbbbbbbb"):
        fit_probe(embeddings, target="diagnosis", out=out, head="diffusion", latents=tmp_path / "latents")


@pytest.mark.slow
def test_a_drawn_class_keeps_its_own_direction(embeddings: Path, tmp_path: Path) -> None:
    folder = fit_probe(embeddings, target="diagnosis", out=tmp_path / "augmented", head="augmented")
    fitted = load_head(folder)
    assert fitted.directions[0].argmax() == 0
    assert read_metrics(folder)["auc"] > 0.85


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"pipeline": 5}, "pipeline must be a hash, got 5"),
        (
            {"directions": np.full((1, SIZE), np.nan)},
            r"directions must be 1 rows of finite numbers, got \(1, ",
        ),
        ({"directions": np.zeros((3, SIZE))}, r"directions must be 1 rows of finite numbers, got \(3, "),
    ],
)
def test_a_head_that_was_changed_by_hand_is_refused_with_its_folder(
    embeddings: Path, tmp_path: Path, damage: dict[str, Any], message: str
) -> None:
    folder = fit_probe(embeddings, target="diagnosis", out=tmp_path / "diagnosis")
    document = json.loads((folder / "head.json").read_text())
    arrays = load_file(folder / "head.safetensors")
    if "directions" in damage:
        arrays["directions"] = damage["directions"]
        save_file(arrays, folder / "head.safetensors")
        document["arrays_sha256"] = sha256_file(folder / "head.safetensors")
    else:
        document |= damage
    (folder / "head.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=message) as error:
        load_head(folder)
    assert str(folder) in str(error.value)
