# SPDX-License-Identifier: Apache-2.0
"""What the classifiers past the linear probe share: fitting, prediction, and the saved form."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from ldae.errors import CheckpointError, InputError
from ldae.heads.checks import (
    Folds,
    check_classes,
    check_count,
    check_groups,
    check_known,
    check_number,
    check_training,
    check_training_folds,
    check_widths,
    resolve_positive,
    saved_classes,
    stratified_folds,
)
from ldae.heads.saved import SavedHead, jsonable

LARGEST_SEED = 2**31 - 1
Inner = TypeVar("Inner", bound="InnerHead")


class InnerHead(Protocol):
    """A fitted classifier of codes."""

    classes_: NDArray[Any]
    n_features_in_: int


@dataclass(frozen=True)
class TrainingSet:
    """Checked training data.

    Attributes:
        features: Codes [N, D].
        encoded: Class index of each [N].
        groups: Subject of each [N]; None where every code is a subject of its own.
        folds: Training and held-out rows of each fold, no subject on both sides.
    """

    features: NDArray[np.float64]
    encoded: NDArray[np.intp]
    groups: NDArray[Any] | None
    folds: Folds

    @property
    def fold_of(self) -> NDArray[np.intp]:
        """The fold that holds each row out [N]."""
        held = np.empty(len(self.encoded), dtype=np.intp)
        for index, (_, test) in enumerate(self.folds):
            held[test] = index
        return held

    @property
    def fold_weights(self) -> NDArray[np.float32]:
        """1 where a fold trains on a row, 0 where it holds it out [folds, N]."""
        return np.asarray(self.fold_of[None] != np.arange(len(self.folds))[:, None], dtype=np.float32)

    @property
    def class_weights(self) -> NDArray[np.float32]:
        """A weight a row that lets every class count alike, 1 on average [N]."""
        counts = np.bincount(self.encoded)
        return np.asarray(len(self.encoded) / (len(counts) * counts[self.encoded]), dtype=np.float32)


class ScoredClassifier(ClassifierMixin):
    """A classifier that is scored by classes that it knows."""

    classes_: NDArray[Any]

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Accuracy.

        Args:
            X: Codes [N, D].
            y: Class of each code [N].
            sample_weight: Weight of each code [N].

        Raises:
            InputError: A class that the head was not fitted on.
        """
        check_is_fitted(self, "classes_")
        check_known(y, self.classes_)
        return float(super().score(X, y, sample_weight))


class CodeClassifier(ScoredClassifier, SavedHead):
    """A classifier of codes; a head says how it fits, what its probabilities are, and what it must keep."""

    folds: int
    positive_label: Any
    random_state: Any
    positive_label_: Any
    seed_: int
    context: int = 0  # columns at the end of X that are no code, and may be NaN

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Fits the head.

        Args:
            X: Codes [N, D], finite, or what the head takes beside or instead of them.
            y: Class of each code [N].
            groups: Subject of each code [N]; None takes every code for a subject of its own.

        Returns:
            The fitted head.

        Raises:
            InputError: Bad shapes, NaN, a single class, a class with fewer subjects than folds, an unknown
                option.
        """
        self._check_options()
        self._fit(self._begin(X, y, groups=groups))
        return self

    def _check_options(self) -> None:
        """Stops on an option that is not allowed; what many heads have is looked at here."""
        check_count("folds", self.folds, least=2)
        options = self.get_params(deep=False)
        for name in ("hidden", "depths"):
            if options.get(name) is not None:
                check_widths(name, options[name])
        for name in ("learning_rate", "weight_decay"):
            if name in options:
                check_number(name, options[name], least=0)
        if options.get("learning_rate", 1) == 0:
            raise InputError("learning_rate must be above 0, got 0.")
        if not isinstance(options.get("balanced", False), bool | np.bool_):
            raise InputError(f"balanced must be True or False, got {options['balanced']!r}.")

    @abstractmethod
    def _fit(self, training: TrainingSet) -> None:
        """Learns from checked data."""

    @abstractmethod
    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probability of each class [N, C], columns in the order of `classes_`."""

    @abstractmethod
    def uncertainty(self, X: ArrayLike) -> pd.DataFrame:
        """A row a code, a column a measure of doubt."""

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Most probable class of each code [N]."""
        chosen = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[chosen])

    def _begin(self, X: ArrayLike, y: ArrayLike, *, groups: ArrayLike | None) -> TrainingSet:
        features, targets = check_training(self, X, targets=y, missing=self.context)
        check_classification_targets(targets)
        self.classes_, encoded = check_classes(targets)
        self.positive_label_ = resolve_positive(self.positive_label, self.classes_)
        self.seed_ = int(check_random_state(self.random_state).randint(LARGEST_SEED))
        subjects = check_groups(groups, targets)
        folds = stratified_folds(
            encoded, subjects, classes=self.classes_, folds=self.folds, random_state=self.seed_
        )
        check_training_folds(folds, encoded, classes=self.classes_)
        return TrainingSet(features, encoded, subjects, folds)

    def _config(self) -> dict[str, Any]:
        told = {"classes": [jsonable(label) for label in self.classes_], "seed": self.seed_}
        return super()._config() | told

    @classmethod
    def _restored(cls, config: dict[str, Any]) -> Self:
        head = super()._restored(config)
        head.classes_ = saved_classes(config["classes"])
        head.positive_label_ = resolve_positive(head.positive_label, head.classes_)
        head.seed_ = int(config["seed"])
        return head

    def _holding(self, inner: Inner) -> Inner:
        """A restored head inside this one, which takes the same codes and tells the same classes.

        Raises:
            CheckpointError: It does not.
        """
        ours, theirs = (
            (self.classes_.tolist(), self.n_features_in_),
            (inner.classes_.tolist(), inner.n_features_in_),
        )
        if ours != theirs:
            raise CheckpointError(
                f"The {type(inner).__name__} in a {type(self).__name__} must have its classes and features, "
                f"{ours[0]} and {ours[1]}, got {theirs[0]} and {theirs[1]}."
            )
        return inner


class DirichletClassifier(CodeClassifier):
    """A classifier that answers with a Dirichlet distribution over class probabilities."""

    @abstractmethod
    def concentration(self, X: ArrayLike) -> NDArray[np.float64]:
        """Concentration alpha of each code's Dirichlet distribution [N, C]."""

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Mean of the Dirichlet distribution [N, C], columns in the order of `classes_`."""
        alpha = self.concentration(X)
        return np.asarray(alpha / alpha.sum(axis=1, keepdims=True))
