# SPDX-License-Identifier: Apache-2.0
"""Sets of classes, and intervals of numbers, that hold the truth as often as they promise.

Split-conformal prediction (Vovk et al. 2005; Angelopoulos and Bates, arXiv 2107.07511) over what any fitted
head says, computed by MAPIE. The promise, P(truth in set) >= level, holds on average over calibration and new
scans that are exchangeable: of other subjects than the head was fitted on, one scan a subject. Where they are
not (another scanner, another hospital), it does not.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Literal, NamedTuple, Self, TypeVar, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin

from ldae.errors import InputError
from ldae.heads.calibration import Said, check_classes
from ldae.heads.row_noise import row_generators

Score = Literal["lac", "aps", "raps"]
SCORES: tuple[Score, ...] = get_args(Score)
Fitted = TypeVar("Fitted")
DIGITS = 9  # of a probability: what a batch may change in the last ones is not to draw other numbers


class ConformalSets:
    """Sets of classes from class probabilities.

    Args:
        score: "lac", 1 - p of a class: the smallest sets (Sadinle et al. 2019). "aps", the probability of
            all classes at least as likely (Romano et al. 2020): sets that grow with doubt; "raps" keeps them
            small (Angelopoulos et al. 2021), its strength chosen on a tenth of the calibration scans. The
            least likely class of a set is in it by chance, by as much as the level asks for: a set may be
            empty. Two classes have "lac" only.
        level: Share of scans whose set is to hold the truth, in (0, 1).
        by_class: Keep the promise for the scans of every class (Mondrian; a rare class needs it), "lac" only.
        random_state: Seed of the tenth that "raps" draws, and, with what the head says of a scan, of the
            chance with which a class is in its set.
    """

    def __init__(
        self, *, score: Score = "lac", level: float = 0.9, by_class: bool = False, random_state: int = 0
    ) -> None:
        if score not in SCORES:
            raise InputError(f"score must be one of {', '.join(SCORES)}, got {score!r}.")
        if by_class and score != "lac":
            raise InputError(f"by_class needs score lac, got {score}.")
        _check_level(level)
        self.score, self.level, self.by_class, self.random_state = score, level, by_class, random_state

    def fit(
        self, probabilities: ArrayLike, y: ArrayLike, *, classes: ArrayLike, groups: ArrayLike | None = None
    ) -> Self:
        """Learn the thresholds from calibration scans.

        Args:
            probabilities: What the head says of each class [N, C].
            y: True class of each scan [N].
            classes: Class of each column [C].
            groups: Keep the promise within each of these, such as sites [N].

        Raises:
            InputError: Too few scans (of a class or group) for the level, classes that are not there, or a
                score that does not suit two classes.
        """
        chances, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(y)
        self.classes_ = np.asarray(classes)
        if len(self.classes_) == 2 and self.score != "lac":
            raise InputError(f"score must be lac for two classes, got {self.score}.")
        check_classes(truth, self.classes_)
        if self.by_class and groups is not None:
            raise InputError("groups must be left out with by_class: sets hold for classes or for groups.")
        self.order_ = np.argsort(self.classes_)  # MAPIE has its columns in the order of names

        def learn(rows: NDArray[np.bool_]) -> Any:
            return self._learn(chances[rows][:, self.order_], truth[rows])

        parts = truth if self.by_class else _one_group(len(truth)) if groups is None else np.asarray(groups)
        self.parts_ = _per_group(parts, learn, level=self.level, score=self.score)
        return self

    def predict(self, probabilities: ArrayLike, *, groups: ArrayLike | None = None) -> NDArray[np.bool_]:
        """Which classes are in the set of each scan [N, C].

        Args:
            probabilities: What the head says of each class [N, C].
            groups: Group of each scan [N], where `fit` was given groups.

        Raises:
            InputError: A group without calibration scans.
        """
        chances = np.asarray(probabilities, dtype=np.float64)[:, self.order_]
        sets = np.zeros(chances.shape, dtype=bool)
        if self.by_class:
            for place, label in enumerate(self.classes_[self.order_].tolist()):
                sets[:, place] = self._sets(self.parts_[label], chances)[:, place]
        else:
            given = _one_group(len(chances)) if groups is None else groups
            for name, rows in _rows(given, known=self.parts_):
                sets[rows] = self._sets(self.parts_[name], chances[rows])
        return sets[:, np.argsort(self.order_)]

    def _learn(self, chances: NDArray[np.float64], truth: NDArray[Any]) -> Any:
        mapie, scores = _mapie("classification"), _mapie("conformity_scores")
        kinds = {"lac": scores.LACConformityScore, "aps": scores.APSConformityScore}
        score = kinds.get(self.score, scores.RAPSConformityScore)()
        predictor = mapie.SplitConformalClassifier(
            Said(self.classes_[self.order_]),
            confidence_level=self.level,
            conformity_score=score,
            prefit=True,
            random_state=self.random_state,
        )
        with warnings.catch_warnings():
            # told where calibration scans are of one class, as by_class has them
            warnings.filterwarnings("ignore", "WARNING: your conformalization dataset has less labels")
            predictor.conformalize(chances, truth)
        if self.score == "lac":
            return predictor
        _mapie_sets(predictor, chances)  # finds the quantile
        return _Adaptive(
            float(np.ravel(score.quantiles_)[0]),
            float(np.ravel(getattr(score, "lambda_star", 0.0))[0]),
            float(np.ravel(getattr(score, "k_star", 0.0))[0]),
        )

    def _sets(self, part: Any, chances: NDArray[np.float64]) -> NDArray[np.bool_]:
        if self.score == "lac":
            return _mapie_sets(part, chances)
        uniform = [one.random() for one in row_generators(chances.round(DIGITS), seed=self.random_state)]
        return cast("NDArray[np.bool_]", part.sets(chances, np.asarray(uniform)))


class _Adaptive(NamedTuple):
    """What MAPIE learned of "aps" or "raps".

    Its own sets are either those of every class up to the one that passes the quantile, which hold the truth
    5 to 8 points too often, or drawn in the order of the batch, and penalised otherwise than its scores.

    Attributes:
        quantile: Of the calibration scores.
        strength: What each class beyond `free` adds to the score.
        free: Number of classes that add nothing.
    """

    quantile: float
    strength: float
    free: float

    def sets(self, chances: NDArray[np.float64], uniform: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Classes whose score is within the quantile [N, C], from chances [N, C] and uniform numbers [N]."""
        order = np.argsort(chances, axis=1)[:, ::-1]
        ordered = np.take_along_axis(chances, order, axis=1)
        beyond = np.maximum(np.arange(1, chances.shape[1] + 1) - self.free, 0)
        scores = ordered.cumsum(axis=1) - uniform[:, None] * ordered + self.strength * beyond
        sets = np.empty(chances.shape, dtype=bool)
        np.put_along_axis(sets, order, scores <= self.quantile, axis=1)
        return sets


