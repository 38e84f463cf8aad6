# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from ldae.errors import InputError
from ldae.heads.directions import Direction
from ldae.heads.typical import typical_direction

WIDTH = 6


@pytest.fixture
def covariance() -> np.ndarray:
    factor = np.random.default_rng(0).normal(size=(WIDTH, WIDTH))
    return factor @ factor.T + 0.5 * np.eye(WIDTH)


@pytest.fixture
def whitening(covariance: np.ndarray) -> np.ndarray:
    return np.linalg.inv(np.real(sqrtm(covariance)))


def unit(seed: int) -> Direction:
    drawn = np.random.default_rng(seed).normal(size=WIDTH)
    return Direction(unit=drawn / np.linalg.norm(drawn), std=np.arange(1.0, WIDTH + 1))


def test_it_is_covariance_times_weights(covariance: np.ndarray, whitening: np.ndarray) -> None:
    found = typical_direction(unit(1), whitening=whitening)
    pattern = covariance @ unit(1).unit
    np.testing.assert_allclose(found.unit, pattern / np.linalg.norm(pattern), atol=1e-9)
    np.testing.assert_array_equal(found.std, unit(1).std)


def test_codes_without_correlations_leave_the_direction_as_it_is() -> None:
    found = typical_direction(unit(1), whitening=np.eye(WIDTH))
    np.testing.assert_allclose(found.unit, unit(1).unit)


def test_no_other_step_to_the_same_output_is_shorter_by_mahalanobis(whitening: np.ndarray) -> None:
    weights = unit(1).unit
    taken = typical_direction(unit(1), whitening=whitening).unit
    length = np.linalg.norm(whitening @ taken / (weights @ taken))
    others = np.random.default_rng(2).normal(size=(500, WIDTH))
    others /= (others @ weights)[:, None]
    assert length <= np.linalg.norm(others @ whitening, axis=1).min()


def test_held_outputs_stay_and_the_own_one_rises(whitening: np.ndarray) -> None:
    held = [unit(2), unit(3)]
    found = typical_direction(unit(1), whitening=whitening, held=held).unit
    assert found @ unit(1).unit > 0
    np.testing.assert_allclose([found @ other.unit for other in held], 0, atol=1e-9)


def test_it_follows_the_classes_where_the_filter_does_not() -> None:
    random = np.random.default_rng(0)
    ill = np.repeat([0.0, 1.0], 4000)
    nuisance = random.normal(size=8000)
    codes = np.stack([ill + nuisance, nuisance + 0.1 * random.normal(size=8000)], axis=1)
    codes = (codes - codes.mean(0)) / codes.std(0)
    weights = np.linalg.lstsq(codes, ill - 0.5, rcond=None)[0]
    values, vectors = np.linalg.eigh(np.cov(codes.T))
    filter_ = Direction(unit=weights / np.linalg.norm(weights), std=np.ones(2))
    found = typical_direction(filter_, whitening=vectors / np.sqrt(values) @ vectors.T).unit
    mean_difference = codes[ill == 1].mean(0) - codes[ill == 0].mean(0)
    mean_difference /= np.linalg.norm(mean_difference)
    assert found @ mean_difference > 0.99
    assert filter_.unit @ mean_difference < 0.8


def test_nothing_left_is_said(whitening: np.ndarray) -> None:
    with pytest.raises(InputError, match="must leave a direction to move along"):
        typical_direction(unit(1), whitening=whitening, held=[unit(1)])
