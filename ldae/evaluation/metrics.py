# SPDX-License-Identifier: Apache-2.0
"""Numbers that judge a head, each with its interval over subjects.

Every metric is written for weighted scans, which makes a thousand resamples a few matrix products. With
weights of 1 they are the usual ones, equal to scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ldae.errors import InputError
from ldae.evaluation.bootstrap import DEFAULT_BOOTSTRAP, Bootstrap, Statistic, Weights, with_intervals

ECE_BINS = 15
CLASSIFICATION_METRICS = (
    "accuracy",
    "balanced_accuracy",
    "precision",
    "recall",
    "f1",
    "auc",
    "nll",
    "brier",
    "ece",
)
REGRESSION_METRICS = ("mae", "rmse", "r2")

Floats = NDArray[np.float64]


def classification_metrics(
    y_true: ArrayLike,
    probabilities: ArrayLike,
    *,
    classes: ArrayLike,
    subjects: ArrayLike,
    positive_label: Any = None,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> dict[str, float | list[float]]:
    """Accuracy, balanced_accuracy, precision, recall, f1, auc, nll, brier, ece, each with `_ci`.

    The predicted class is the most probable one. With two classes precision, recall, F1 and AUC speak of the
    positive class and Brier is mean (p - y)^2 of it. Past two, precision, recall, F1 and one-against-rest AUC
    are means over the classes that occur in `y_true`, and Brier sums over classes. ECE compares the highest
    probability with how often it is right in 15 bins of equal width, closed on the right.

    Args:
        y_true: True class of each scan [N].
        probabilities: Probability of each class [N, C], rows summing to 1.
        classes: Class of each column [C].
        subjects: Subject of each scan [N]; resamples draw subjects with all their scans, and a resample that
            lacks a class of `y_true` is drawn again.
        positive_label: The positive class of a two-class task; the last column's when None.
        bootstrap: How intervals are made.

    Raises:
        InputError: Shapes that differ, rows that are no probabilities, an unknown or a single true class.
    """
    chosen = classification_statistic(y_true, probabilities, classes=classes, positive_label=positive_label)
    rows, named = len(np.asarray(y_true)), len(np.asarray(subjects))
    if rows != named:
        raise InputError(
            f"y_true, probabilities and subjects must have one row a scan, got {rows}, {rows} and {named}."
        )
    return with_intervals(chosen.compute, subjects, bootstrap=bootstrap, valid=chosen.complete)


class ClassStatistic(NamedTuple):
    """Scores of weighted scans, and which weights [R, N] hold every class that occurs [R]."""

    compute: Statistic
    complete: Callable[[Weights], NDArray[np.bool_]]


def classification_statistic(
    y_true: ArrayLike, probabilities: ArrayLike, *, classes: ArrayLike, positive_label: Any = None
) -> ClassStatistic:
    """The scores of `classification_metrics` as a function of the scans' weights; arguments as there."""
    labels = np.asarray(classes)
    chances = _check_probabilities(probabilities, labels)
    truth = _encode(y_true, labels)
    positive = _positive_index(labels, positive_label)
    if len(truth) != len(chances):
        raise InputError(
            f"y_true and probabilities must have one row a scan, got {len(truth)} and {len(chances)}."
        )
    present = np.unique(truth)
    if len(present) < 2:
        raise InputError(f"y_true must hold at least two classes, got only {labels[present[0]]!s}.")
    members = np.eye(len(labels))[truth]  # [N, C]

    def statistic(weights: Weights) -> dict[str, Floats]:
        return {
            **_decision_scores(weights, members, chances=chances, positive=positive),
            "auc": _auc_score(weights, members, chances=chances, positive=positive),
            **_probability_scores(weights, members, chances=chances),
        }

    def complete(weights: Weights) -> NDArray[np.bool_]:
        return np.asarray(((weights @ members)[:, present] > 0).all(axis=1))

    return ClassStatistic(statistic, complete)


