# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupShuffleSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from threadpoolctl import threadpool_info, threadpool_limits

from ldae.errors import CheckpointError, InputError
from ldae.heads import LinearProbe, RidgeProbe

# The checks' toy data holds classes of three samples, so the probe is checked with two folds.
CHECKED = [
    LinearProbe(folds=2, regularisation=(0.1, 1.0)),
    LinearProbe(regularisation=(1.0,)),
    RidgeProbe(regularisation=(0.1, 1.0)),
]

Cohort = tuple[NDArray[np.float64], NDArray[Any], NDArray[Any]]


@parametrize_with_checks(CHECKED, expected_failed_checks=lambda _: {})
def test_scikit_learn_contract(estimator: Any, check: Any) -> None:
    check(estimator)


def gaussian_classes(labels: list[str], *, per_class: int = 60, width: int = 8, scans: int = 2) -> Cohort:
    """Codes around one mean per class, `scans` nearly equal ones a subject."""
    generator = np.random.default_rng(0)
    means = 1.5 * generator.standard_normal((len(labels), width))
    codes, diagnoses, subjects = [], [], []
    for row, label in enumerate(labels):
        for subject in range(per_class):
            own = means[row] + generator.standard_normal(width)
            codes.append(own + 0.01 * generator.standard_normal((scans, width)))
            diagnoses += [label] * scans
            subjects += [f"{label}{subject}"] * scans
    return np.concatenate(codes), np.array(diagnoses), np.array(subjects)


@pytest.fixture(scope="module")
def binary() -> Cohort:
    return gaussian_classes(["CN", "AD"])


@pytest.fixture(scope="module")
def three() -> Cohort:
    return gaussian_classes(["CN", "MCI", "AD"])


def test_probabilities_equal_scikit_learn_at_the_same_strength(three: Cohort) -> None:
    codes, labels, _ = three
    probe = LinearProbe(regularisation=(0.3,)).fit(codes, labels)
    oracle = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=5000)).fit(codes, labels)
    np.testing.assert_allclose(probe.predict_proba(codes), oracle.predict_proba(codes), atol=1e-9)
    assert probe.classes_.tolist() == ["AD", "CN", "MCI"]
    np.testing.assert_array_equal(probe.predict(codes), oracle.predict(codes))


def test_probability_of_gaussian_classes_is_the_known_one() -> None:
    generator = np.random.default_rng(1)
    codes = generator.standard_normal((6000, 3))
    labels = np.repeat([0, 1], 3000)
    codes[labels == 1] += [1.0, 0.0, -0.5]
    probe = LinearProbe(folds=3).fit(codes, labels)
    logit = codes @ [1.0, 0.0, -0.5] - 0.5 * 1.25
    assert np.abs(probe.predict_proba(codes)[:, 1] - 1 / (1 + np.exp(-logit))).max() < 0.05


def test_strength_is_chosen_over_subjects_not_scans() -> None:
    # Labels are random per subject and every subject has ten equal scans: scans leak, subjects do not.
    generator = np.random.default_rng(0)
    codes = np.repeat(generator.standard_normal((60, 80)), 10, axis=0)
    labels = np.repeat(generator.permutation(np.repeat([0, 1], 30)), 10)
    subjects = np.repeat(np.arange(60), 10)
    grid = (1e-5, 1e-2, 10.0)
    assert LinearProbe(regularisation=grid).fit(codes, labels, groups=subjects).regularisation_ == 1e-5
    assert LinearProbe(regularisation=grid).fit(codes, labels).regularisation_ == 10.0


def test_chosen_strength_has_the_lowest_held_out_loss(binary: Cohort) -> None:
    codes, labels, subjects = binary
    noisy = codes + 3 * np.random.default_rng(2).standard_normal(codes.shape)
    train, test = next(GroupShuffleSplit(1, random_state=0).split(noisy, labels, subjects))
    probe = LinearProbe(regularisation=(1e-5, 1e-1)).fit(noisy[train], labels[train], subjects[train])
    losses = {
        value: log_loss(
            labels[test],
            LinearProbe(regularisation=(value,)).fit(noisy[train], labels[train]).predict_proba(noisy[test]),
        )
        for value in (1e-5, 1e-1)
    }
    assert probe.regularisation_ == min(losses, key=lambda value: losses[value])


