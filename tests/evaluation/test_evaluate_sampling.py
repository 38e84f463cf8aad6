# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_sampler import add_tiny_sampler

from ldae.cli.main import main
from ldae.data.artefact import read_json
from ldae.data.embeddings import code_array, read_embeddings, write_embeddings
from ldae.errors import CheckpointError, InputError
from ldae.evaluation.drawn import Drawn, Reference, judge, judge_as_training
from ldae.evaluation.sampling import evaluate_sampling

LIMIT = 5
ROWS = [
    ("real scans", "scan"),
    ("training scans", "scan"),
    ("real codes", "code"),
    ("real codes", "scan"),
    ("class Gaussian", "code"),
    ("class Gaussian", "scan"),
    ("code sampler", "code"),
    ("code sampler", "scan"),
    ("code sampler, no class", "code"),
    ("code sampler, no class", "scan"),
]


@pytest.fixture(scope="module")
def sampled(judged_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the judged run with a code sampler, and what the verb says of it."""
    run = tmp_path_factory.mktemp("sampled") / "run"
    shutil.copytree(judged_run, run, ignore=shutil.ignore_patterns("cache"))
    add_tiny_sampler(run)
    evaluate = ["evaluate", "sampling", "--run-dir", run, "--limit", LIMIT, "--decode-steps", 2]
    assert main([*map(str, evaluate), "--device", "cpu"]) == 0
    return run


def test_rows_and_figures(sampled: Path) -> None:
    folder = sampled / "evaluation" / "sampling"
    table, result = pd.read_csv(folder / "table.csv"), read_json(folder / "result.json")
    assert list(zip(table["method"], table["space"], strict=True)) == ROWS
    assert (table["n"] == LIMIT).all()
    assert result["drawn"] == LIMIT
    assert table["precision"].between(0, 1).all()
    assert table["recall"].between(0, 1).all()
    assert (table["kid_low"] <= table["kid_high"]).all()
    values = result["values"]
    assert values["sampler_kid"] == pytest.approx(table["kid"][7])
    assert values["sampler_code_fid"] == pytest.approx(table["fid"][6])
    assert values["real_fid"] == pytest.approx(table["fid"][0])
    assert values["decoded_kept"] < 1
    assert values["real_kept"] is None
    # five scans are too few for a probe, but the training scans are not
    assert "sampler_auc" not in values
    assert 0 <= values["all_training_auc"] <= 1
    assert any("ten of each of two classes" in note for note in result["notes"])


def test_the_nearest_training_scan_of_each(sampled: Path) -> None:
    scans = pd.read_csv(sampled / "evaluation" / "sampling" / "scans.csv", dtype={"nearest_session": str})
    frame = read_embeddings(sampled / "embeddings.parquet")
    real = frame[frame["split"] == "train"].reset_index(drop=True)
    codes, others = code_array(real), frame[frame["split"] == "val"]
    beside = others.drop_duplicates("subject")
    std = codes.std(0, ddof=1)
    for row in scans[scans["method"] == "real"].itertuples():
        distances = np.linalg.norm((code_array(beside)[:, None] - codes[None]) / std, axis=2)
        assert row.distance in [pytest.approx(value, rel=1e-3) for value in distances.min(1)]
    assert scans.loc[scans["method"] == "training", "distance"].max() == pytest.approx(0, abs=1e-4)
    assert set(scans["nearest_path"]) <= set(real["path"])
    assert set(scans.loc[scans["method"] == "sampler_any", "class"].dropna()) == set()
    assert set(scans.loc[scans["method"] == "sampler", "class"]) <= {"AD", "CN", "MCI"}


def test_the_same_again_is_not_computed(sampled: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="ldae"):
        evaluate_sampling(
            sampled / "pipeline",
            sampled / "cohort" / "cohort.csv",
            out=sampled / "evaluation" / "sampling",
            run_dir=sampled,
            limit=LIMIT,
            decode_steps=2,
            device="cpu",
        )
    assert "is up to date" in caplog.text


def test_errors(judged_run: Path, sampled: Path, tmp_path: Path) -> None:
    def evaluate(run: Path, **options: object) -> Path:
        given = {"limit": LIMIT, "decode_steps": 2, **options}
        return evaluate_sampling(
            run / "pipeline", run / "cohort" / "cohort.csv", out=tmp_path / "out", device="cpu", **given
        )

    with pytest.raises(FileNotFoundError, match="has no code sampler"):
        evaluate(judged_run)
    frame = read_embeddings(sampled / "embeddings.parquet")
    frame.attrs["pipeline"] = "1" * 64
    write_embeddings(frame, tmp_path / "other.parquet")
    with pytest.raises(CheckpointError, match="was made by pipeline 111111111111"):
        evaluate(sampled, embeddings=tmp_path / "other.parquet")
    with pytest.raises(FileNotFoundError, match=r"missing.parquet is missing"):
        evaluate(sampled, embeddings=tmp_path / "missing.parquet")
    with pytest.raises(InputError, match="must hold at least 4 each, got 3 and 3"):
        evaluate(sampled, limit=3)
    with pytest.raises(InputError, match="split must be held out from training, got train"):
        evaluate(sampled, split="train")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def reference() -> Reference:
    """Two classes, 2 apart along the first of six numbers."""
    random = np.random.default_rng(0)

    def scans(subjects: int) -> tuple[np.ndarray, pd.DataFrame]:
        names = np.array(["AD", "CN"])[np.arange(subjects) % 2]
        features = random.normal(size=(subjects, 6))
        features[names == "AD", 0] += 2
        told = {"subject": [f"{subjects}-{i}" for i in range(subjects)], "session": "1", "path": "x.nii"}
        return features, pd.DataFrame({**told, "diagnosis": names})

    (train, train_rows), (test, test_rows) = scans(300), scans(120)
    return Reference(train, train_rows, test, test, test_rows, "diagnosis", ("CN", "AD"))


def test_new_draws_are_as_good_as_real_ones_and_copies_are_found(reference: Reference) -> None:
    random = np.random.default_rng(1)
    classes = ("AD", "CN") * 60
    fresh = random.normal(size=(120, 6))
    fresh[::2, 0] += 2
    good = judge(Drawn("sampler", "code", fresh, classes), reference)
    assert good["kid_ci"][0] < 0 < good["kid_ci"][1]
    assert good["close"] == pytest.approx(0.05, abs=0.05)
    assert min(good["precision"], good["recall"]) > 0.7
    assert good["auc"] > 0.85
    # training scans, all but for a little noise
    copies = reference.train[:120] + 0.01 * random.normal(size=(120, 6))
    copied = judge(Drawn("sampler", "code", copies, (None,) * 120), reference)
    assert copied["close"] == 1
    assert copied["nearest"] < 0.1 < good["nearest"]
    shifted = judge(Drawn("sampler", "code", fresh + 3, (None,) * 120), reference)
    assert shifted["kid_ci"][0] > 0
    assert shifted["fid"] > 9 * 6 * 0.9
    assert shifted["precision"] < 0.2


def test_a_probe_learns_nothing_from_samples_without_a_class(reference: Reference) -> None:
    features = np.random.default_rng(2).normal(size=(80, 6))
    assert judge_as_training(features, (None,) * 80, reference=reference) == {}
    wrong = judge_as_training(features, ("AD", "CN") * 40, reference=reference)
    low, high = wrong["auc_ci"]
    assert low <= wrong["auc"] <= high
    assert (
        wrong["auc"]
        < judge_as_training(reference.train, tuple(reference.train_rows["diagnosis"]), reference=reference)[
            "auc"
        ]
    )