class ConformalIntervals:
    """Intervals about a regression head's number, as wide for every scan (of a group).

    Args:
        level: Share of scans whose interval is to hold the truth, in (0, 1).
    """

    def __init__(self, *, level: float = 0.9) -> None:
        _check_level(level)
        self.level = level

    def fit(self, predicted: ArrayLike, y: ArrayLike, *, groups: ArrayLike | None = None) -> Self:
        """Learn the half-widths from what the head said [N] of calibration scans, and the truth [N].

        Raises:
            InputError: Too few scans (of a group) for the level.
        """
        said, truth = np.asarray(predicted, dtype=np.float64)[:, None], np.asarray(y, dtype=np.float64)

        def learn(rows: NDArray[np.bool_]) -> Any:
            mapie = _mapie("regression")
            predictor = mapie.SplitConformalRegressor(_SaidNumber(), confidence_level=self.level, prefit=True)
            return predictor.conformalize(said[rows], truth[rows])

        parts = _one_group(len(truth)) if groups is None else np.asarray(groups)
        self.parts_ = _per_group(parts, learn, level=self.level)
        return self

    def predict(self, predicted: ArrayLike, *, groups: ArrayLike | None = None) -> NDArray[np.float64]:
        """Lower and upper end for each scan [N, 2].

        Raises:
            InputError: A group without calibration scans.
        """
        said = np.asarray(predicted, dtype=np.float64)[:, None]
        found = np.zeros((len(said), 2))
        for name, rows in _rows(_one_group(len(said)) if groups is None else groups, known=self.parts_):
            found[rows] = self.parts_[name].predict_interval(said[rows])[1][:, :, 0]
        return found


class _SaidNumber(RegressorMixin, BaseEstimator):
    """A regressor whose only feature is the number that a head gave."""

    def __init__(self) -> None:
        self.is_fitted = True  # MAPIE looks for it

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        return np.asarray(X, dtype=np.float64)[:, 0]


def least_scans(level: float, *, score: Score = "lac") -> int:
    """Calibration scans that MAPIE asks for: more than 1 / (1 - level) and 1 / level, tenfold for "raps"."""
    least = math.floor(max(1 / (1 - level), 1 / level) + 1e-9) + 1
    return least if score != "raps" else 10 * least


def _mapie(room: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"mapie.{room}")
    except ImportError as error:
        raise InputError(
            "Conformal sets need mapie. Install it with: pip install 'ldae[conformal]'"
        ) from error


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1, got {level}.")


def _one_group(count: int) -> NDArray[np.intp]:
    return np.zeros(count, dtype=np.intp)


def _per_group(
    groups: NDArray[Any],
    learn: Callable[[NDArray[np.bool_]], Fitted],
    *,
    level: float,
    score: Score = "lac",
) -> dict[Hashable, Fitted]:
    names = sorted(set(groups.tolist()), key=str)
    for name in names:
        count = int((groups == name).sum())
        least = least_scans(level, score=score)
        if count < least:
            of = f" of {name}" if len(names) > 1 else ""
            raise InputError(
                f"Level {level:g} needs at least {least} calibration scans{of}, got {count}. "
                "Ask for less, or calibrate on more subjects."
            )
    return {name: learn(groups == name) for name in names}


def _rows(groups: ArrayLike, *, known: Mapping[Hashable, Any]) -> list[tuple[Hashable, NDArray[np.bool_]]]:
    given = np.asarray(groups)
    names = set(given.tolist())
    unknown = sorted(map(str, names - set(known)))
    if unknown:
        raise InputError(f"Every group must have calibration scans, got none of {', '.join(unknown)}.")
    return [(name, np.asarray(given == name)) for name in names]


def _mapie_sets(predictor: Any, chances: NDArray[np.float64]) -> NDArray[np.bool_]:
    with warnings.catch_warnings():
        # told when a set is empty, which is what a set of an unlike scan is
        warnings.simplefilter("ignore", UserWarning)
        return cast("NDArray[np.bool_]", predictor.predict_set(chances)[1][:, :, 0])