def regression_metrics(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    subjects: ArrayLike,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> dict[str, float | list[float]]:
    """Mean absolute error, root mean squared error (over all scans at once) and R2, each with `_ci`.

    Args:
        y_true: True number of each scan [N].
        y_pred: Predicted number [N].
        subjects: Subject of each scan [N].
        bootstrap: How intervals are made.

    Raises:
        InputError: Shapes that differ, numbers that are not finite, all true numbers equal.
    """
    truth, guess = np.asarray(y_true, dtype=np.float64), np.asarray(y_pred, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != guess.shape or truth.shape != np.asarray(subjects).shape:
        raise InputError(
            f"y_true, y_pred and subjects must have one number a scan, got shapes {truth.shape}, "
            f"{guess.shape} and {np.asarray(subjects).shape}."
        )
    if not (np.isfinite(truth).all() and np.isfinite(guess).all()):
        raise InputError("y_true and y_pred must be finite, got NaN or infinity. Leave those scans out.")
    if np.ptp(truth) == 0:
        raise InputError(f"y_true must vary, got {truth[0]:g} for every scan.")

    def statistic(weights: Weights) -> dict[str, Floats]:
        total = weights.sum(axis=1)
        squared = weights @ (truth - guess) ** 2
        return {
            "mae": weights @ np.abs(truth - guess) / total,
            "rmse": np.sqrt(squared / total),
            "r2": 1 - squared / _variation(weights, truth),
        }

    def varied(weights: Weights) -> NDArray[np.bool_]:
        return np.asarray(_variation(weights, truth) > 0)

    return with_intervals(statistic, subjects, bootstrap=bootstrap, valid=varied)


def _variation(weights: Weights, truth: Floats) -> Floats:
    centred = truth - truth.mean()
    total = weights.sum(axis=1)
    return np.asarray(weights @ centred**2 - (weights @ centred) ** 2 / total)


def _decision_scores(
    weights: Weights, members: Floats, *, chances: Floats, positive: int | None
) -> dict[str, Floats]:
    chosen = np.eye(members.shape[1])[chances.argmax(axis=1)]
    hits = weights @ (members * chosen)  # [R, C]
    actual, claimed = weights @ members, weights @ chosen
    recall = _ratio(hits, actual)
    precision = _ratio(hits, claimed)
    f1 = _ratio(2 * hits, actual + claimed)
    occurs = members.any(axis=0)
    columns = occurs if positive is None else np.arange(members.shape[1]) == positive
    return {
        "accuracy": hits.sum(axis=1) / weights.sum(axis=1),
        "balanced_accuracy": recall[:, occurs].mean(axis=1),
        "precision": precision[:, columns].mean(axis=1),
        "recall": recall[:, columns].mean(axis=1),
        "f1": f1[:, columns].mean(axis=1),
    }


def _ratio(part: Floats, whole: Floats) -> Floats:
    # A class that is never claimed has precision 0, as in scikit-learn.
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _auc_score(weights: Weights, members: Floats, *, chances: Floats, positive: int | None) -> Floats:
    columns = np.flatnonzero(members.any(axis=0)) if positive is None else np.array([positive])
    each = [weighted_auc(weights, members[:, c] > 0, score=chances[:, c]) for c in columns]
    return np.asarray(np.mean(each, axis=0))


def weighted_auc(weights: Weights, positive: NDArray[np.bool_], *, score: Floats) -> Floats:
    """Share of (positive, negative) pairs in the right order, ties counting half: [R]."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf) > 0)
    ordered, is_positive = weights[:, order], positive[order]
    plus = np.add.reduceat(ordered * is_positive, starts, axis=1)  # per distinct score
    minus = np.add.reduceat(ordered * ~is_positive, starts, axis=1)
    below = minus.cumsum(axis=1) - minus / 2
    return np.asarray((plus * below).sum(axis=1) / (plus.sum(axis=1) * minus.sum(axis=1)))


def _probability_scores(weights: Weights, members: Floats, *, chances: Floats) -> dict[str, Floats]:
    total = weights.sum(axis=1)
    own = np.clip((chances * members).sum(axis=1), np.finfo(np.float64).eps, 1)
    squared = ((chances - members) ** 2).sum(axis=1)
    if members.shape[1] == 2:
        squared = squared / 2
    return {
        "nll": weights @ -np.log(own) / total,
        "brier": weights @ squared / total,
        "ece": _calibration_error(weights, members, chances=chances),
    }


def _calibration_error(weights: Weights, members: Floats, *, chances: Floats) -> Floats:
    confidence = chances.max(axis=1)
    right = members[np.arange(len(members)), chances.argmax(axis=1)]
    edges = np.linspace(0, 1, ECE_BINS + 1)
    bins = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, ECE_BINS - 1)
    inside = np.eye(ECE_BINS)[bins]  # [N, bins]
    gap = weights @ (inside * (right - confidence)[:, None])
    return np.asarray(np.abs(gap).sum(axis=1) / weights.sum(axis=1))


def _check_probabilities(probabilities: ArrayLike, labels: NDArray[Any]) -> Floats:
    chances = np.asarray(probabilities, dtype=np.float64)
    if chances.ndim != 2 or chances.shape[1] != len(labels):
        raise InputError(
            f"probabilities must have a column for each of {labels.tolist()}, got shape {chances.shape}."
        )
    sums = chances.sum(axis=1)
    if not ((chances >= 0).all() and np.allclose(sums, 1, atol=1e-4)):
        worst = int(np.nanargmax(np.abs(sums - 1))) if np.isfinite(sums).any() else 0
        raise InputError(
            f"probabilities must be non-negative and sum to 1 in every row, got {chances[worst].tolist()} "
            f"in row {worst}."
        )
    return chances


def _encode(y_true: ArrayLike, labels: NDArray[Any]) -> NDArray[np.intp]:
    index = {label: position for position, label in enumerate(labels.tolist())}
    truth = np.asarray(y_true).tolist()
    unknown = sorted({str(label) for label in truth if label not in index})
    if unknown:
        raise InputError(f"y_true must hold only the classes {labels.tolist()}, got {', '.join(unknown)}.")
    return np.array([index[label] for label in truth], dtype=np.intp)


def _positive_index(labels: NDArray[Any], positive_label: Any) -> int | None:
    names = labels.tolist()
    if positive_label is not None and positive_label not in names:
        raise InputError(f"positive_label must be one of {names}, got {positive_label!r}.")
    if len(names) != 2:
        return None
    return 1 if positive_label is None else names.index(positive_label)
