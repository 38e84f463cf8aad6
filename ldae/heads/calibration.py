# SPDX-License-Identifier: Apache-2.0
"""Maps that make a head's probabilities mean what they say, fitted by scikit-learn on calibration scans."""

from __future__ import annotations

from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from ldae.errors import InputError

Method = Literal["temperature", "sigmoid", "isotonic"]
METHODS: tuple[Method, ...] = get_args(Method)
FEWEST_SCANS = 5  # scikit-learn asks a fitted classifier in five parts


class Said(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose features are the probabilities that a head gave [N, C]."""

    def __init__(self, classes: NDArray[Any]) -> None:
        self.classes = classes
        self.classes_ = np.asarray(classes)
        self.is_fitted = True  # MAPIE looks for it

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Nothing to learn."""
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """The features."""
        return np.asarray(X, dtype=np.float64)

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Log odds of the second of two classes [N], or log probabilities [N, C]: what is mapped."""
        logs = np.log(np.clip(np.asarray(X, dtype=np.float64), np.finfo(np.float64).tiny, None))
        return logs[:, 1] - logs[:, 0] if logs.shape[1] == 2 else logs

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable class [N]."""
        return np.asarray(self.classes_[np.asarray(X).argmax(axis=1)])


def calibrate(
    probabilities: ArrayLike, y: ArrayLike, *, new: ArrayLike, classes: ArrayLike, method: Method
) -> NDArray[np.float64]:
    """New probabilities, mapped by what calibration scans teach.

    Args:
        probabilities: What the head says of calibration scans [N, C].
        y: Their true classes [N].
        new: What it says of other scans [M, C].
        classes: Class of each column [C].
        method: "temperature" divides the logits by one number (Guo et al. 2017), "sigmoid" fits Platt's two
            a class, "isotonic" any rising function a class; the last needs hundreds of scans.

    Returns:
        [M, C], rows summing to 1.

    Raises:
        InputError: No such method, too few calibration scans, or a class without any.
    """
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
    labels, truth = np.asarray(classes), np.asarray(y)
    check_classes(truth, labels)
    if len(truth) < FEWEST_SCANS:
        raise InputError(
            f"Calibration needs at least {FEWEST_SCANS} calibration scans, got {len(truth)}. Add subjects."
        )
    # scikit-learn orders columns by name
    order = np.argsort(labels)
    model = CalibratedClassifierCV(FrozenEstimator(Said(labels[order])), method=method)
    model.fit(np.asarray(probabilities, dtype=np.float64)[:, order], truth)
    mapped = np.empty(np.shape(new))
    mapped[:, order] = model.predict_proba(np.asarray(new, dtype=np.float64)[:, order])
    return mapped


def check_classes(y: ArrayLike, classes: ArrayLike) -> None:
    """Stop where a class has no calibration scan.

    Raises:
        InputError: It names them.
    """
    absent = sorted(map(str, set(np.asarray(classes).tolist()) - set(np.asarray(y).tolist())))
    if absent:
        raise InputError(f"Every class must have calibration scans, got none of {', '.join(absent)}.")
