# SPDX-License-Identifier: Apache-2.0
"""The linear probe with a temperature: the baseline that every other head has to beat."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ldae.heads.checks import check_features, saved_positive
from ldae.heads.classifier import CodeClassifier, TrainingSet
from ldae.heads.linear import LinearProbe
from ldae.heads.members import best_temperature
from ldae.heads.uncertainty import softmax_uncertainty


class TemperedProbe(CodeClassifier):
    """Which class a code belongs to: the linear probe, its logits divided by a temperature.

    The temperature is the one with the lowest negative log-likelihood of logits out of fold, under the
    regularisation that the probe has chosen.

    Args:
        folds: Number of folds.
        positive_label: The class that binary scores speak of, such as "AD"; None takes the last of two.
        random_state: Seed that deals subjects to folds.

    Attributes:
        classes_: Sorted class labels [C].
        positive_label_: Positive class; None past two classes when none was named.
        probe_: The linear probe.
        temperature_: What divides its logits.

    Example:
        >>> import numpy as np
        >>> from ldae.heads import TemperedProbe
        >>> codes = np.linspace(-2, 2, 40)[:, None]
        >>> head = TemperedProbe().fit(codes, np.where(codes[:, 0] > 0, "AD", "CN"))
        >>> head.predict([[-1.5], [1.5]]).tolist()
        ['CN', 'AD']
    """

    probe_: LinearProbe
    temperature_: float

    def __init__(
        self, *, folds: int = 5, positive_label: str | int | None = None, random_state: int | None = 0
    ) -> None:
        self.folds = folds
        self.positive_label = positive_label
        self.random_state = random_state

    def _fit(self, training: TrainingSet) -> None:
        features, labels = training.features, self.classes_[training.encoded]
        self.probe_ = LinearProbe(folds=self.folds, random_state=self.seed_)
        self.probe_.fit(features, labels, groups=training.groups)
        logits = np.empty((len(labels), len(self.classes_)))
        for train, test in training.folds:
            part = LinearProbe(regularisation=[self.probe_.regularisation_])
            part.fit(features[train], labels[train])
            logits[test] = np.log(part.predict_proba(features[test]).clip(np.finfo(np.float64).tiny))
        self.temperature_ = best_temperature(logits, training.encoded)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probability of each class [N, C], columns in the order of `classes_`."""
        check_is_fitted(self, "temperature_")
        chances = self.probe_.predict_proba(check_features(self, X)) ** (1 / self.temperature_)
        return np.asarray(chances / chances.sum(axis=1, keepdims=True))

    def differentiable_proba(self, X: Tensor, *, generator: torch.Generator) -> Tensor:
        """`predict_proba` as a differentiable function of float64 codes; nothing is drawn."""
        logits = self.probe_.differentiable_logits(X)
        return (logits / self.temperature_).softmax(1)

    def uncertainty(self, X: ArrayLike) -> pd.DataFrame:
        """A row a code: entropy (nats) and least_confidence (1 - the largest probability)."""
        return softmax_uncertainty(self.predict_proba(X))

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The fitted head as a JSON-able dictionary and named arrays."""
        check_is_fitted(self, "temperature_")
        config, arrays = self.probe_.state()
        return self._config() | {"probe": config, "temperature": self.temperature_}, dict(arrays)

    @classmethod
    def from_state(cls, config: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """The head that `state` described.

        Raises:
            CheckpointError: Another head's state, or arrays that do not fit it.
        """
        head = cls._restored(config)
        head.probe_ = head._holding(LinearProbe.from_state(config["probe"], arrays))
        head.temperature_ = float(saved_positive("temperature", [config["temperature"]], count=1)[0])
        return head
