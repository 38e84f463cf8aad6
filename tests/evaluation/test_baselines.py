# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA

from ldae.errors import InputError
from ldae.evaluation.baselines import oracle_auc, voxel_pca_features


def test_features_are_fitted_on_training_scans_only() -> None:
    generator = np.random.default_rng(0)
    basis = generator.standard_normal((3, 4, 5, 6))
    train = np.einsum("nk,kxyz->nxyz", generator.standard_normal((40, 3)), basis).astype(np.float16)
    test = np.einsum("nk,kxyz->nxyz", generator.standard_normal((10, 3)), basis).astype(np.float16)
    train_features, test_features = voxel_pca_features(train, test, n_features=3)
    assert train_features.shape == (40, 3)
    assert test_features.dtype == np.float32
    again = voxel_pca_features(train, np.concatenate([test, 100 * test]), n_features=3)[1][:10]
    np.testing.assert_allclose(again, test_features, rtol=1e-4, atol=1e-4)
    # Three components hold all that varies: distances between scans survive.
    exact = np.linalg.norm((test[0] - test[1]).astype(float))
    assert np.linalg.norm(test_features[0] - test_features[1]) == pytest.approx(exact, rel=0.01)


def test_pca_faults_are_named() -> None:
    with pytest.raises(InputError, match="from 1 to at most the 3 training scans, got 4"):
        voxel_pca_features(np.zeros((3, 2, 2, 2)), np.zeros((1, 2, 2, 2)), n_features=4)
    with pytest.raises(InputError, match="from 1 to at most the 3 training scans, got 0"):
        voxel_pca_features(np.zeros((3, 2, 2, 2)), np.zeros((1, 2, 2, 2)), n_features=0)
    for damaged in (0, 1):
        volumes = [np.random.default_rng(0).random((3, 2, 2, 2)) for _ in range(2)]
        volumes[damaged][1, 0, 0, 0] = np.nan
        with pytest.raises(InputError, match="must be finite"):
            voxel_pca_features(*volumes, n_features=2)
    with pytest.raises(InputError, match="one size"):
        voxel_pca_features(np.zeros((3, 2, 2, 2)), np.zeros((1, 2, 2, 3)), n_features=2)


def cohort(subjects: int = 900) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    sick = generator.random(subjects) < 0.5
    age = 75 + 7 * generator.standard_normal(subjects)
    log_volume = 3 + 0.02 * (age - 75) + 0.4 * sick + 0.2 * generator.standard_normal(subjects)
    return pd.DataFrame(
        {
            "subject": np.arange(subjects).astype(str),
            "split": np.where(np.arange(subjects) < subjects // 2, "train", "test"),
            "diagnosis": np.where(sick, "AD", "CN"),
            "age": age,
            "ventricle_ml": np.exp(log_volume),
        }
    )


def test_oracle_reaches_the_known_auc() -> None:
    # Given age, log volumes of the two groups lie 2 standard deviations apart: AUC Phi(sqrt 2) = 0.921.
    frame = cohort()
    assert oracle_auc(frame) == pytest.approx(0.921, abs=0.02)
    with_others = pd.concat([frame, frame.assign(diagnosis="MCI")])
    assert oracle_auc(with_others) == oracle_auc(frame)


def test_oracle_faults_are_named() -> None:
    with pytest.raises(InputError, match=r"got none named \['ventricle_ml'\]"):
        oracle_auc(cohort().drop(columns="ventricle_ml"))
    with pytest.raises(InputError, match="Split 'test' must hold AD and CN scans"):
        oracle_auc(cohort().assign(split="train"))


def test_components_are_those_of_the_whole_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against scikit-learn's exact decomposition, with blocks that do not divide the scans evenly."""
    generator = np.random.default_rng(1)
    strength = 0.8 ** np.arange(60)
    volumes = (generator.standard_normal((90, 60)) * strength) @ generator.standard_normal((60, 4 * 5 * 6))
    volumes = (3 + volumes).reshape(90, 4, 5, 6).astype(np.float32)
    rows = volumes.reshape(90, -1).astype(np.float64)
    monkeypatch.setattr("ldae.evaluation.baselines.BLOCK_VOXELS", 7 * 120)
    monkeypatch.setattr("ldae.evaluation.baselines.LEAST_VOLUMES", 1)
    monkeypatch.setattr("ldae.evaluation.baselines.VOXELS_AT_ONCE", 50)
    train, others = voxel_pca_features(volumes[:70], volumes[70:], n_features=12)
    exact = PCA(12, svd_solver="full").fit(rows[:70])
    for found, wanted in ((train, exact.transform(rows[:70])), (others, exact.transform(rows[70:]))):
        signs = np.sign((found * wanted).sum(0))
        np.testing.assert_allclose(found * signs, wanted, atol=0.002 * np.abs(wanted).max())
    assert np.all(np.diff((train**2).sum(0)) <= 0)


def test_scans_of_training_and_others_are_projected_alike() -> None:
    """Also onto the weakest components, which a probe standardises."""
    generator = np.random.default_rng(2)
    strength = np.arange(1, 201) ** -0.5
    volumes = (generator.standard_normal((200, 200)) * strength) @ generator.standard_normal((200, 6 * 6 * 8))
    volumes = volumes.reshape(200, 6, 6, 8).astype(np.float16)
    train, others = voxel_pca_features(volumes, volumes, n_features=64)
    np.testing.assert_allclose(others, train, atol=1e-3 * train.std(0).min())


def test_what_does_not_vary_has_components_of_zero() -> None:
    volumes = np.full((8, 3, 3, 3), 0.5, dtype=np.float32)
    volumes[:4, 0, 0, 0] = 1
    train, others = voxel_pca_features(volumes, volumes[:2], n_features=5)
    np.testing.assert_allclose(np.abs(train[:, 0]), 0.25, rtol=1e-5)
    np.testing.assert_allclose(train[:, 1:], 0, atol=1e-4)
    np.testing.assert_allclose(others[:, 1:], 0, atol=1e-4)
