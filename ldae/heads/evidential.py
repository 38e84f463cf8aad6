# SPDX-License-Identifier: Apache-2.0
"""Evidential classification: a Dirichlet distribution over class probabilities from one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from ldae.errors import InputError
from ldae.heads.checks import check_arrays, check_count, check_features, check_number, check_option
from ldae.heads.classifier import DirichletClassifier, TrainingSet
from ldae.heads.evidential_losses import (
    EVIDENCES,
    KLS,
    LOSSES,
    EvidenceName,
    KLName,
    LossName,
    annealed,
    dirichlet_loss,
    kl_term,
    prior_weight,
    to_evidence,
)
from ldae.heads.modulation import HaC
from ldae.heads.stacked import (
    Loss,
    Optimisation,
    StackedMLP,
    for_prediction,
    from_arrays,
    seeded,
    subset,
    to_arrays,
    train_stack,
)
from ldae.heads.uncertainty import dirichlet_uncertainty

DROPOUT = 0.1
PATIENCE = 10  # epochs without a lower held-out loss
MODULATION_WEIGHT = 10.0  # of (a gamma)^2, averaged over a code
NETWORK = "network."


class EvidenceNetwork(nn.Module):
    """R classifiers of codes with their context in the last columns; the context only modulates the code.

    Args:
        networks: R.
        dim: Width of the code.
        classes: Number of classes C.
        hidden: Widths of hidden layers; none for a linear classifier.
        modulation: Whether HaC comes first.
        context: Width of the context.
    """

    def __init__(
        self,
        networks: int,
        *,
        dim: int,
        classes: int,
        hidden: Sequence[int],
        modulation: bool,
        context: int,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.modulation = HaC(dim, context, networks=networks) if modulation else None
        self.classifier = StackedMLP(networks, dim, classes, hidden=hidden, dropout=DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        """Codes beside their context [R, N, D + K] to logits [R, N, C]."""
        code, context = self._parts(x)
        logits: Tensor = self.classifier(code if self.modulation is None else self.modulation(code, context))
        return logits

    def strength(self, x: Tensor) -> Tensor | float:
        """How strongly the modulation changes each code [R, N]; 0 where there is none."""
        return 0.0 if self.modulation is None else self.modulation.strength(*self._parts(x))

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return x[..., : self.dim], x[..., self.dim :] if x.shape[-1] > self.dim else None


class EvidentialClassifier(DirichletClassifier):
    """Which class a code belongs to, as a Dirichlet distribution: alpha = evidence + prior weight.

    The reliability-aware prediction of CLEAR-Mamba (arXiv 2601.20601) with the losses of Sensoy et al. (arXiv
    1806.01768), I-EDL and R-EDL. The number of epochs is the one with the lowest out-of-fold loss, pull
    included; the head is then fitted on all codes for as many. Its uncertainties rank codes, they are
    no calibrated probabilities of error (Juergens et al., arXiv 2402.09056).

    Args:
        evidence: "exp" (of logits within +-10) or "softplus", which grows only linearly with the logit.
        loss: "nll" (type-II likelihood), "ce", "mse" (Bayes risks), "iedl" (Fisher-weighted) or "redl" (prior
            weight 0.1, squared error of the mean).
        kl: Pull towards no evidence: of all of it ("full"), of all but the true class's ("tilde"), or "none".
            With "full", a weight of 1 caps the probability of two classes at 0.618.
        kl_weight: Its weight once annealed.
        anneal_epochs: Epochs over which the weight rises from zero; 0 starts with all of it.
        hidden: Widths of hidden layers; none for a linear layer.
        modulation: Scale and shift the code first by what is known of the scan (HaC), restrained by its
            (a gamma)^2 in training.
        context: Number of columns at the end of X that are context, not code; they enter through the
            modulation alone, and may be NaN where unknown. A fitted head also takes codes without them.
        balanced: Weigh classes alike, whatever their number of scans.
        epochs: Most epochs; training ends before where the held-out loss no longer falls.
        batch_size: Codes a step.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
        folds: Number of folds.
        positive_label: The class that binary scores speak of, such as "AD"; None takes the last of two.
        random_state: Seed of folds, initial weights and batches.

    Attributes:
        classes_: Sorted class labels [C].
        positive_label_: Positive class; None past two classes when none was named.
        epochs_: The number of epochs that was chosen.
        mean_, scale_: Standardisation of the columns.

    Example:
        >>> import numpy as np
        >>> from ldae.heads import EvidentialClassifier
        >>> codes = np.linspace(-2, 2, 40)[:, None]
        >>> head = EvidentialClassifier(epochs=20).fit(codes, np.where(codes[:, 0] > 0, "AD", "CN"))
        >>> head.predict([[-1.5], [1.5]]).tolist()
        ['CN', 'AD']
        >>> head.uncertainty([[1.5]]).columns.tolist()[:3]
        ['vacuity', 'dissonance', 'entropy']
    """

    mean_: NDArray[np.float64]
    scale_: NDArray[np.float64]
    network_: EvidenceNetwork
    epochs_: int

    def __init__(
        self,
        *,
        evidence: EvidenceName = "exp",
        loss: LossName = "nll",
        kl: KLName = "full",
        kl_weight: float = 5e-3,
        anneal_epochs: int = 10,
        hidden: Sequence[int] = (),
        modulation: bool = False,
        context: int = 0,
        balanced: bool = False,
        epochs: int = 2000,
        batch_size: int = 128,
        learning_rate: float = 5e-3,
        weight_decay: float = 0.1,
        folds: int = 5,
        positive_label: str | int | None = None,
        random_state: int | None = 0,
    ) -> None:
        self.evidence = evidence
        self.loss = loss
        self.kl = kl
        self.kl_weight = kl_weight
        self.anneal_epochs = anneal_epochs
        self.hidden = hidden
        self.modulation = modulation
        self.context = context
        self.balanced = balanced
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.folds = folds
        self.positive_label = positive_label
        self.random_state = random_state

    def _fit(self, training: TrainingSet) -> None:
        self._check_context(training.features)
        self.mean_, self.scale_ = _standardisation(training.features)
        inputs = self._inputs(training.features).float()
        with seeded(self.seed_):
            self.epochs_ = self._choose_epochs(inputs, training)
            network = self._network(1)
            for _ in self._train(network, inputs, training, epochs=self.epochs_):
                pass
        self.network_ = for_prediction(network)

    def concentration(self, X: ArrayLike) -> NDArray[np.float64]:
        """Concentration alpha of each code's Dirichlet distribution [N, C]."""
        check_is_fitted(self, "network_")
        inputs = self._inputs(check_features(self, self._with_context(X), missing=self.context))
        return self._alpha(self.network_(inputs)[0]).numpy()

    def differentiable_proba(self, X: Tensor, *, generator: torch.Generator) -> Tensor:
        """`predict_proba` as a differentiable function of float64 codes; nothing is drawn."""
        inputs = (X - torch.from_numpy(self.mean_)) / torch.from_numpy(self.scale_)
        alpha = self._alpha(self.network_(inputs[None])[0])
        return alpha / alpha.sum(1, keepdim=True)

    def uncertainty(self, X: ArrayLike) -> pd.DataFrame:
        """A row a code; columns as of `ldae.heads.uncertainty.dirichlet_uncertainty`."""
        return dirichlet_uncertainty(self.concentration(X), prior_weight=prior_weight(self.loss))

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The fitted head as a JSON-able dictionary and named arrays."""
        check_is_fitted(self, "network_")
        arrays: dict[str, NDArray[Any]] = {"mean": self.mean_.copy(), "scale": self.scale_.copy()}
        arrays |= {f"{NETWORK}{name}": array for name, array in to_arrays(self.network_).items()}
        return self._config() | {"epochs": self.epochs_}, arrays

    @classmethod
    def from_state(cls, config: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """The head that `state` described.

        Raises:
            CheckpointError: Another head's state, or arrays that do not fit it.
        """
        head = cls._restored(config)
        head.epochs_ = int(config["epochs"])
        shape = (head.n_features_in_,)
        plain = {name: array for name, array in arrays.items() if not name.startswith(NETWORK)}
        shapes = {"mean": shape, "scale": shape}
        kept = check_arrays(plain, shapes=shapes, head=cls.__name__, positive=["scale"])
        head.mean_, head.scale_ = kept["mean"], kept["scale"]
        head.network_ = from_arrays(head._network(1), subset(arrays, NETWORK), head=cls.__name__)
        return head

    def _with_context(self, X: ArrayLike) -> ArrayLike:
        """X, or codes alone beside a context that is not known."""
        if self.context == 0 or np.ndim(X) != 2 or np.shape(X)[1] != self.n_features_in_ - self.context:
            return X
        return np.pad(np.asarray(X), ((0, 0), (0, self.context)), constant_values=np.nan)

    def _check_options(self) -> None:
        check_option("evidence", self.evidence, allowed=EVIDENCES)
        check_option("loss", self.loss, allowed=LOSSES)
        check_option("kl", self.kl, allowed=KLS)
        check_number("kl_weight", self.kl_weight, least=0)
        check_count("anneal_epochs", self.anneal_epochs, least=0)
        check_count("epochs", self.epochs, least=1)
        check_count("batch_size", self.batch_size, least=1)
        if self.context and not self.modulation:
            raise InputError(
                f"context must come with modulation, got {self.context} columns of it alone. Set modulation."
            )
        super()._check_options()

    def _check_context(self, features: NDArray[np.float64]) -> None:
        width = features.shape[1]
        check_number("context", self.context, least=0, most=width - 1)
        unknown = np.isnan(features).all(axis=0)
        if unknown.any():
            raise InputError(
                f"Context must be known of some training scan, got only NaN in column {unknown.argmax()} "
                f"of {width}. Leave it out."
            )

    def _network(self, networks: int) -> EvidenceNetwork:
        return EvidenceNetwork(
            networks,
            dim=self.n_features_in_ - self.context,
            classes=len(self.classes_),
            hidden=list(self.hidden),
            modulation=self.modulation,
            context=self.context,
        )

    def _inputs(self, features: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy((features - self.mean_) / self.scale_)[None]

    def _alpha(self, logits: Tensor) -> Tensor:
        return to_evidence(logits, name=self.evidence) + prior_weight(self.loss)

    def _loss(self, targets: Tensor) -> Loss:
        prior = prior_weight(self.loss)

        def loss(logits: Tensor, rows: Tensor, epoch: int) -> Tensor:
            # Trigammas of large concentrations differ in digits that float32 does not have.
            evidence = to_evidence(logits.double(), name=self.evidence)
            classes = targets[rows].expand(evidence.shape[:-1])
            weight = annealed(self.kl_weight, epoch=epoch, over=self.anneal_epochs)
            pull = kl_term(evidence, classes, name=self.kl)
            return dirichlet_loss(evidence + prior, classes, name=self.loss) + weight * pull

        return loss

    def _train(
        self,
        network: EvidenceNetwork,
        inputs: Tensor,
        training: TrainingSet,
        *,
        epochs: int,
        weights: NDArray[np.float32] | None = None,
    ) -> Any:
        used = np.ones((1, len(training.encoded)), dtype=np.float32) if weights is None else weights
        if self.balanced:
            used = used * training.class_weights
        loss = self._loss(torch.from_numpy(training.encoded))

        def restrained(logits: Tensor, rows: Tensor, epoch: int) -> Tensor:
            changed = network.strength(inputs[:, rows].expand(len(logits), -1, -1))
            return loss(logits, rows, epoch) + MODULATION_WEIGHT * changed

        return train_stack(
            network,
            inputs,
            loss=restrained,
            weights=torch.from_numpy(used),
            optimisation=Optimisation(epochs, self.batch_size, self.learning_rate, self.weight_decay),
        )

    def _choose_epochs(self, inputs: Tensor, training: TrainingSet) -> int:
        network = self._network(self.folds)
        rows, fold_of = torch.arange(len(training.encoded)), torch.from_numpy(training.fold_of)
        loss = self._loss(torch.from_numpy(training.encoded))
        losses: list[float] = []
        weights = training.fold_weights
        for _ in self._train(network, inputs, training, epochs=self.epochs, weights=weights):
            with torch.no_grad():
                logits = network(inputs.expand(self.folds, -1, -1))[fold_of, rows]
                # With the whole pull of the KL, else the epochs before it is annealed would win.
                losses.append(float(loss(logits, rows, max(self.anneal_epochs, 1)).mean()))
            if len(losses) - int(np.argmin(losses)) > PATIENCE:
                break
        return int(np.argmin(losses)) + 1


def _standardisation(features: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each column, where it is known; 1 for a constant column."""
    mean, spread = np.nanmean(features, axis=0), np.nanstd(features, axis=0)
    floor = 10 * np.finfo(np.float64).eps * np.maximum(np.abs(mean), 1)
    return mean, np.where(spread > floor, spread, 1.0)
