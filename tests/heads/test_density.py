# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.utils.estimator_checks import parametrize_with_checks

from ldae.errors import InputError
from ldae.heads import DensityDirichletClassifier, LinearProbe


@parametrize_with_checks([DensityDirichletClassifier(folds=2)], expected_failed_checks=lambda _: {})
def test_scikit_learn_contract(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def cancer() -> Any:
    features, labels = load_breast_cancer(return_X_y=True)
    return DensityDirichletClassifier(folds=3).fit(features, labels), features, labels


def test_it_decides_as_the_linear_probe_and_is_sure_where_scans_lie(cancer: Any) -> None:
    head, features, labels = cancer
    probe = LinearProbe(folds=3, random_state=head.seed_).fit(features, labels)
    np.testing.assert_array_equal(head.predict(features), probe.predict(features))
    told = head.uncertainty(features)
    assert told["vacuity"].median() < 0.05
    far = head.uncertainty(features.mean(axis=0) + 40 * features.std(axis=0) * np.array([[1.0], [2.0]]))
    assert (far["vacuity"] > 0.99).all()
    away = features + 100 * features.std(axis=0) * np.where(labels == 0, 1, -1)[:, None]
    np.testing.assert_array_equal(head.predict(away), probe.predict(away))
    assert far["distance"][1] > far["distance"][0] > told["distance"].max()
    np.testing.assert_allclose(
        head.predict_proba(features.mean(axis=0)[None] + 100 * features.std(axis=0)), 0.5, atol=0.01
    )


def test_evidence_of_gaussian_codes_is_the_share_of_scans_further_out() -> None:
    codes = np.random.default_rng(0).standard_normal((2000, 4))
    labels = (codes[:, 0] > 10).astype(int)
    labels[:1000] = 1  # two classes of one distribution: p is a half, N all scans further out
    head = DensityDirichletClassifier().fit(codes, labels)
    evidence = head.concentration(np.array([[0.0, 0, 0, 0], [2.0, 0, 0, 0]])).sum(axis=1) - 2
    assert evidence[0] == pytest.approx(2000, rel=0.05)
    assert evidence[1] == pytest.approx(2000 * 0.406, rel=0.1)  # P(chi2_4 > 4)


def test_a_scan_does_not_depend_on_its_batch(cancer: Any) -> None:
    head, features, _ = cancer
    alone = np.concatenate([head.concentration(row[None]) for row in features[:20]])
    np.testing.assert_allclose(head.concentration(features)[:20], alone, rtol=1e-6)


def test_state_survives_json_and_bad_input_is_refused(cancer: Any) -> None:
    head, features, labels = cancer
    config, arrays = head.state()
    again = DensityDirichletClassifier.from_state(json.loads(json.dumps(config)), arrays)
    np.testing.assert_array_equal(again.concentration(features), head.concentration(features))
    with pytest.raises(InputError, match="at least two classes"):
        DensityDirichletClassifier().fit(features, np.zeros(len(labels)))
    with pytest.raises(InputError, match="X has 29 features"):
        head.predict(features[:, 1:])
