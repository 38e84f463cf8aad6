# SPDX-License-Identifier: Apache-2.0
"""Networks on codes, alone and together: an MLP, a deep ensemble, MC dropout, and an ensemble over depths."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ldae.heads.checks import (
    check_arrays,
    check_count,
    check_features,
    saved_columns,
    saved_positive,
)
from ldae.heads.classifier import CodeClassifier, TrainingSet
from ldae.heads.members import (
    DROPOUT,
    Columns,
    fit_members,
    mapping_networks,
    member_columns,
    member_inputs,
    prior_probabilities,
)
from ldae.heads.stacked import (
    Optimisation,
    StackedMLP,
    for_prediction,
    from_arrays,
    seeded,
    subset,
    to_arrays,
)
from ldae.heads.uncertainty import softmax_uncertainty

BATCH_SIZE = 128
WEIGHT_DECAY = 0.1
NETWORK = "network."


class NetworkEnsemble(CodeClassifier):
    """Networks side by side, each with its epochs and temperature chosen out of fold; their mean is said."""

    hidden: Sequence[int]
    epochs: int
    learning_rate: float
    mean_: NDArray[np.float64]
    scale_: NDArray[np.float64]
    columns_: Columns
    temperatures_: NDArray[np.float64]
    network_: StackedMLP

    @abstractmethod
    def _columns(self, generator: np.random.Generator) -> Columns:
        """The columns that each network sees."""

    def _fit(self, training: TrainingSet) -> None:
        self.columns_ = self._columns(np.random.default_rng(self.seed_))
        scaler = StandardScaler().fit(training.features)
        self.mean_, self.scale_ = scaler.mean_, scaler.scale_
        features = torch.from_numpy((training.features - self.mean_) / self.scale_).float()
        with seeded(self.seed_):
            members = fit_members(
                member_inputs(features, self.columns_),
                training,
                columns=self.columns_,
                hidden=list(self.hidden),
                optimisation=Optimisation(self.epochs, BATCH_SIZE, self.learning_rate, WEIGHT_DECAY),
            )
        self.temperatures_ = members.temperatures.flatten().double().numpy()
        self.network_ = for_prediction(members.networks)

    def member_probabilities(self, X: ArrayLike) -> NDArray[np.float64]:
        """Class probabilities of each network [N, K, C]."""
        check_is_fitted(self, "network_")
        said = self._said(torch.from_numpy(check_features(self, X)))
        return np.ascontiguousarray(said.transpose(0, 1).numpy())

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Mean of the networks' class probabilities [N, C], columns in the order of `classes_`."""
        return np.asarray(self.member_probabilities(X).mean(axis=1))

    def differentiable_proba(self, X: Tensor, *, generator: torch.Generator) -> Tensor:
        """`predict_proba` as a differentiable function of float64 codes; nothing is drawn."""
        return self._said(X).mean(0)

    def uncertainty(self, X: ArrayLike) -> pd.DataFrame:
        """A row a code: entropy, least_confidence and epistemic, what the networks' answers tell of one
        another (mutual information, nats).
        """
        said = self.member_probabilities(X)
        table = softmax_uncertainty(said.mean(axis=1))
        return table.assign(epistemic=table["entropy"] - entr(said).sum(axis=2).mean(axis=1))

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The fitted head as a JSON-able dictionary and named arrays."""
        check_is_fitted(self, "network_")
        arrays: dict[str, NDArray[Any]] = {"mean": self.mean_.copy(), "scale": self.scale_.copy()}
        arrays |= {f"{NETWORK}{name}": array for name, array in to_arrays(self.network_).items()}
        fitted = {
            "columns": [own.tolist() for own in self.columns_],
            "temperatures": self.temperatures_.tolist(),
        }
        return self._config() | fitted, arrays

    @classmethod
    def from_state(cls, config: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """The head that `state` described.

        Raises:
            CheckpointError: Another head's state, or arrays that do not fit it.
        """
        head = cls._restored(config)
        head.columns_ = saved_columns(config["columns"], width=head.n_features_in_)
        head.temperatures_ = saved_positive("temperatures", config["temperatures"], count=len(head.columns_))
        shape = (head.n_features_in_,)
        plain = {name: array for name, array in arrays.items() if not name.startswith(NETWORK)}
        shapes = {"mean": shape, "scale": shape}
        kept = check_arrays(plain, shapes=shapes, head=cls.__name__, positive=["scale"])
        head.mean_, head.scale_ = kept["mean"], kept["scale"]
        network = mapping_networks(head.columns_, classes=len(head.classes_), hidden=list(head.hidden))
        head.network_ = from_arrays(network, subset(arrays, NETWORK), head=cls.__name__)
        return head

    def _check_options(self) -> None:
        check_count("epochs", self.epochs, least=1)
        super()._check_options()

    def _standardised(self, features: Tensor) -> Tensor:
        return (features - torch.from_numpy(self.mean_)) / torch.from_numpy(self.scale_)

    def _said(self, features: Tensor) -> Tensor:
        """Probabilities of each network [K, N, C] for float64 codes."""
        logits = self.network_(member_inputs(self._standardised(features), self.columns_))
        return prior_probabilities(logits, torch.from_numpy(self.temperatures_).reshape(-1, 1, 1))


class MLPClassifier(NetworkEnsemble):
    """Which class a code belongs to: a small network, or several that differ in where they started.

    With `members=5` it is a deep ensemble (arXiv 1612.01474) whose networks see the same batches.

    Args:
        members: Number of networks.
        hidden: Widths of hidden layers.
        epochs: Most epochs; each network takes those that serve it best out of fold.
        learning_rate: Of AdamW.
        folds: Number of folds.
        positive_label: The class that binary scores speak of, such as "AD"; None takes the last of two.
        random_state: Seed of folds, initial weights and batches.

    Attributes:
        classes_: Sorted class labels [C].
        positive_label_: Positive class; None past two classes when none was named.
        temperatures_: What divides each network's logits [K].

    Example:
        >>> import numpy as np
        >>> from ldae.heads import MLPClassifier
        >>> codes = np.linspace(-2, 2, 40)[:, None]
        >>> head = MLPClassifier(epochs=20).fit(codes, np.where(codes[:, 0] > 0, "AD", "CN"))
        >>> head.predict([[-1.5], [1.5]]).tolist()
        ['CN', 'AD']
    """

    def __init__(
        self,
        *,
        members: int = 1,
        hidden: Sequence[int] = (128, 128),
        epochs: int = 60,
        learning_rate: float = 1e-3,
        folds: int = 5,
        positive_label: str | int | None = None,
        random_state: int | None = 0,
    ) -> None:
        self.members = members
        self.hidden = hidden
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.folds = folds
        self.positive_label = positive_label
        self.random_state = random_state

    def _check_options(self) -> None:
        check_count("members", self.members, least=1)
        super()._check_options()

    def _columns(self, generator: np.random.Generator) -> Columns:
        return [np.arange(self.n_features_in_)] * self.members


class DropoutClassifier(NetworkEnsemble):
    """Which class a code belongs to, by one network whose hidden values are dropped at prediction too.

    Monte Carlo dropout (arXiv 1506.02142). The masks are drawn once from the seed: each makes a thinned
    network that every scan passes through, so that a scan's answer depends on no other scan.

    Args:
        samples: Number of thinned networks.
        hidden: Widths of hidden layers.
        epochs: Most epochs.
        learning_rate: Of AdamW.
        folds: Number of folds.
        positive_label: The class that binary scores speak of, such as "AD"; None takes the last of two.
        random_state: Seed of folds, initial weights, batches and masks.

    Attributes:
        classes_: Sorted class labels [C].
        positive_label_: Positive class; None past two classes when none was named.

    Example:
        >>> import numpy as np
        >>> from ldae.heads import DropoutClassifier
        >>> codes = np.linspace(-2, 2, 40)[:, None]
        >>> head = DropoutClassifier(epochs=20).fit(codes, np.where(codes[:, 0] > 0, "AD", "CN"))
        >>> head.member_probabilities([[1.5]]).shape
        (1, 20, 2)
    """

    def __init__(
        self,
        *,
        samples: int = 20,
        hidden: Sequence[int] = (128, 128),
        epochs: int = 60,
        learning_rate: float = 1e-3,
        folds: int = 5,
        positive_label: str | int | None = None,
        random_state: int | None = 0,
    ) -> None:
        self.samples = samples
        self.hidden = hidden
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.folds = folds
        self.positive_label = positive_label
        self.random_state = random_state

    def _check_options(self) -> None:
        check_count("samples", self.samples, least=1)
        super()._check_options()

    def _columns(self, generator: np.random.Generator) -> Columns:
        return [np.arange(self.n_features_in_)]

    def _fit(self, training: TrainingSet) -> None:
        super()._fit(training)
        with seeded(self.seed_):  # its first weights are replaced, but drawn from torch's own generator
            thinned = mapping_networks(
                self.columns_ * self.samples, classes=len(self.classes_), hidden=list(self.hidden)
            )
        self.network_ = for_prediction(_thin(self.network_, thinned, seed=self.seed_))
        self.columns_ = self.columns_ * self.samples
        self.temperatures_ = np.repeat(self.temperatures_, self.samples)


class DepthEnsembleClassifier(NetworkEnsemble):
    """Which class a code belongs to: the mean over networks that each see another depth of the encoder.

    LaDiNE's mapping networks without its label diffusion: under one `random_state` they are those of
    `LaDiNEClassifier`, so that whatever the two differ in is the diffusion's.

    Args:
        depths: Widths of the depths that lie side by side in X, the semantic code last; None gives each
            network a random half of one code.
        members: Number of networks; None takes every depth, five at most, or five views.
        hidden: Widths of hidden layers.
        epochs: Most epochs.
        learning_rate: Of AdamW.
        folds: Number of folds.
        positive_label: The class that binary scores speak of, such as "AD"; None takes the last of two.
        random_state: Seed of folds, views, initial weights and batches.

    Attributes:
        classes_: Sorted class labels [C].
        positive_label_: Positive class; None past two classes when none was named.
        columns_: The columns that each network sees.

    Example:
        >>> import numpy as np
        >>> from ldae.heads import DepthEnsembleClassifier
        >>> codes = np.linspace(-2, 2, 40)[:, None].repeat(2, 1)
        >>> head = DepthEnsembleClassifier(depths=[1, 1], epochs=20)
        >>> head = head.fit(codes, np.where(codes[:, 0] > 0, "AD", "CN"))
        >>> head.predict([[-1.5, -1.5], [1.5, 1.5]]).tolist()
        ['CN', 'AD']
    """

    def __init__(
        self,
        *,
        depths: Sequence[int] | None = None,
        members: int | None = None,
        hidden: Sequence[int] = (128, 128),
        epochs: int = 60,
        learning_rate: float = 1e-3,
        folds: int = 5,
        positive_label: str | int | None = None,
        random_state: int | None = 0,
    ) -> None:
        self.depths = depths
        self.members = members
        self.hidden = hidden
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.folds = folds
        self.positive_label = positive_label
        self.random_state = random_state

    def _check_options(self) -> None:
        check_count("members", 1 if self.members is None else self.members, least=1)
        super()._check_options()

    def _columns(self, generator: np.random.Generator) -> Columns:
        return member_columns(
            self.n_features_in_, members=self.members, depths=self.depths, generator=generator
        )


def _thin(network: StackedMLP, thinned: StackedMLP, *, seed: int) -> StackedMLP:
    """Copies of one network, each without a random part of its hidden values.

    A value that is dropped is a row of zeros in the next layer's weights, the others grown by 1 / (1 - p).
    """
    generator = torch.Generator().manual_seed(seed)
    copies = len(thinned.last.weight)
    weights = {name: value.repeat(copies, 1, 1) for name, value in network.state_dict().items()}
    after = [*(f"blocks.{place}.weight" for place in range(1, len(network.blocks))), "last.weight"]
    for name in after if len(network.blocks) else ():
        kept = torch.rand(copies, weights[name].shape[1], 1, generator=generator) >= DROPOUT
        weights[name] = weights[name] * kept / (1 - DROPOUT)
    thinned.load_state_dict(weights)
    return thinned
