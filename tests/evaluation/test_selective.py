# SPDX-License-Identifier: Apache-2.0
"""Risk-coverage curves and their areas against hand-made cases and the direct definition."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from ldae.errors import InputError
from ldae.evaluation.selective import risk_coverage, selective_metrics, selective_statistic

SUBJECTS = np.arange(6)
WRONG = np.array([0, 0, 1, 0, 1, 1])
DOUBT = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])


def test_curve_of_six_scans() -> None:
    curve = risk_coverage(WRONG, DOUBT)
    np.testing.assert_allclose(curve["coverage"], np.arange(1, 7) / 6)
    np.testing.assert_allclose(curve["risk"], [0, 0, 1 / 3, 1 / 4, 2 / 5, 3 / 6])
    np.testing.assert_allclose(curve["threshold"], DOUBT)


def test_scans_in_equal_doubt_are_kept_together() -> None:
    curve = risk_coverage(WRONG, [0.1, 0.1, 0.1, 0.2, 0.2, 0.2])
    np.testing.assert_allclose(curve["coverage"], [0.5, 1])
    np.testing.assert_allclose(curve["risk"], [1 / 3, 1 / 2])


def test_areas_are_those_of_the_definition_for_many_scans() -> None:
    rng = np.random.default_rng(0)
    doubt = rng.random(4000)
    wrong = rng.random(4000) < doubt / 2
    found = selective_metrics(wrong, doubt, subjects=np.arange(4000))
    curve = risk_coverage(wrong, doubt)
    assert found["aurc"] == pytest.approx(curve["risk"].mean(), abs=1e-3)
    assert found["augrc"] == pytest.approx((curve["risk"] * curve["coverage"]).mean(), abs=1e-3)
    # risk at coverage c is c / 4 here: areas of 1/8 and 1/12
    assert found["aurc"] == pytest.approx(1 / 8, abs=0.02)
    assert found["augrc"] == pytest.approx(1 / 12, abs=0.02)
    low, high = found["aurc_ci"]
    assert low < found["aurc"] < high


@pytest.mark.parametrize("wrong", [[1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 1, 0, 1]])
def test_aurc_is_the_mean_risk_of_the_first(wrong: list[int]) -> None:
    """Geifman and El-Yaniv: the mean over i of E_i / i."""
    count = np.arange(1, len(wrong) + 1)
    found = selective_metrics(wrong, count, subjects=count)
    assert found["aurc"] == pytest.approx((np.cumsum(wrong) / count).mean())


def test_scans_in_equal_doubt_count_as_in_random_order() -> None:
    wrong, doubt = np.array([0, 1, 0, 1, 1, 0]), np.array([0.1, 0.2, 0.2, 0.2, 0.3, 0.3])
    orders = [[0, *middle, *last] for middle in permutations([1, 2, 3]) for last in permutations([4, 5])]
    expected = np.mean([(np.cumsum(wrong[order]) / np.arange(1, 7)).mean() for order in orders])
    assert selective_metrics(wrong, doubt, subjects=SUBJECTS)["aurc"] == pytest.approx(expected)


def test_a_scan_drawn_twice_counts_as_two() -> None:
    twice = selective_statistic(WRONG, DOUBT)(np.array([[2.0, 0.0, 1.0, 1.0, 0.0, 2.0]]))
    places = [0, 0, 2, 3, 5, 5]
    alone = selective_statistic(WRONG[places], DOUBT[places])(np.ones((1, 6)))
    for name, value in alone.items():
        np.testing.assert_allclose(twice[name], value)


def test_a_doubt_that_says_nothing_has_the_error_rate_and_half_of_it() -> None:
    found = selective_metrics(WRONG, np.zeros(6), subjects=SUBJECTS)
    assert found["aurc"] == pytest.approx(0.5)
    assert found["augrc"] == pytest.approx(0.25)


def test_order_of_scans_does_not_matter() -> None:
    doubt = np.array([0.1, 0.3, 0.3, 0.3, 0.2, 0.1])
    order = [3, 0, 5, 1, 4, 2]
    found = selective_metrics(WRONG, doubt, subjects=SUBJECTS)
    turned = selective_metrics(WRONG[order], doubt[order], subjects=SUBJECTS)
    assert found["aurc"] == pytest.approx(turned["aurc"])


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match=r"got shapes \(2,\) and \(3,\)"):
        risk_coverage([0, 1], [0.1, 0.2, 0.3])
    with pytest.raises(InputError, match="doubt must be finite"):
        selective_metrics([0, 1], [0.1, np.nan], subjects=[0, 1])
