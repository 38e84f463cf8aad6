# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn import metrics as oracle
from torchmetrics.functional.classification import multiclass_calibration_error

from ldae.errors import InputError
from ldae.evaluation.bootstrap import Bootstrap
from ldae.evaluation.metrics import (
    CLASSIFICATION_METRICS,
    REGRESSION_METRICS,
    classification_metrics,
    regression_metrics,
)

FEW = Bootstrap(resamples=50)


def scored(classes: int, *, scans: int = 200, seed: int = 0) -> tuple[NDArray[Any], NDArray[np.float64]]:
    generator = np.random.default_rng(seed)
    logits = generator.standard_normal((scans, classes)).round(1)  # rounding makes ties
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    drawn = (chances.cumsum(axis=1) < generator.random((scans, 1))).sum(axis=1)
    return np.array(["AD", "CN", "MCI", "FTD"])[drawn], chances


def test_binary_equals_scikit_learn_with_ad_positive() -> None:
    truth, chances = scored(2)
    result = classification_metrics(
        truth, chances, classes=["AD", "CN"], subjects=np.arange(200), positive_label="AD", bootstrap=FEW
    )
    claimed = np.array(["AD", "CN"])[chances.argmax(axis=1)]
    sick, score = truth == "AD", chances[:, 0]
    expected = {
        "accuracy": oracle.accuracy_score(truth, claimed),
        "balanced_accuracy": oracle.balanced_accuracy_score(truth, claimed),
        "precision": oracle.precision_score(truth, claimed, pos_label="AD"),
        "recall": oracle.recall_score(truth, claimed, pos_label="AD"),
        "f1": oracle.f1_score(truth, claimed, pos_label="AD"),
        "auc": oracle.roc_auc_score(sick, score),
        "nll": oracle.log_loss(sick, score),
        "brier": oracle.brier_score_loss(sick, score),
    }
    for name, value in expected.items():
        assert result[name] == pytest.approx(value), name


def test_three_classes_equal_scikit_learn_macro() -> None:
    truth, chances = scored(3)
    names = ["AD", "CN", "MCI"]
    result = classification_metrics(truth, chances, classes=names, subjects=np.arange(200), bootstrap=FEW)
    claimed = np.array(names)[chances.argmax(axis=1)]
    expected = {
        "balanced_accuracy": oracle.balanced_accuracy_score(truth, claimed),
        "precision": oracle.precision_score(truth, claimed, average="macro"),
        "recall": oracle.recall_score(truth, claimed, average="macro"),
        "f1": oracle.f1_score(truth, claimed, average="macro"),
        "auc": oracle.roc_auc_score(truth, chances, multi_class="ovr", average="macro"),
        "nll": oracle.log_loss(truth, chances),
        "brier": oracle.brier_score_loss(truth, chances),
    }
    for name, value in expected.items():
        assert result[name] == pytest.approx(value), name


@pytest.mark.parametrize("classes", [2, 3])
def test_calibration_error_equals_torchmetrics(classes: int) -> None:
    truth, chances = scored(classes, seed=1)
    names = ["AD", "CN", "MCI"][:classes]
    result = classification_metrics(truth, chances, classes=names, subjects=np.arange(200), bootstrap=FEW)
    target = torch.tensor([names.index(label) for label in truth])
    expected = multiclass_calibration_error(torch.tensor(chances), target, num_classes=classes, n_bins=15)
    assert result["ece"] == pytest.approx(float(expected), abs=1e-6)


def test_calibration_error_of_a_constant_claim() -> None:
    truth = np.array(["AD"] * 6 + ["CN"] * 4)
    chances = np.tile([0.9, 0.1], (10, 1))
    result = classification_metrics(truth, chances, classes=["AD", "CN"], subjects=np.arange(10))
    assert result["ece"] == pytest.approx(0.3)
    assert result["auc"] == 0.5


@pytest.mark.parametrize("classes", [2, 3])
def test_resamples_equal_repeated_scans(classes: int) -> None:
    # A resample given as weights scores what the same scans written out as often would score.
    truth, chances = scored(classes, scans=60)
    names = ["AD", "CN", "MCI"][:classes]
    copies = np.random.default_rng(5).integers(1, 4, size=60)
    rows = np.repeat(np.arange(60), copies)
    written_out = classification_metrics(
        truth[rows], chances[rows], classes=names, subjects=np.arange(len(rows)), bootstrap=FEW
    )
    claimed = np.array(names)[chances.argmax(axis=1)]
    assert written_out["accuracy"] == pytest.approx(
        oracle.accuracy_score(truth, claimed, sample_weight=copies)
    )
    assert written_out["nll"] == pytest.approx(oracle.log_loss(truth, chances, sample_weight=copies))
    if classes == 2:
        auc = oracle.roc_auc_score(truth == "CN", chances[:, 1], sample_weight=copies)
        assert written_out["auc"] == pytest.approx(auc)


