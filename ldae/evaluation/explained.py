# SPDX-License-Identifier: Apache-2.0
"""How much of many numbers a code tells, by ridge regression on subjects that it was not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ldae.evaluation.bootstrap import Weights, with_intervals
from ldae.heads.checks import plain_folds

FOLDS = 5
STRENGTHS = tuple(10.0**power for power in range(-1, 7))


def share_explained(
    codes: NDArray[np.floating], targets: NDArray[np.floating], *, subjects: Sequence[str], seed: int = 0
) -> tuple[float, list[float]]:
    """Share of the targets' variance that a linear map of the code explains on held-out subjects.

    All targets have one strength of the penalty, chosen on further folds within the fitted part. Few scans
    against many numbers of the code make the share too small, never too large: it is a lower bound.

    Args:
        codes: Features [N, D].
        targets: What is to be told [N, L].
        subjects: Subject of each scan [N], at least 5 different ones; a subject is never on both sides.
        seed: Seed of the folds.

    Returns:
        The share, 1 minus squared error over squared distance from the fitted part's mean, at most 1 and
        negative where the fit misleads; and its 95 % interval [lo, hi] over subjects.

    Raises:
        InputError: Too few subjects.
    """
    names = np.asarray(subjects)
    targets = _rotated(targets)
    errors, spreads = np.empty(len(names)), np.empty(len(names))
    for train, test in plain_folds(len(names), names, folds=FOLDS, random_state=seed):
        inner = plain_folds(len(train), names[train], folds=FOLDS - 1, random_state=seed)
        fitted = _search(inner).fit(codes[train], targets[train])
        errors[test] = np.square(targets[test] - fitted.predict(codes[test])).sum(axis=1)
        spreads[test] = np.square(targets[test] - targets[train].mean(axis=0)).sum(axis=1)

    def share(weights: Weights) -> dict[str, NDArray[np.float64]]:
        return {"share": 1 - (weights @ errors) / (weights @ spreads)}

    found: dict[str, Any] = with_intervals(share, names)
    return found["share"], found["share_ci"]


def _rotated(targets: NDArray[np.floating]) -> NDArray[np.float64]:
    """As many numbers as scans at most: a rotation of all targets together changes no squared error."""
    rows, columns = targets.shape
    exact = np.asarray(targets, dtype=np.float64)
    return exact if columns <= rows else np.asarray(np.linalg.qr(exact.T, mode="r")).T


def _search(folds: Any) -> GridSearchCV:
    return GridSearchCV(
        make_pipeline(StandardScaler(), Ridge()),
        {"ridge__alpha": STRENGTHS},
        scoring="neg_mean_squared_error",
        cv=folds,
    )
