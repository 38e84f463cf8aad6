# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from ldae.evaluation.metrics import classification_metrics
from ldae.evaluation.robust_scores import (
    Judged,
    conformal_sets,
    doubts_of,
    head_scores,
    judged,
    mean_scores,
    outside_scores,
    own_doubt,
)
from ldae.evaluation.selective import selective_metrics

CLASSES = ("AD", "CN")
SCANS = 90


def table(seed: int, *, skill: float = 1.0) -> pd.DataFrame:
    """Answers that are right more often the higher the skill; three scans a subject."""
    random = np.random.default_rng(seed)
    truth = np.arange(SCANS) // 3 % 2
    chance = 1 / (1 + np.exp(-skill * (2 * truth - 1) - random.normal(size=SCANS)))
    return pd.DataFrame(
        {
            "subject": [f"s{number // 3:02d}" for number in range(SCANS)],
            "y_true": np.array(CLASSES)[truth],
            "p_AD": 1 - chance,
            "p_CN": chance,
            "u_cpiw": random.random(SCANS),
            "u_within": np.full(SCANS, 0.1),
        }
    )


def answers(*seeds: int, skill: float = 1.0) -> list[Judged]:
    return [judged(table(seed, skill=skill), classes=CLASSES, sets={}) for seed in seeds]


SUBJECTS = table(0)["subject"]


def test_scores_are_the_means_over_seeds_of_those_of_each_seed() -> None:
    found = head_scores(answers(0, 1), classes=CLASSES, subjects=SUBJECTS, positive="AD")
    each = [
        classification_metrics(
            one["y_true"],
            one[["p_AD", "p_CN"]],
            classes=CLASSES,
            subjects=SUBJECTS,
            positive_label="AD",
        )
        for one in (table(0), table(1))
    ]
    for name in ("accuracy", "balanced_accuracy", "auc", "nll", "brier", "ece", "f1"):
        assert found[name] == pytest.approx(np.mean([one[name] for one in each]))
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]
    assert found["nll_sd_of_seeds"] == pytest.approx(np.std([one["nll"] for one in each]))
    parts = []
    for one in (table(0), table(1)):
        wrong = (one["p_AD"] > 0.5) != (one["y_true"] == "AD")
        doubt = 1 - one[["p_AD", "p_CN"]].max(axis=1)
        parts.append(selective_metrics(wrong, doubt, subjects=SUBJECTS)["aurc"])
        assert found["error_auroc"] > 0.5
    assert found["aurc"] == pytest.approx(np.mean(parts))


def test_the_difference_from_the_linear_probe_is_paired() -> None:
    same = head_scores(answers(0), classes=CLASSES, subjects=SUBJECTS, positive="AD", against=answers(0))
    assert same["nll_above_linear"] == same["nll_above_linear_low"] == same["nll_above_linear_high"] == 0
    better = head_scores(
        answers(0, skill=3.0), classes=CLASSES, subjects=SUBJECTS, positive="AD", against=answers(0)
    )
    assert better["nll_above_linear_high"] < 0


def test_calibration_errors_vanish_for_answers_that_are_right_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    chance = random.uniform(0.02, 0.98, 20000)
    truth = (random.random(20000) < chance).astype(int)
    one = Judged(truth, np.stack([1 - chance, chance], 1), {}, {})
    found = head_scores([one], classes=CLASSES, subjects=np.arange(20000), positive="AD", intervals=False)
    assert found["ece_equal_mass"] < 0.02
    assert found["ece_class_wise"] < 0.02
    sharp = Judged(truth, np.stack([1 - np.round(chance), np.round(chance)], 1), {}, {})
    off = head_scores([sharp], classes=CLASSES, subjects=np.arange(20000), positive="AD", intervals=False)
    assert off["ece_equal_mass"] == pytest.approx(1 - off["accuracy"], abs=1e-9)
    assert off["ece_class_wise"] == pytest.approx(1 - off["accuracy"], abs=0.02)