def test_interval_of_an_auc_covers_the_true_one() -> None:
    # Scores of two unit Gaussians one apart: the true AUC is Phi(1 / sqrt 2) = 0.7602.
    generator = np.random.default_rng(0)
    truth = np.repeat(["CN", "AD"], 60)
    hits = []
    for trial in range(200):
        score = generator.standard_normal(120) + (truth == "AD")
        chance = 1 / (1 + np.exp(-score))
        result = classification_metrics(
            truth,
            np.column_stack([1 - chance, chance]),
            classes=["CN", "AD"],
            subjects=np.arange(120),
            bootstrap=Bootstrap(resamples=200, seed=trial),
        )
        low, high = result["auc_ci"]  # type: ignore[misc]
        hits.append(low <= 0.7602 <= high)
    assert 0.89 <= np.mean(hits) <= 0.985


def test_names_and_speed() -> None:
    truth, chances = scored(3, scans=1000)
    start = time.perf_counter()
    result = classification_metrics(
        truth, chances, classes=["AD", "CN", "MCI"], subjects=np.arange(1000) // 2
    )
    assert time.perf_counter() - start < 5
    assert list(result) == [key for name in CLASSIFICATION_METRICS for key in (name, f"{name}_ci")]
    for name in CLASSIFICATION_METRICS:
        low, high = result[f"{name}_ci"]  # type: ignore[misc]
        assert low < result[name] < high or name == "ece"


def test_intervals_follow_the_seed() -> None:
    truth, chances = scored(2)
    first, again, other = (
        classification_metrics(
            truth, chances, classes=["AD", "CN"], subjects=np.arange(200), bootstrap=Bootstrap(100, seed=seed)
        )
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first["auc_ci"] != other["auc_ci"]


def test_a_class_that_does_not_occur_is_left_out_of_means() -> None:
    truth, chances = scored(3)
    kept = truth != "MCI"
    result = classification_metrics(
        truth[kept], chances[kept], classes=["AD", "CN", "MCI"], subjects=np.arange(kept.sum()), bootstrap=FEW
    )
    auc = [oracle.roc_auc_score(truth[kept] == name, chances[kept, c]) for c, name in enumerate(["AD", "CN"])]
    assert result["auc"] == pytest.approx(np.mean(auc))


def test_rare_class_is_in_every_resample() -> None:
    truth = np.array(["AD"] + ["CN"] * 19)
    chance = np.linspace(0.9, 0.1, 20)
    result = classification_metrics(
        truth, np.column_stack([chance, 1 - chance]), classes=["AD", "CN"], subjects=np.arange(20)
    )
    assert np.isfinite(result["auc_ci"]).all()


def test_regression_equals_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    truth = 70 + 8 * generator.standard_normal(300)
    guess = truth + 4 * generator.standard_normal(300)
    result = regression_metrics(truth, guess, subjects=np.arange(300) // 3)
    assert list(result) == [key for name in REGRESSION_METRICS for key in (name, f"{name}_ci")]
    assert result["mae"] == pytest.approx(oracle.mean_absolute_error(truth, guess))
    assert result["rmse"] == pytest.approx(oracle.root_mean_squared_error(truth, guess))
    assert result["r2"] == pytest.approx(oracle.r2_score(truth, guess))
    low, high = result["rmse_ci"]  # type: ignore[misc]
    assert low < 4 < high


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probabilities": [[0.5, 0.6]] * 4}, r"sum to 1 in every row, got \[0.5, 0.6\]"),
        ({"probabilities": [[0.5, np.nan]] * 4}, "non-negative and sum to 1"),
        ({"probabilities": [[1.0]] * 4}, r"a column for each of .*shape \(4, 1\)"),
        ({"y_true": ["AD", "CN", "MCI", "CN"]}, r"only the classes \['AD', 'CN'\], got MCI"),
        ({"y_true": ["CN"] * 4}, "at least two classes, got only CN"),
        ({"y_true": ["CN", "AD"]}, "one row a scan, got 2 and 4"),
        ({"positive_label": "MCI"}, r"positive_label must be one of \['AD', 'CN'\], got 'MCI'"),
    ],
)
def test_classification_faults_are_named(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {
        "y_true": ["AD", "CN", "AD", "CN"],
        "probabilities": [[0.5, 0.5]] * 4,
        "classes": ["AD", "CN"],
        "subjects": [0, 1, 2, 3],
    }
    given.update(change)
    with pytest.raises(InputError, match=message):
        classification_metrics(given.pop("y_true"), given.pop("probabilities"), **given)


def test_regression_faults_are_named() -> None:
    with pytest.raises(InputError, match="one number a scan"):
        regression_metrics([1.0, 2.0], [1.0], subjects=[0, 1])
    with pytest.raises(InputError, match="must be finite"):
        regression_metrics([1.0, np.nan], [1.0, 2.0], subjects=[0, 1])
    with pytest.raises(InputError, match="must vary, got 70"):
        regression_metrics([70.0, 70.0], [1.0, 2.0], subjects=[0, 1])
