# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from gaussian_blobs import blobs
from sklearn.metrics import balanced_accuracy_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from ldae.errors import InputError
from ldae.heads import AugmentedProbe, LinearProbe

QUICK: dict[str, Any] = {"diffusion_steps": 5, "folds": 2, "width": 16}


@pytest.mark.slow
@parametrize_with_checks([AugmentedProbe(**QUICK)], expected_failed_checks=lambda _: {})
def test_scikit_learn_contract(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def rare() -> tuple[AugmentedProbe, Any, Any]:
    codes, labels = blobs(2, width=8, distance=0.5, per_class=400)
    kept = np.r_[0:200, 400:420]  # class 1 is rare
    return AugmentedProbe(diffusion_steps=0).fit(codes[kept], labels[kept]), codes, labels


def test_rare_classes_are_filled_up_and_found_more_often(rare: Any) -> None:
    head, codes, labels = rare
    assert head.drawn_.tolist() == [0, 180]
    kept, tests = np.r_[0:200, 400:420], np.r_[200:400, 420:800]
    plain = LinearProbe().fit(codes[kept], labels[kept])
    ours = balanced_accuracy_score(labels[tests], head.predict(codes[tests]))
    assert ours > balanced_accuracy_score(labels[tests], plain.predict(codes[tests])) + 0.05
    np.testing.assert_array_equal(head.direction_, head.probe_.direction_)


def test_drawn_codes_are_spread_as_their_class(rare: Any) -> None:
    head, codes, labels = rare
    drawn = head.draw(np.repeat([0, 1], 3000), seed=1)
    for label, part in ((0, drawn[:3000]), (1, drawn[3000:])):
        own = codes[labels == label]
        np.testing.assert_allclose(part.mean(axis=0), own.mean(axis=0), atol=0.6)
        np.testing.assert_allclose(part.std(axis=0), own.std(axis=0), rtol=0.25)
    np.testing.assert_allclose(head.draw([1, 0], seed=1)[:1], head.draw([1], seed=1), atol=1e-5)


def test_state_survives_json_and_bad_input_is_refused(rare: Any) -> None:
    head, codes, labels = rare
    config, arrays = head.state()
    again = AugmentedProbe.from_state(json.loads(json.dumps(config)), arrays)
    np.testing.assert_array_equal(again.predict_proba(codes), head.predict_proba(codes))
    np.testing.assert_array_equal(again.draw([0, 1]), head.draw([0, 1]))
    with pytest.raises(InputError, match="at least two classes"):
        AugmentedProbe().fit(codes, np.zeros(len(labels)))
    with pytest.raises(InputError, match=r"X must be codes \[N, D\]"):
        AugmentedProbe().fit(codes.reshape(-1, 1, 2, 2, 2), labels)
    with pytest.raises(InputError, match="share must be between 0 and 1"):
        AugmentedProbe(share=2).fit(codes, labels)
