# SPDX-License-Identifier: Apache-2.0
"""What the classifiers past the linear probe share: checks before fitting, prediction, and the saved form."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets

from ldae.errors import CheckpointError
from ldae.heads.checks import (
    Folds,
    check_classes,
    check_groups,
    check_number,
    check_training,
    check_training_folds,
    resolve_positive,
    stratified_folds,
)

LARGEST_SEED = 2**31 - 1


@dataclass(frozen=True)
class TrainingSet:
    """Checked training data.

    Attributes:
        features: Codes [N, D].
        encoded: Class index of each [N].
        folds: Training and held-out rows of each fold, no subject on both sides.
    """

    features: NDArray[np.float64]
    encoded: NDArray[np.intp]
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


class CodeClassifier(ClassifierMixin, BaseEstimator):
    """A classifier of codes; a head says how it fits, what its probabilities are, and what it must keep."""

    folds: int
    positive_label: Any
    random_state: Any
    classes_: NDArray[Any]
    positive_label_: Any
    seed_: int
    n_features_in_: int

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

    def _begin(
        self, X: ArrayLike, y: ArrayLike, *, groups: ArrayLike | None, missing: int = 0
    ) -> TrainingSet:
        check_number("folds", self.folds, least=2)
        features, targets = check_training(self, X, targets=y, missing=missing)
        check_classification_targets(targets)
        self.classes_, encoded = check_classes(targets)
        self.positive_label_ = resolve_positive(self.positive_label, self.classes_)
        self.seed_ = int(check_random_state(self.random_state).randint(LARGEST_SEED))
        folds = stratified_folds(
            encoded,
            check_groups(groups, targets),
            classes=self.classes_,
            folds=self.folds,
            random_state=self.seed_,
        )
        check_training_folds(folds, encoded, classes=self.classes_)
        return TrainingSet(features, encoded, folds)

    def _config(self) -> dict[str, Any]:
        """What every saved classifier says of itself, JSON-able."""
        names = getattr(self, "feature_names_in_", None)
        return {
            "head": type(self).__name__,
            "parameters": {name: _jsonable(value) for name, value in self.get_params(deep=False).items()},
            "features": int(self.n_features_in_),
            "feature_names": None if names is None else [str(name) for name in names],
            "classes": [_jsonable(label) for label in self.classes_],
            "seed": self.seed_,
        }

    @classmethod
    def _restored(cls, config: dict[str, Any]) -> Self:
        """An estimator with all that `_config` told."""
        if config["head"] != cls.__name__:
            raise CheckpointError(f"Head must be a {cls.__name__}, got {config['head']}.")
        head = cls(**config["parameters"])
        head.classes_ = np.asarray(config["classes"])
        head.positive_label_ = resolve_positive(head.positive_label, head.classes_)
        head.n_features_in_ = int(config["features"])
        head.seed_ = int(config["seed"])
        if config["feature_names"] is not None:
            head.feature_names_in_ = np.asarray(config["feature_names"], dtype=object)
        return head


def _jsonable(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_jsonable(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value
