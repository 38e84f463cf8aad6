# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ldae.errors import InputError
from ldae.evaluation.ventricles import VentricleEstimator

Scans = tuple[NDArray[np.float32], NDArray[np.float64]]


def ventricles(count: int, *, seed: int, size: tuple[int, int, int] = (16, 20, 16), mm: float = 8.0) -> Scans:
    """Bright heads with a dark ellipsoid pair of known volume; contrast and noise differ by scan."""
    generator = np.random.default_rng(seed)
    ml = generator.uniform(15, 90, count)
    axes = [mm * (np.arange(side) - (side - 1) / 2) for side in size]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    head = 1 / (1 + np.exp((np.sqrt((x / 55) ** 2 + (y / 70) ** 2 + (z / 55) ** 2) - 1) * 20))
    scans = []
    for volume in ml:
        radius = (volume * 1000 / 2 / (4 / 3 * np.pi * 2)) ** (1 / 3)
        shift = 2 * generator.standard_normal(3)
        distance = [
            np.sqrt(((x - side - shift[0]) / 1) ** 2 + ((y - shift[1]) / 2) ** 2 + (z - shift[2]) ** 2)
            for side in (-15, 15)
        ]
        dark = sum(1 / (1 + np.exp((d - radius) / 2.5)) for d in distance)
        image = head * (0.9 - 0.7 * np.clip(dark, 0, 1)) * generator.uniform(0.9, 1.1)
        scans.append(np.clip(image + 0.02 * generator.standard_normal(size) * head, 0, 1))
    return np.stack(scans).astype(np.float32), ml


@pytest.fixture(scope="module")
def estimator() -> VentricleEstimator:
    scans, ml = ventricles(150, seed=0)
    return VentricleEstimator(folds=3).fit(scans, ml)


def test_known_volumes_are_measured(estimator: VentricleEstimator) -> None:
    scans, ml = ventricles(100, seed=1)
    assert estimator.correlation(scans, ml) > 0.97
    assert np.abs(estimator.predict(scans) - ml).mean() < 4


def test_measure_is_local(estimator: VentricleEstimator) -> None:
    scans, _ = ventricles(5, seed=2)
    elsewhere = scans.copy()
    elsewhere[:, ~estimator.region_] = 0.3
    np.testing.assert_array_equal(estimator.predict(elsewhere), estimator.predict(scans))
    assert 0.01 < estimator.region_.mean() < 0.5
    assert estimator.region_[5:11, 7:13, 6:10].mean() > 0.9


def test_brightness_does_not_matter(estimator: VentricleEstimator) -> None:
    scans, _ = ventricles(5, seed=2)
    np.testing.assert_allclose(estimator.predict(0.7 * scans), estimator.predict(scans), rtol=1e-4)


def test_a_scan_measures_the_same_in_any_batch(estimator: VentricleEstimator) -> None:
    scans, _ = ventricles(5, seed=2)
    alone = np.concatenate([estimator.predict(scan[None]) for scan in scans])
    np.testing.assert_allclose(alone, estimator.predict(scans))
    np.testing.assert_allclose(estimator.predict(iter(scans)), alone)


def test_fit_is_deterministic(estimator: VentricleEstimator) -> None:
    scans, ml = ventricles(150, seed=0)
    again = VentricleEstimator(folds=3).fit(scans, ml)
    np.testing.assert_array_equal(again.predict(scans), estimator.predict(scans))


def test_of_many_scans_evenly_spaced_ones_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    scans, ml = ventricles(90, seed=0)
    subjects = np.repeat(np.arange(45), 2)
    monkeypatch.setattr("ldae.evaluation.ventricles.MOST_SCANS", 40)
    monkeypatch.setattr("ldae.evaluation.ventricles.PREDICTED_AT_ONCE", 7)
    many = VentricleEstimator(folds=3).fit(scans, ml, subjects=subjects)
    few = VentricleEstimator(folds=3).fit(scans[::3], ml[::3], subjects=subjects[::3])
    np.testing.assert_array_equal(many.predict(scans), few.predict(scans))


def test_fine_grids_are_pooled() -> None:
    coarse, ml = ventricles(60, seed=0)
    scans = coarse.repeat(4, axis=1).repeat(4, axis=2).repeat(4, axis=3).astype(np.float16)
    fine = VentricleEstimator(folds=3).fit(scans[:40], ml[:40])
    assert fine.region_.shape == (32, 40, 32)
    assert fine.correlation(scans[40:], ml[40:]) > 0.95


def test_faults_are_named(estimator: VentricleEstimator) -> None:
    scans, ml = ventricles(30, seed=0)
    with pytest.raises(InputError, match=r"at least 20 scans, .* got 5 scans"):
        VentricleEstimator().fit(scans[:5], ml[:5])
    with pytest.raises(InputError, match=r"30 scans and volumes of shape \(20,\)"):
        VentricleEstimator().fit(scans, ml[:20])
    with pytest.raises(InputError, match=r"size the estimator was fitted on, \(16, 20, 16\)"):
        estimator.predict(scans[:, :12])
    with pytest.raises(InputError, match="size the estimator was fitted on"):
        estimator.predict([scans[0], scans[1][:12]])
    for strange in ([*scans[:29], scans[29][:12]], scans[:, 0]):
        with pytest.raises(InputError, match="of one size, got "):
            VentricleEstimator().fit(strange, ml)
    with pytest.raises(InputError, match="no voxel does"):
        VentricleEstimator().fit(np.ones((30, 16, 20, 16)), ml)
