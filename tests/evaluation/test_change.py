# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ldae.errors import InputError
from ldae.evaluation.change import YEARS, Change

POPULATION = pd.DataFrame(
    {"diagnosis": ["CN", "CN", "MCI", "AD", "AD"], "age": [60.0, 70.0, 80.0, 65.0, 75.0]}
)
ROWS = pd.DataFrame({"diagnosis": ["AD", "CN", "MCI"], "age": [80.0, 56.0, 71.0]})


def test_a_diagnosis_shifts_by_the_difference_of_the_class_means() -> None:
    change = Change.of("diagnosis", ROWS)
    assert list(change.wanted) == ["CN", "AD", "AD"]
    np.testing.assert_array_equal(change.sign, [-1, 1, 1])
    values = np.array([1.0, 3.0, 4.0, 6.0, 10.0])  # means 2, 4, 8
    np.testing.assert_allclose(change.shift(values, population=POPULATION), [-6, 6, 4])


def test_an_age_shifts_along_the_regression_line() -> None:
    change = Change.of("age", ROWS)
    np.testing.assert_array_equal(change.wanted, ROWS["age"] + np.array([-YEARS, YEARS, YEARS]))
    np.testing.assert_array_equal(change.sign, [-1, 1, 1])
    values = 3.0 + 0.2 * POPULATION["age"].to_numpy()
    np.testing.assert_allclose(change.shift(values, population=POPULATION), 0.2 * YEARS * change.sign)


def test_the_difference_image_is_that_of_the_class_means() -> None:
    volumes = np.random.default_rng(0).random((5, 2, 3, 4))
    images = Change.of("diagnosis", ROWS).image(iter(volumes), population=POPULATION)
    healthy, ill = volumes[:2].mean(0), volumes[3:].mean(0)
    np.testing.assert_allclose(images[0], healthy - ill, atol=1e-6)
    np.testing.assert_allclose(images[2], ill - volumes[2], atol=1e-6)


def test_some_of_the_scans_keep_their_change() -> None:
    part = Change.of("diagnosis", ROWS).take([2, 0])
    assert list(part.wanted) == ["AD", "CN"]
    assert part.design.shape == (2, 3)


def test_other_columns_are_refused() -> None:
    with pytest.raises(InputError, match="change of diagnosis or age, got a head of 'sex'"):
        Change.of("sex", ROWS)