def test_spreads_are_split_by_right_and_wrong_and_sets_by_level() -> None:
    calibration = table(5).assign(subject=[f"c{number}" for number in range(SCANS)])
    sets = conformal_sets(calibration, classes=CLASSES)
    one = table(6)
    scores = head_scores(
        [judged(one, classes=CLASSES, sets=sets)], classes=CLASSES, subjects=SUBJECTS, positive="AD"
    )
    right = np.where(one["p_AD"] > 0.5, "AD", "CN") == one["y_true"]
    assert scores["cpiw_right"] == pytest.approx(one["u_cpiw"][right].mean())
    assert scores["cpiw_wrong"] == pytest.approx(one["u_cpiw"][~right].mean())
    assert scores["variance_within_members"] == pytest.approx(0.1)
    assert 0.8 < scores["coverage_90"] <= scores["coverage_95"]
    assert scores["set_size_90"] <= scores["set_size_95"] <= 2
    few = conformal_sets(calibration.iloc[:12], classes=CLASSES)
    assert list(few) == [0.9]


def test_a_number_that_some_resamples_lack_has_the_interval_of_the_others() -> None:
    """A single error: four in ten resamples have none, and no CPIW of errors."""
    truth = np.arange(40) % 2
    chances = np.where(np.arange(2) == truth[:, None], 0.8, 0.2)
    chances[0] = chances[0, ::-1]
    one = Judged(truth, chances, {"cpiw": np.linspace(0.1, 0.9, 40)}, {})
    scores = head_scores([one], classes=CLASSES, subjects=np.arange(40), positive="AD")
    found = [scores[f"cpiw_wrong{end}"] for end in ("", "_low", "_high")]
    assert found == pytest.approx([0.1, 0.1, 0.1])
    assert 0 <= scores["error_auroc_low"] <= scores["error_auroc_high"] <= 1
    chances[0] = chances[0, ::-1]
    scores = head_scores([one], classes=CLASSES, subjects=np.arange(40), positive="AD")
    assert np.isnan([scores["cpiw_wrong"], scores["cpiw_wrong_low"], scores["cpiw_wrong_high"]]).all()


def test_the_mean_over_corruptions_weighs_them_alike() -> None:
    mild, strong = answers(0, 1), answers(2, skill=0.0)
    found = mean_scores([mild, strong], subjects=SUBJECTS)
    each = [
        np.mean(
            [
                head_scores([one], classes=CLASSES, subjects=SUBJECTS, positive="AD", intervals=False)[name]
                for one in some
            ]
        )
        for name in ("nll", "balanced_accuracy")
        for some in (mild, strong)
    ]
    assert found["corruption_nll"] == pytest.approx(np.mean(each[:2]))
    assert found["corruption_balanced_accuracy"] == pytest.approx(np.mean(each[2:]))
    assert found["corruption_nll_low"] < found["corruption_nll"] < found["corruption_nll_high"]


def test_outside_scans_are_told_as_scikit_learn_says() -> None:
    random = np.random.default_rng(0)
    inside, outside = random.normal(size=300), random.normal(size=200) + 1.2
    found = outside_scores([inside], [outside], subjects=(np.arange(300), np.arange(200)))
    truth, score = np.repeat([0, 1], [300, 200]), np.concatenate([inside, outside])
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, score))
    assert found["aupr"] == pytest.approx(average_precision_score(truth, score))
    # At the threshold that keeps 95 % of the own scans, the share of others that it keeps too.
    kept, own, _ = roc_curve(1 - truth, -score, drop_intermediate=False)
    assert found["fpr95"] == pytest.approx(kept[np.argmax(own >= 0.95)], abs=1e-9)
    assert found["auroc_low"] < found["auroc"] < found["auroc_high"]
    blank = outside_scores([inside], [np.full(200, 9.0)], subjects=(np.arange(300), np.arange(200)))
    assert (blank["auroc"], blank["fpr95"]) == (1, 0)


def test_a_head_speaks_of_its_own_doubt_by_what_only_it_can_say() -> None:
    told = pd.DataFrame({"p_AD": [0.2, 0.4], "u_entropy": [0.1, 0.2], "u_denoising_error": [1.0, 5.0]})
    assert own_doubt(told) == "denoising_error"
    assert own_doubt(told.drop(columns="u_denoising_error")) == "entropy"
    assert own_doubt(told.assign(u_denoising_error=1.0)) == "entropy"  # says the same of every scan
    spread = told.assign(u_cpiw=0.5, u_cpiw_AD=0.5, u_cpiw_CN=0.5)
    assert doubts_of(spread, classes=CLASSES) == ["entropy", "denoising_error", "cpiw"]
