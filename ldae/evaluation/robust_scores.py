# SPDX-License-Identifier: Apache-2.0
"""Scores of heads under shift, averaged over seeds, with intervals over subjects.

Under several seeds a head answers for the same scans several times: each score is computed for every seed and
then averaged, and so it is for every resample of the subjects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score

from ldae.evaluation.bootstrap import Bootstrap, Statistic, Weights, with_intervals
from ldae.evaluation.metrics import ECE_BINS, ClassStatistic, classification_statistic, weighted_auc
from ldae.evaluation.selective import selective_statistic
from ldae.heads.conformal import ConformalSets, least_scans

LEVELS = (0.9, 0.95)
SPREADS = ("cpiw", "cnpv", "within", "between")
OWN_DOUBTS = (
    "distance",
    "denoising_error",
    "vacuity",
    "variance",
    "between",
    "epistemic",
    "disagreement",
    "entropy",
)
"""What a head has to say of its doubt, the first that it has; every head has the last."""
RESAMPLES = Bootstrap(resamples=400)

Floats = NDArray[np.float64]
Scores = dict[str, float]


class Judged(NamedTuple):
    """What a head said of some scans under one seed, as arrays.

    Attributes:
        truth: Class index of each [N].
        chances: Class probabilities [N, C].
        spreads: CPIW and the like of each scan [N], of a head that has them.
        sets: Conformal sets [N, C] by level.
    """

    truth: NDArray[np.intp]
    chances: Floats
    spreads: Mapping[str, Floats]
    sets: Mapping[float, NDArray[np.bool_]]


def conformal_sets(calibration: pd.DataFrame, *, classes: Sequence[str]) -> dict[float, ConformalSets]:
    """LAC sets at 90 % and 95 % from clean scans that no head was fitted on, one a subject."""
    first = calibration.drop_duplicates("subject")
    chances = first[[f"p_{name}" for name in classes]].to_numpy()
    return {
        level: ConformalSets(level=level).fit(chances, first["y_true"].to_numpy(), classes=classes)
        for level in LEVELS
        if len(first) >= least_scans(level)
    }


def judged(table: pd.DataFrame, *, classes: Sequence[str], sets: Mapping[float, ConformalSets]) -> Judged:
    """A table of answers as arrays."""
    chances = table[[f"p_{name}" for name in classes]].to_numpy()
    index = {name: place for place, name in enumerate(classes)}
    return Judged(
        np.array([index[name] for name in table["y_true"]], dtype=np.intp),
        chances,
        {name: table[f"u_{name}"].to_numpy() for name in SPREADS if f"u_{name}" in table.columns},
        {level: one.predict(chances) for level, one in sets.items()},
    )


def head_scores(
    answers: Sequence[Judged],
    *,
    classes: Sequence[str],
    subjects: ArrayLike,
    positive: str | None,
    against: Sequence[Judged] | None = None,
    intervals: bool = True,
) -> Scores:
    """Scores of a head, each with _low and _high where intervals are wanted.

    Args:
        answers: What it said under each seed, of the same scans.
        classes: Of the columns.
        subjects: Subject of each scan.
        positive: The positive class of two.
        against: What the linear probe said of the same scans: nll_above_linear is the paired difference.
        intervals: Whether to resample subjects.
    """
    each = [_statistic(answer, classes=classes, positive=positive) for answer in answers]
    parts = [one.compute for one in each]
    if against is not None:
        more = np.mean([_losses(answer) for answer in answers], axis=0)
        base = np.mean([_losses(answer) for answer in against], axis=0)
        parts = [_joined(part, {"nll_above_linear": more - base}) for part in parts]
    mean = _mean(parts)
    scores = _resampled(mean, subjects, valid=each[0].complete) if intervals else _points(mean, subjects)
    for name in ("nll", "balanced_accuracy"):
        weights = np.ones((1, len(answers[0].truth)))
        scores[f"{name}_sd_of_seeds"] = float(np.std([part(weights)[name][0] for part in parts]))
    return scores


def mean_scores(tables: Sequence[Sequence[Judged]], *, subjects: ArrayLike, intervals: bool = True) -> Scores:
    """Mean NLL and balanced accuracy over corruptions of the same scans.

    Args:
        tables: Of each corruption the answers under every grade and seed; corruptions weigh alike.
        subjects: Subject of each scan.
        intervals: Whether to resample subjects.
    """
    losses = np.mean([np.mean([_losses(one) for one in table], axis=0) for table in tables], axis=0)
    hits = np.mean([np.mean([_hits(one) for one in table], axis=0) for table in tables], axis=0)
    truth = tables[0][0].truth
    members = np.eye(truth.max() + 1)[truth]

    def statistic(weights: Weights) -> dict[str, Floats]:
        recall = weights @ (members * hits[:, None]) / (weights @ members)
        return {
            "corruption_nll": weights @ losses / weights.sum(axis=1),
            "corruption_balanced_accuracy": recall.mean(axis=1),
        }

    def complete(weights: Weights) -> NDArray[np.bool_]:
        return np.asarray(((weights @ members) > 0).all(axis=1))

    return _resampled(statistic, subjects, valid=complete) if intervals else _points(statistic, subjects)


def outside_scores(
    inside: Sequence[Floats],
    outside: Sequence[Floats],
    *,
    subjects: tuple[ArrayLike, ArrayLike],
) -> Scores:
    """How well a doubt tells scans that a head was not made for: auroc, fpr95, aupr.

    Args:
        inside: Doubt of scans of the head's own kind, under each seed [N].
        outside: Doubt of the others [M].
        subjects: Subjects of both.
    """
    named = np.concatenate([np.asarray(part) for part in subjects])
    other = np.arange(len(named)) >= len(inside[0])

    def of(score: Floats) -> Statistic:
        return lambda weights: {
            "auroc": weighted_auc(weights, other, score=score),
            "fpr95": _accepted(weights, other, score=score),
        }

    joined = [np.concatenate(pair) for pair in zip(inside, outside, strict=True)]

    def both(weights: Weights) -> NDArray[np.bool_]:
        return np.asarray((weights[:, other].sum(axis=1) > 0) & (weights[:, ~other].sum(axis=1) > 0))

    scores = _resampled(_mean([of(score) for score in joined]), named, valid=both)
    scores["aupr"] = float(np.mean([average_precision_score(other, score) for score in joined]))
    return scores


def doubts_of(table: pd.DataFrame, *, classes: Sequence[str]) -> list[str]:
    """The doubts that a head told [u_<doubt>], but for those of single classes."""
    told = [name.removeprefix("u_") for name in table.columns if name.startswith("u_")]
    return [name for name in told if not name.endswith(tuple(f"_{one}" for one in classes))]


def own_doubt(table: pd.DataFrame) -> str:
    """What a head has to say of its doubt; members that are one do not disagree."""
    told = [name for name in OWN_DOUBTS if f"u_{name}" in table.columns]
    return next(name for name in told if np.ptp(table[f"u_{name}"]) > 0 or name == told[-1])


def _statistic(answer: Judged, *, classes: Sequence[str], positive: str | None) -> ClassStatistic:
    named = np.asarray(classes)[answer.truth]
    base = classification_statistic(named, answer.chances, classes=classes, positive_label=positive)
    confidence = answer.chances.max(axis=1)
    wrong = ~_hits(answer).astype(bool)
    selective = selective_statistic(wrong, 1 - confidence)
    means = _scan_means(answer, wrong)

    def compute(weights: Weights) -> dict[str, Floats]:
        with np.errstate(divide="ignore", invalid="ignore"):
            return {
                **base.compute(weights),
                "ece_equal_mass": _equal_mass(weights, confidence, right=~wrong),
                "ece_class_wise": _class_wise(weights, answer),
                **selective(weights),
                "error_auroc": weighted_auc(weights, wrong, score=1 - confidence),
                **{name: means_of(weights) for name, means_of in means.items()},
            }

    return ClassStatistic(compute, base.complete)


def _scan_means(answer: Judged, wrong: NDArray[np.bool_]) -> dict[str, Callable[[Weights], Floats]]:
    """Means over scans, or over those that are right or wrong."""

    def mean(values: ArrayLike, chosen: NDArray[np.bool_]) -> Callable[[Weights], Floats]:
        kept, column = chosen.astype(np.float64), np.asarray(values, dtype=np.float64)
        return lambda weights: np.asarray(weights @ (kept * column) / (weights @ kept))

    every = np.ones_like(wrong)
    found: dict[str, Callable[[Weights], Floats]] = {}
    for name, values in answer.spreads.items():
        if name in ("cpiw", "cnpv"):
            found |= {f"{name}_right": mean(values, ~wrong), f"{name}_wrong": mean(values, wrong)}
        else:
            found[f"variance_{name}_members"] = mean(values, every)
    for level, sets in answer.sets.items():
        own = sets[np.arange(len(sets)), answer.truth]
        found[f"coverage_{100 * level:.0f}"] = mean(own, every)
        found[f"set_size_{100 * level:.0f}"] = mean(sets.sum(axis=1), every)
    return found


def _hits(answer: Judged) -> Floats:
    return np.asarray(answer.chances.argmax(axis=1) == answer.truth, dtype=np.float64)


def _losses(answer: Judged) -> Floats:
    own = answer.chances[np.arange(len(answer.truth)), answer.truth]
    return np.asarray(-np.log(np.clip(own, np.finfo(np.float64).eps, 1)))


def _equal_mass(weights: Weights, confidence: Floats, *, right: NDArray[np.bool_]) -> Floats:
    """Calibration error in bins that hold as many scans each."""
    rank = np.argsort(np.argsort(confidence, kind="stable"), kind="stable")
    inside = np.eye(ECE_BINS)[rank * ECE_BINS // len(rank)]
    gap = weights @ (inside * (right - confidence)[:, None])
    return np.asarray(np.abs(gap).sum(axis=1) / weights.sum(axis=1))


def _class_wise(weights: Weights, answer: Judged) -> Floats:
    """Mean over classes of the calibration error of a class's own probability."""
    errors = []
    for place in range(answer.chances.shape[1]):
        chance = answer.chances[:, place]
        bins = np.clip(np.ceil(chance * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
        gap = weights @ (np.eye(ECE_BINS)[bins] * ((answer.truth == place) - chance)[:, None])
        errors.append(np.abs(gap).sum(axis=1) / weights.sum(axis=1))
    return np.asarray(np.mean(errors, axis=0))


def _accepted(weights: Weights, other: NDArray[np.bool_], *, score: Floats) -> Floats:
    """Share of other scans in no more doubt than 95 % of a head's own are."""
    order = np.argsort(score, kind="stable")
    own = np.cumsum(weights[:, order] * ~other[order], axis=1)
    reached = (own >= 0.95 * own[:, -1:] - 1e-9).argmax(axis=1)
    limit = score[order][reached]
    taken = weights * other
    return np.asarray((taken * (score[None] <= limit[:, None])).sum(axis=1) / taken.sum(axis=1))


def _joined(part: Statistic, columns: Mapping[str, Floats]) -> Statistic:
    def statistic(weights: Weights) -> dict[str, Floats]:
        total = weights.sum(axis=1)
        return part(weights) | {name: weights @ column / total for name, column in columns.items()}

    return statistic


def _mean(parts: Sequence[Statistic]) -> Statistic:
    def statistic(weights: Weights) -> dict[str, Floats]:
        found = [part(weights) for part in parts]
        return {name: np.asarray(np.mean([one[name] for one in found], axis=0)) for name in found[0]}

    return statistic


def _points(statistic: Statistic, subjects: ArrayLike) -> Scores:
    return {
        name: float(value[0]) for name, value in statistic(np.ones((1, len(np.asarray(subjects))))).items()
    }


def _resampled(statistic: Statistic, subjects: ArrayLike, *, valid: Callable[[Weights], Any]) -> Scores:
    found = with_intervals(statistic, subjects, bootstrap=RESAMPLES, valid=valid)
    scores: Scores = {}
    for name, value in found.items():
        if isinstance(value, list):
            base = name.removesuffix("_ci")
            scores |= {f"{base}_low": value[0], f"{base}_high": value[1]}
        else:
            scores[name] = value
    return scores
