# SPDX-License-Identifier: Apache-2.0
"""A network whose last layer is uncertain: the Laplace approximation of its posterior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from torch.nn import functional

from ldae.heads.checks import check_arrays, check_count, check_features, saved_positive
from ldae.heads.classifier import CodeClassifier, TrainingSet
from ldae.heads.ensembles import MLPClassifier
from ldae.heads.stacked import StackedMLP
from ldae.heads.uncertainty import softmax_uncertainty

PRECISIONS = tuple(float(value) for value in 10.0 ** np.arange(-2, 5, 0.5))
PROBIT = math.pi / 8
MLP = "mlp."


class LaplaceClassifier(CodeClassifier):
    """Which class a code belongs to, by a network averaged over what its last layer may be.

    Last-layer Laplace (arXiv 2106.14806): a Gaussian about the fitted weights, its precision the generalised
    Gauss-Newton matrix of the cross-entropy and a prior chosen by the marginal likelihood; probabilities by
    the probit approximation, softmax(f / sqrt(1 + pi/8 var f)). The last layer is all that enters the logits
    linearly: hidden values, the straight path from the code, and the offset.

    Args:
        hidden: Widths of hidden layers.
        epochs: Most epochs.
        learning_rate: Of AdamW.
        folds: Number of folds.
        positive_label: The class that binary scores speak of, such as "AD"; None takes the last of two.
        random_state: Seed of folds, initial weights and batches.

    Attributes:
        classes_: Sorted class labels [C].
        positive_label_: Positive class; None past two classes when none was named.
        mlp_: The network.
        precision_: Precision of the prior.
        covariance_: Of the last layer's weights, class by class [C P, C P].

    Example:
        >>> import numpy as np
        >>> from ldae.heads import LaplaceClassifier
        >>> codes = np.linspace(-2, 2, 40)[:, None]
        >>> head = LaplaceClassifier(epochs=20).fit(codes, np.where(codes[:, 0] > 0, "AD", "CN"))
        >>> head.predict([[-1.5], [1.5]]).tolist()
        ['CN', 'AD']
    """

    mlp_: MLPClassifier
    precision_: float
    covariance_: NDArray[np.float64]

    def __init__(
        self,
        *,
        hidden: Sequence[int] = (128, 128),
        epochs: int = 60,
        learning_rate: float = 1e-3,
        folds: int = 5,
        positive_label: str | int | None = None,
        random_state: int | None = 0,
    ) -> None:
        self.hidden = hidden
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.folds = folds
        self.positive_label = positive_label
        self.random_state = random_state

    def _fit(self, training: TrainingSet) -> None:
        self.mlp_ = MLPClassifier(
            hidden=self.hidden,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            folds=self.folds,
            random_state=self.seed_,
        )
        labels = self.classes_[training.encoded]
        self.mlp_.fit(training.features, labels, groups=training.groups)
        inputs, logits = self._last_layer(torch.from_numpy(training.features))
        own = logits.log_softmax(1)[torch.arange(len(logits)), torch.from_numpy(training.encoded)]
        values, vectors = torch.linalg.eigh(gauss_newton(inputs, logits.softmax(1)))
        weights = _last_weights(self.mlp_.network_)
        self.precision_ = max(
            PRECISIONS,
            key=lambda prior: log_evidence(
                float(own.sum()), float(weights.square().sum()), curvature=values.clamp_min(0), prior=prior
            ),
        )
        self.covariance_ = ((vectors / (values.clamp_min(0) + self.precision_)) @ vectors.T).numpy()

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probability of each class [N, C], columns in the order of `classes_`."""
        return np.asarray(self._scaled(X)[0].softmax(1).numpy())

    def differentiable_proba(self, X: Tensor, *, generator: torch.Generator) -> Tensor:
        """`predict_proba` as a differentiable function of float64 codes; nothing is drawn."""
        inputs, logits = self._last_layer(X)
        return self._damped(logits, self._variance(inputs)).softmax(1)

    def uncertainty(self, X: ArrayLike) -> pd.DataFrame:
        """A row a code: entropy, least_confidence, and variance, that of the logits on average."""
        scaled, variance = self._scaled(X)
        table = softmax_uncertainty(scaled.softmax(1).numpy())
        return table.assign(variance=variance.mean(1).numpy())

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The fitted head as a JSON-able dictionary and named arrays."""
        check_is_fitted(self, "covariance_")
        config, arrays = self.mlp_.state()
        kept: dict[str, NDArray[Any]] = {f"{MLP}{name}": array for name, array in arrays.items()}
        fitted = {"mlp": config, "precision": self.precision_}
        return self._config() | fitted, kept | {"covariance": self.covariance_.copy()}

    @classmethod
    def from_state(cls, config: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """The head that `state` described.

        Raises:
            CheckpointError: Another head's state, or arrays that do not fit it.
        """
        head = cls._restored(config)
        own = {name.removeprefix(MLP): array for name, array in arrays.items() if name.startswith(MLP)}
        head.mlp_ = head._holding(MLPClassifier.from_state(config["mlp"], own))
        head.precision_ = float(saved_positive("precision", [config["precision"]], count=1)[0])
        side = _last_weights(head.mlp_.network_).numel()
        plain = {name: array for name, array in arrays.items() if not name.startswith(MLP)}
        kept = check_arrays(plain, shapes={"covariance": (side, side)}, head=cls.__name__)
        head.covariance_ = kept["covariance"]
        return head

    def _check_options(self) -> None:
        check_count("epochs", self.epochs, least=1)
        super()._check_options()

    def _scaled(self, X: ArrayLike) -> tuple[Tensor, Tensor]:
        """Damped logits [N, C] and the variance of the logits [N, C]."""
        check_is_fitted(self, "covariance_")
        inputs, logits = self._last_layer(torch.from_numpy(check_features(self, X)))
        variance = self._variance(inputs)
        return self._damped(logits, variance), variance

    def _last_layer(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """What enters the last layer [N, P], and what leaves it [N, C]."""
        network = self.mlp_.network_
        code = self.mlp_._standardised(features)[None]
        h = code
        for block in network.blocks:
            value = block(h)
            h = functional.gelu(functional.layer_norm(value, value.shape[-1:]))
        parts = [h, code] if network.straight is not None else [h]
        inputs = torch.cat([*parts, torch.ones_like(code[..., :1])], -1)[0]
        return inputs, inputs @ _last_weights(network)

    def _variance(self, inputs: Tensor) -> Tensor:
        classes, width = len(self.classes_), inputs.shape[1]
        blocks = torch.from_numpy(self.covariance_).reshape(classes, width, classes, width)
        own = torch.stack([blocks[place, :, place] for place in range(classes)])
        return torch.einsum("np,cpq,nq->nc", inputs, own, inputs)

    def _damped(self, logits: Tensor, variance: Tensor) -> Tensor:
        return logits / (1 + PROBIT * variance).sqrt()


def gauss_newton(inputs: Tensor, chances: Tensor) -> Tensor:
    """Generalised Gauss-Newton matrix of the cross-entropy of a linear layer, class by class.

    Args:
        inputs: What enters the layer [N, P].
        chances: Class probabilities that it gives [N, C].

    Returns:
        sum_n (diag p_n - p_n p_n^T) kron x_n x_n^T, [C P, C P].
    """
    classes, width = chances.shape[1], inputs.shape[1]
    rows = []
    for one in range(classes):
        row = []
        for other in range(classes):
            weight = chances[:, one] * (float(one == other) - chances[:, other])
            row.append(inputs.T @ (inputs * weight[:, None]))
        rows.append(torch.cat(row, 1))
    return torch.cat(rows).reshape(classes * width, classes * width)


def log_evidence(log_likelihood: float, squared_norm: float, *, curvature: Tensor, prior: float) -> float:
    """Laplace's log marginal likelihood under a Gaussian prior of this precision, up to a constant.

    Args:
        log_likelihood: Of the labels under the fitted weights.
        squared_norm: Of these weights.
        curvature: Eigenvalues of the Gauss-Newton matrix.
        prior: Precision.
    """
    volume = float((curvature / prior).log1p().sum())
    return log_likelihood - prior / 2 * squared_norm - volume / 2


def _last_weights(network: StackedMLP) -> Tensor:
    """Weights of all that enters the logits linearly, the offset last [P, C]."""
    parts = [network.last.weight[0]]
    offset = network.last.bias[0]
    if network.straight is not None:
        parts.append(network.straight.weight[0])
        offset = offset + network.straight.bias[0]
    return torch.cat([*parts, offset])
