# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ldae.heads import AugmentedProbe, DiffusionClassifier, NoiseAwareClassifier, PurifyClassifier

HEADS = [
    NoiseAwareClassifier(),
    DiffusionClassifier(levels=8),
    PurifyClassifier(diffusion_steps=200, steps=5, draws=2),
    AugmentedProbe(diffusion_steps=200),
]


@pytest.mark.slow
@pytest.mark.parametrize("load", [load_breast_cancer, load_digits])
@pytest.mark.parametrize("head", HEADS)
def test_accuracy_is_within_two_points_of_logistic_regression(head: Any, load: Callable[..., Any]) -> None:
    features, labels = load(return_X_y=True)
    plain = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    known = np.mean(cross_val_score(plain, features, labels, cv=5))
    found = np.mean(cross_val_score(clone(head), features, labels, cv=5, error_score="raise"))
    assert found > known - 0.02