@pytest.mark.parametrize("load", [load_breast_cancer, load_digits])
def test_accuracy_on_real_data(load: Any) -> None:
    features, labels = load(return_X_y=True)
    probe = LinearProbe(regularisation=(1e-2, 1e-1, 1.0), folds=3)
    reference = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    ours = cross_val_score(probe, features, labels).mean()
    assert ours > cross_val_score(reference, features, labels).mean() - 0.02


def test_positive_label_turns_the_direction(binary: Cohort) -> None:
    codes, labels, _ = binary
    towards_ad = LinearProbe(positive_label="AD", regularisation=(1.0,)).fit(codes, labels)
    by_order = LinearProbe(regularisation=(1.0,)).fit(codes, labels)
    assert by_order.positive_label_ == "CN"
    np.testing.assert_allclose(towards_ad.direction_, -by_order.direction_)
    ahead = codes + 0.1 * towards_ad.direction_
    column = towards_ad.classes_.tolist().index("AD")
    assert (towards_ad.predict_proba(ahead)[:, column] > towards_ad.predict_proba(codes)[:, column]).all()


def test_direction_is_the_gradient_of_the_log_odds(binary: Cohort, three: Cohort) -> None:
    codes, labels, _ = binary
    probe = LinearProbe(regularisation=(1.0,)).fit(codes, labels)
    small = 1e-6 * np.eye(codes.shape[1])
    odds = [np.log(p[:, 1] / p[:, 0]) for p in map(probe.predict_proba, (small, -small))]
    np.testing.assert_allclose((odds[0] - odds[1]) / 2e-6, probe.direction_, rtol=1e-5)
    codes, labels, _ = three
    probe = LinearProbe(regularisation=(1.0,)).fit(codes, labels)
    logs = [np.log(probe.predict_proba(x)) for x in (small, -small)]
    centred = [log - log.mean(axis=1, keepdims=True) for log in logs]
    np.testing.assert_allclose(((centred[0] - centred[1]) / 2e-6).T, probe.direction_, rtol=1e-4)


@pytest.mark.parametrize("kind", ["binary", "three"])
def test_state_survives_json(kind: str, request: pytest.FixtureRequest) -> None:
    codes, labels, subjects = request.getfixturevalue(kind)
    probe = LinearProbe(positive_label="AD", regularisation=(0.1, 1.0)).fit(codes, labels, subjects)
    config, arrays = probe.state()
    again = LinearProbe.from_state(json.loads(json.dumps(config)), arrays)
    np.testing.assert_array_equal(again.predict_proba(codes), probe.predict_proba(codes))
    np.testing.assert_array_equal(again.predict(codes), probe.predict(codes))
    np.testing.assert_array_equal(again.direction_, probe.direction_)
    assert again.get_params() == probe.get_params()
    assert again.positive_label_ == "AD"
    assert again.n_features_in_ == codes.shape[1]


def test_regression_state_survives_json_with_feature_names() -> None:
    import pandas as pd

    generator = np.random.default_rng(0)
    frame = pd.DataFrame(generator.standard_normal((40, 2)), columns=["y_000", "y_001"])
    probe = RidgeProbe().fit(frame, 3 * frame["y_000"] + 1)
    config, arrays = probe.state()
    again = RidgeProbe.from_state(json.loads(json.dumps(config)), arrays)
    np.testing.assert_array_equal(again.predict(frame), probe.predict(frame))
    np.testing.assert_allclose(probe.direction_, [3, 0], atol=0.1)


def test_ridge_recovers_a_linear_age() -> None:
    generator = np.random.default_rng(0)
    codes = generator.standard_normal((200, 4)) * [1, 10, 0.1, 1]
    age = 70 + codes @ [2.0, 0.1, 30.0, 0.0] + 0.1 * generator.standard_normal(200)
    subjects = np.repeat(np.arange(100), 2)
    probe = RidgeProbe().fit(codes, age, groups=subjects)
    np.testing.assert_allclose(probe.direction_, [2.0, 0.1, 30.0, 0.0], atol=0.2)
    assert probe.score(codes, age) > 0.99


def test_fit_does_not_depend_on_the_global_seed(binary: Cohort) -> None:
    codes, labels, subjects = binary
    np.random.seed(1)  # noqa: NPY002
    first = LinearProbe(folds=3).fit(codes, labels, subjects).coef_
    np.random.seed(2)  # noqa: NPY002
    np.testing.assert_array_equal(LinearProbe(folds=3).fit(codes, labels, subjects).coef_, first)


