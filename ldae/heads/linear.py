# SPDX-License-Identifier: Apache-2.0
"""Linear probes: standardised codes, one linear layer, strength chosen over subjects.

Both are scikit-learn estimators. `LinearProbe` says which class, `RidgeProbe` says how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.base import RegressorMixin, clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import threadpool_limits
from torch import Tensor

from ldae.heads.checks import (
    Folds,
    check_arrays,
    check_classes,
    check_count,
    check_features,
    check_groups,
    check_regularisation,
    check_training,
    check_training_folds,
    plain_folds,
    resolve_positive,
    saved_classes,
    saved_positive,
    stratified_folds,
)
from ldae.heads.classifier import ScoredClassifier
from ldae.heads.saved import SavedHead, jsonable
from ldae.heads.uncertainty import softmax_uncertainty

LOGISTIC_GRID = tuple(float(value) for value in 10.0 ** np.arange(-5, 1.5, 0.5))
RIDGE_GRID = tuple(float(value) for value in 10.0 ** np.arange(-1, 6.5, 0.5))
MAX_ITERATIONS = 5000


class _LinearHead(SavedHead):
    """What the two probes share: the linear map, and its saved form."""

    regularisation: Sequence[float]
    folds: int
    random_state: int | None
    mean_: NDArray[np.float64]
    scale_: NDArray[np.float64]
    coef_: NDArray[np.float64]
    intercept_: NDArray[np.float64]
    regularisation_: float

    def _check_options(self) -> None:
        """Stops on an option that is not allowed."""
        if len(check_regularisation(self.regularisation)) > 1:
            check_count("folds", self.folds, least=2)

    def _keep(self, pipeline: Pipeline, *, chosen: float) -> None:
        scaler, model = pipeline[0], pipeline[1]
        self.mean_, self.scale_ = scaler.mean_, scaler.scale_
        self.coef_ = np.atleast_2d(model.coef_)
        self.intercept_ = np.atleast_1d(model.intercept_)
        self.regularisation_ = chosen

    def _score(self, features: ArrayLike) -> NDArray[np.float64]:
        check_is_fitted(self, "coef_")
        standardised = (check_features(self, features) - self.mean_) / self.scale_
        return np.asarray(standardised @ self.coef_.T + self.intercept_)  # [N, rows]

    def _raw_weights(self) -> NDArray[np.float64]:
        return self.coef_ / self.scale_  # [rows, D]

    def _base_state(self) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
        check_is_fitted(self, "coef_")
        config = self._config() | {"regularisation": float(self.regularisation_)}
        config["parameters"]["regularisation"] = [float(value) for value in self.regularisation]
        arrays = {name: getattr(self, f"{name}_").copy() for name in ("mean", "scale", "coef", "intercept")}
        return config, arrays

    @classmethod
    def _restore(cls, config: dict[str, Any], arrays: dict[str, NDArray[Any]], *, rows: int) -> Self:
        head = cls._restored(config)
        head.regularisation = tuple(head.regularisation)
        width = head.n_features_in_
        shapes = {"mean": (width,), "scale": (width,), "coef": (rows, width), "intercept": (rows,)}
        kept = check_arrays(arrays, shapes=shapes, head=cls.__name__, positive=["scale"])
        for name, array in kept.items():
            setattr(head, f"{name}_", array)
        head.regularisation_ = float(saved_positive("regularisation", [config["regularisation"]], count=1)[0])
        return head


class LinearProbe(ScoredClassifier, _LinearHead):
    """Which class a code belongs to: standardised features, multinomial logistic regression.

    The L2 strength is the candidate with the lowest out-of-fold negative log-likelihood, where the folds
    are even in class and keep the scans of a subject together.

    Args:
        regularisation: Candidates for C, the inverse strength; a single one is used as it is, without folds.
        folds: Number of folds.
        positive_label: The class that binary scores speak of, such as "AD". Sorted order would make "CN"
            positive; None takes the last class of the sorted order, as scikit-learn does.
        random_state: Seed that deals subjects to folds.

    Attributes:
        classes_: Sorted class labels [C].
        positive_label_: Positive class; None past two classes when none was named.
        regularisation_: The C that was chosen.
        mean_, scale_: Standardisation of the features [D].
        coef_, intercept_: Weights on standardised features, [1, D] and [1] for two classes, else [C, D], [C].

    Example:
        >>> import numpy as np
        >>> from ldae.heads import LinearProbe
        >>> codes = np.array([[0.0], [0.2], [0.4], [1.6], [1.8], [2.0]])
        >>> probe = LinearProbe(folds=3, positive_label="AD")
        >>> probe = probe.fit(codes, ["CN", "CN", "CN", "AD", "AD", "AD"])
        >>> probe.predict([[0.1], [1.9]]).tolist()
        ['CN', 'AD']
        >>> bool(probe.direction_[0] > 0)  # towards AD
        True
    """

    classes_: NDArray[Any]
    positive_label_: Any

    def __init__(
        self,
        *,
        regularisation: Sequence[float] = LOGISTIC_GRID,
        folds: int = 5,
        positive_label: str | int | None = None,
        random_state: int | None = 0,
    ) -> None:
        self.regularisation = regularisation
        self.folds = folds
        self.positive_label = positive_label
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Fits the probe.

        Args:
            X: Codes [N, D], finite.
            y: Class of each code [N].
            groups: Subject of each code [N]; None takes every code for a subject of its own.

        Returns:
            The fitted probe.

        Raises:
            InputError: Bad shapes, NaN, a single class, a class with fewer subjects than folds, a positive
                label that is not among the classes.
        """
        # NumPy's and SciPy's threads wait for each other at every small step: ten times the seconds
        with threadpool_limits(1, user_api="blas"):
            return self._fit(X, y, groups)

    def _fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None) -> Self:
        features, targets = check_training(self, X, targets=y)
        check_classification_targets(targets)
        self.classes_, encoded = check_classes(targets)
        self.positive_label_ = resolve_positive(self.positive_label, self.classes_)
        self._check_options()
        candidates = check_regularisation(self.regularisation)
        subjects = check_groups(groups, targets)
        base = make_pipeline(StandardScaler(copy=False), LogisticRegression(max_iter=MAX_ITERATIONS))
        chosen = candidates[0]
        if len(candidates) > 1:
            folds = stratified_folds(
                encoded,
                subjects,
                classes=self.classes_,
                folds=self.folds,
                random_state=self.random_state,
            )
            check_training_folds(folds, encoded, classes=self.classes_)
            losses = [
                log_loss(encoded, _out_of_fold(_with(base, C=value), features, targets=encoded, folds=folds))
                for value in candidates
            ]
            chosen = candidates[int(np.argmin(losses))]
        self._keep(_with(base, C=chosen).fit(features.copy(), encoded), chosen=chosen)
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probability of each class [N, C], columns in the order of `classes_`."""
        score = self._score(X)
        if score.shape[1] == 1:
            score = np.hstack([np.zeros_like(score), score])
        return np.asarray(softmax(score, axis=1))

    def differentiable_logits(self, X: Tensor) -> Tensor:
        """Logits [N, C] as a differentiable function of float64 codes [N, D]."""
        check_is_fitted(self, "coef_")
        mean, scale, coef, intercept = (
            torch.from_numpy(array) for array in (self.mean_, self.scale_, self.coef_, self.intercept_)
        )
        score = (X - mean) / scale @ coef.T + intercept
        return torch.cat([torch.zeros_like(score), score], 1) if score.shape[1] == 1 else score

    def differentiable_proba(self, X: Tensor, *, generator: torch.Generator) -> Tensor:
        """`predict_proba` as a differentiable function of float64 codes; nothing is drawn."""
        return self.differentiable_logits(X).softmax(1)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Most probable class of each code [N]."""
        probabilities = self.predict_proba(X)
        return np.asarray(self.classes_[probabilities.argmax(axis=1)])

    def uncertainty(self, X: ArrayLike) -> pd.DataFrame:
        """A row a code: entropy (nats) and least_confidence (1 - the largest probability)."""
        return softmax_uncertainty(self.predict_proba(X))

    @property
    def direction_(self) -> NDArray[np.float64]:
        """Gradient of the log-odds by the code, in the units of the code.

        [D] towards the positive class for two classes; [C, D] past two, a row a class: the gradient of its
        logit against the mean logit.
        """
        check_is_fitted(self, "coef_")
        weights = self._raw_weights()
        if len(self.classes_) > 2:
            return np.asarray(weights - weights.mean(axis=0))
        return np.asarray(weights[0]) if self.positive_label_ == self.classes_[1] else np.asarray(-weights[0])

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
        """The fitted probe as a JSON-able dictionary and named float64 arrays."""
        config, arrays = self._base_state()
        config["classes"] = [jsonable(label) for label in self.classes_]
        return config, arrays

    @classmethod
    def from_state(cls, config: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """The probe that `state` described.

        Raises:
            CheckpointError: Another head's state, or arrays that do not fit it.
        """
        classes = saved_classes(config["classes"])
        head = cls._restore(config, arrays, rows=1 if len(classes) == 2 else len(classes))
        head.classes_ = classes
        head.positive_label_ = resolve_positive(head.positive_label, head.classes_)
        return head


class RidgeProbe(RegressorMixin, _LinearHead):
    """How much of something a code holds (an age, a volume): standardised features, ridge regression.

    The L2 strength is the candidate with the lowest out-of-fold squared error, where the folds keep the scans
    of a subject together.

    Args:
        regularisation: Candidates for alpha, the strength; a single one is used as it is, without folds.
        folds: Number of folds.
        random_state: Seed that deals subjects to folds.

    Attributes:
        regularisation_: The alpha that was chosen.
        mean_, scale_: Standardisation of the features [D].
        coef_, intercept_: Weights on standardised features [1, D] and offset [1], in the target's units.

    Example:
        >>> import numpy as np
        >>> from ldae.heads import RidgeProbe
        >>> codes = np.linspace(-1, 1, 20)[:, None]
        >>> probe = RidgeProbe(regularisation=[1e-6]).fit(codes, 70 + 10 * codes[:, 0])
        >>> probe.predict([[0.5]]).round(2).tolist()
        [75.0]
    """

    def __init__(
        self,
        *,
        regularisation: Sequence[float] = RIDGE_GRID,
        folds: int = 5,
        random_state: int | None = 0,
    ) -> None:
        self.regularisation = regularisation
        self.folds = folds
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Fits the probe.

        Args:
            X: Codes [N, D], finite.
            y: Target of each code [N], finite.
            groups: Subject of each code [N]; None takes every code for a subject of its own.

        Returns:
            The fitted probe.

        Raises:
            InputError: Bad shapes, NaN, fewer subjects than folds.
        """
        with threadpool_limits(1, user_api="blas"):  # as for LinearProbe
            return self._fit(X, y, groups)

    def _fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None) -> Self:
        features, targets = check_training(self, X, targets=y, numeric=True)
        self._check_options()
        candidates = check_regularisation(self.regularisation)
        subjects = check_groups(groups, targets)
        base = make_pipeline(StandardScaler(copy=False), Ridge(copy_X=False))
        chosen = candidates[0]
        if len(candidates) > 1:
            folds = plain_folds(len(targets), subjects, folds=self.folds, random_state=self.random_state)
            losses = [
                mean_squared_error(
                    targets, _out_of_fold(_with(base, alpha=value), features, targets=targets, folds=folds)
                )
                for value in candidates
            ]
            chosen = candidates[int(np.argmin(losses))]
        self._keep(_with(base, alpha=chosen).fit(features.copy(), targets), chosen=chosen)
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """Predicted target of each code [N]."""
        return np.asarray(self._score(X)[:, 0])

    @property
    def direction_(self) -> NDArray[np.float64]:
        """Gradient of the prediction by the code [D], in target units per code unit."""
        check_is_fitted(self, "coef_")
        return np.asarray(self._raw_weights()[0])

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
        """The fitted probe as a JSON-able dictionary and named float64 arrays."""
        return self._base_state()

    @classmethod
    def from_state(cls, config: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """The probe that `state` described.

        Raises:
            CheckpointError: Another head's state, or arrays that do not fit it.
        """
        return cls._restore(config, arrays, rows=1)


def _with(pipeline: Pipeline, **parameter: float) -> Pipeline:
    changed = clone(pipeline)
    changed[1].set_params(**parameter)
    return changed


def _out_of_fold(
    pipeline: Pipeline, features: NDArray[np.float64], *, targets: NDArray[Any], folds: Folds
) -> NDArray[np.float64]:
    """Predictions for every sample by the model that has not seen its subject: [N] or [N, C].

    The pipeline may work in the place of what it is given: parts of the features are copies.
    """
    parts = []
    for train, test in folds:
        fitted = clone(pipeline).fit(features[train], targets[train])
        answer = fitted.predict_proba if hasattr(fitted, "predict_proba") else fitted.predict
        parts.append(answer(features[test]))
    order = np.concatenate([test for _, test in folds])
    return np.asarray(np.concatenate(parts)[np.argsort(order)])
