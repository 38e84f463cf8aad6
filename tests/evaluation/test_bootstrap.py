# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ldae.errors import InputError
from ldae.evaluation.bootstrap import Bootstrap, Weights, mean_with_interval, subject_weights, with_intervals


def test_scans_of_a_subject_are_drawn_together() -> None:
    subjects = np.array(["a", "b", "a", "c", "b", "d"])
    weights = subject_weights(subjects, resamples=200, seed=0)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, 1], weights[:, 4])
    np.testing.assert_array_equal(weights[:, [0, 1, 3, 5]].sum(axis=1), 4)
    assert weights.std(axis=0).min() > 0


def test_draws_follow_the_seed() -> None:
    first = subject_weights(np.arange(9), resamples=20, seed=3)
    np.testing.assert_array_equal(subject_weights(np.arange(9), resamples=20, seed=3), first)
    assert (subject_weights(np.arange(9), resamples=20, seed=4) != first).any()


def test_blocks_draw_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def valid(weights: Weights) -> NDArray[np.bool_]:
        return np.asarray(weights[:, 0] > 0)

    whole = subject_weights(np.arange(9), resamples=20, seed=3, valid=valid)
    monkeypatch.setattr("ldae.evaluation.bootstrap.WEIGHTS_AT_ONCE", 3 * 9)
    np.testing.assert_array_equal(subject_weights(np.arange(9), resamples=20, seed=3, valid=valid), whole)


def test_degenerate_resamples_are_drawn_again() -> None:
    sick = np.array([True, False, False, False, False, False])
    weights = subject_weights(
        np.arange(6),
        resamples=500,
        seed=0,
        valid=lambda w: (w[:, sick].sum(1) > 0) & (w[:, ~sick].sum(1) > 0),
    )
    assert weights.shape == (500, 6)
    assert weights[:, 0].min() >= 1


def test_interval_of_a_mean_has_the_known_width() -> None:
    values = np.random.default_rng(0).standard_normal(400)
    mean, (low, high) = mean_with_interval(values, np.arange(400), bootstrap=Bootstrap(resamples=4000))
    assert mean == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.06)


def test_coverage_is_over_subjects() -> None:
    # Four scans a subject share most of their variance: only resampling subjects covers the true mean of 0.
    generator = np.random.default_rng(0)
    subjects = np.repeat(np.arange(40), 4)
    by_subject, by_scan = [], []
    for trial in range(300):
        values = generator.standard_normal(40)[subjects] + 0.3 * generator.standard_normal(160)
        for units, hits in ((subjects, by_subject), (np.arange(160), by_scan)):
            _, (low, high) = mean_with_interval(values, units, bootstrap=Bootstrap(resamples=300, seed=trial))
            hits.append(low <= 0 <= high)
    assert 0.90 <= np.mean(by_subject) <= 0.98
    assert np.mean(by_scan) < 0.75


def test_every_number_gets_an_interval() -> None:
    values = np.arange(10.0)
    result = with_intervals(lambda w: {"mean": w @ values / w.sum(1), "one": np.ones(len(w))}, np.arange(10))
    assert result["mean"] == 4.5
    assert result["one_ci"] == [1.0, 1.0]
    assert list(result) == ["mean", "mean_ci", "one", "one_ci"]


def test_faults_are_named() -> None:
    with pytest.raises(InputError, match="at least 2 subjects, got 1"):
        mean_with_interval([1.0, 2.0], ["a", "a"])
    with pytest.raises(InputError, match=r"finite, one per scan, got shape \(2,\)"):
        mean_with_interval([1.0, np.nan], ["a", "b"])
    with pytest.raises(InputError, match="Add subjects of the rarest class"):
        subject_weights([0, 1], resamples=10, seed=0, valid=lambda w: np.zeros(len(w), dtype=bool))