def test_constant_feature_has_no_say(binary: Cohort) -> None:
    codes, labels, _ = binary
    padded = np.column_stack([codes, np.full(len(codes), 7.0)])
    probe = LinearProbe(regularisation=(1.0,)).fit(padded, labels)
    assert probe.direction_[-1] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y, g: (x[:, 0], y, g), "Expected 2D array, got 1D array"),
        (lambda x, y, g: (x[:5], y, g), "inconsistent numbers of samples"),
        (lambda x, y, g: (np.where(x == x.max(), np.nan, x), y, g), "Input X contains NaN"),
        (lambda x, y, g: (x, np.full(len(y), "AD"), g), "at least two classes, got one class: .*AD"),
        (lambda x, y, g: (x, y, g[:3]), "groups must be one subject per sample"),
        (
            lambda x, y, g: (x[-126:], y[-126:], g[-126:]),
            "Class 'CN' must have at least 5 subjects for 5 folds, got 3",
        ),
    ],
)
def test_bad_input_is_named(binary: Cohort, change: Any, message: str) -> None:
    codes, labels, subjects = change(*binary)
    with pytest.raises(InputError, match=message):
        LinearProbe().fit(codes, labels, groups=subjects)


def test_class_count_is_of_samples_without_groups(binary: Cohort) -> None:
    codes, labels, _ = binary
    with pytest.raises(InputError, match="at least 5 samples for 5 folds, got 2"):
        LinearProbe().fit(codes[-122:], labels[-122:])


def test_other_bad_input(binary: Cohort) -> None:
    codes, labels, subjects = binary
    with pytest.raises(InputError, match=r"positive_label must be one of .*'AD', 'CN'.*'MCI'"):
        LinearProbe(positive_label="MCI").fit(codes, labels)
    with pytest.raises(InputError, match="one or more positive numbers"):
        LinearProbe(regularisation=()).fit(codes, labels)
    with pytest.raises(InputError, match="one or more positive numbers"):
        RidgeProbe(regularisation=(-1.0,)).fit(codes, np.arange(len(codes)))
    with pytest.raises(InputError, match="at least 5 subjects for 5 folds, got 2 subjects"):
        RidgeProbe().fit(codes[:4], [70.0, 71.0, 60.0, 61.0], groups=subjects[:4])
    with pytest.raises(InputError, match="y must hold a number for every sample, got None"):
        RidgeProbe().fit(codes[:4], [70.0, None, 60.0, 61.0])
    fitted = LinearProbe(regularisation=(1.0,)).fit(codes, labels)
    with pytest.raises(InputError, match="X has 3 features, but LinearProbe is expecting 8 features"):
        fitted.predict(codes[:, :3])


def test_state_of_another_head_is_refused(binary: Cohort) -> None:
    codes, labels, _ = binary
    config, arrays = LinearProbe(regularisation=(1.0,)).fit(codes, labels).state()
    with pytest.raises(CheckpointError, match="must be a RidgeProbe, got LinearProbe"):
        RidgeProbe.from_state(config, arrays)
    with pytest.raises(CheckpointError, match=r"must have shape \(1, 8\), got \(1, 7\)"):
        LinearProbe.from_state(config, {**arrays, "coef": arrays["coef"][:, 1:]})
    with pytest.raises(CheckpointError, match="must be finite"):
        LinearProbe.from_state(config, {**arrays, "mean": arrays["mean"] * np.nan})
    with pytest.raises(CheckpointError, match="must be saved as arrays"):
        LinearProbe.from_state(config, {"mean": arrays["mean"]})


def test_the_probe_is_fitted_by_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of two BLAS libraries that wait for each other cost ten times the seconds on 4,000 codes."""
    threads: set[int] = set()

    def note(*arguments: Any, **options: Any) -> float:
        threads.update(info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas")
        return float(log_loss(*arguments, **options))

    monkeypatch.setattr("ldae.heads.linear.log_loss", note)
    codes = np.random.default_rng(0).standard_normal((40, 3))
    with threadpool_limits(2, user_api="blas"):
        outside = {info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"}
        LinearProbe(folds=2).fit(codes, codes[:, 0] > 0)
    assert outside == {2}
    assert threads == {1}
