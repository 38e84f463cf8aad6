# SPDX-License-Identifier: Apache-2.0
"""Rare classes filled up with codes drawn from a class-conditional diffusion, and a probe of all of them."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from ldae.errors import InputError
from ldae.heads.checks import check_number
from ldae.heads.class_diffusion import CodeClasses
from ldae.heads.classifier import TrainingSet
from ldae.heads.diffusion_based import DiffusionBased
from ldae.heads.linear import LinearProbe
from ldae.heads.stacked import subset

PROBE = "probe."
DRAW_STEPS = 50


class AugmentedProbe(DiffusionBased):
    """A linear probe of the codes and of codes drawn for the rarer classes, until all are equally frequent.

    The codes are drawn from a diffusion model of the classes, fitted on the training codes alone. The probe's
    strength is chosen on real codes. Its probabilities are those of classes equally frequent.

    Args:
        share: Which part of what a class lacks of the most frequent one is drawn, 0 to 1.
        width: Width of the denoiser.
        layers: Its layers.
        diffusion_steps: Most training steps of the denoiser; 0 leaves the Gaussians.
        batch_size: Codes a step.
        learning_rate: Of AdamW.
        folds: Number of folds.
        positive_label: The class that binary scores speak of, such as "AD"; None takes the last of two.
        random_state: Seed of folds, initial weights, batches and draws.

    Attributes:
        classes_: Sorted class labels [C].
        positive_label_: Positive class; None past two classes when none was named.
        probe_: The linear probe.
        drawn_: Number of codes drawn for each class [C].

    Example:
        >>> import numpy as np
        >>> from ldae.heads import AugmentedProbe
        >>> codes = np.random.default_rng(0).standard_normal((60, 2))
        >>> labels = np.where(codes[:, 0] > 0.8, "AD", "CN")
        >>> head = AugmentedProbe(diffusion_steps=0).fit(codes, labels)
        >>> bool(head.drawn_[0] == (labels == "CN").sum() - (labels == "AD").sum()), int(head.drawn_[1])
        (True, 0)
    """

    latent_shape = None
    channels = 16
    probe_: LinearProbe
    drawn_: NDArray[np.intp]

    def __init__(
        self,
        *,
        share: float = 1.0,
        width: int = 64,
        layers: int = 3,
        diffusion_steps: int = 1000,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        folds: int = 5,
        positive_label: str | int | None = None,
        random_state: int | None = 0,
    ) -> None:
        self.share = share
        self.width = width
        self.layers = layers
        self.diffusion_steps = diffusion_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.folds = folds
        self.positive_label = positive_label
        self.random_state = random_state

    @property
    def direction_(self) -> NDArray[np.float64]:
        """The probe's direction."""
        return self.probe_.direction_

    def _fit(self, training: TrainingSet) -> None:
        if self.latent_shape_ is not None:
            raise InputError(f"X must be codes [N, D], got latents {self.latent_shape_}.")
        features, labels = training.features, self.classes_[training.encoded]
        fitted = self._fit_diffusion(self._standardised(features), training)
        self.diffusion_, self.steps_ = fitted.final, fitted.steps
        counts = np.bincount(training.encoded)
        self.drawn_ = np.rint(self.share * (counts.max() - counts)).astype(np.intp)
        chosen = LinearProbe(folds=self.folds, random_state=self.seed_)
        chosen.fit(features, labels, groups=training.groups)
        self.probe_ = LinearProbe(
            regularisation=(chosen.regularisation_,),
            positive_label=self.positive_label_ if len(self.classes_) == 2 else self.positive_label,
            random_state=self.seed_,
        )
        drawn = self.draw(np.repeat(self.classes_, self.drawn_), seed=self.seed_)
        everything = np.concatenate([features, drawn])
        self.probe_.fit(everything, np.concatenate([labels, np.repeat(self.classes_, self.drawn_)]))

    def draw(self, labels: ArrayLike, *, seed: int = 0) -> NDArray[np.float64]:
        """Codes [N, D] of nobody, one of each class named [N].

        Args:
            labels: Classes.
            seed: Another seed, other codes.
        """
        check_is_fitted(self, "diffusion_")
        places = torch.from_numpy(np.searchsorted(self.classes_, np.asarray(labels)) + 1)
        noise = np.random.default_rng(seed).standard_normal((len(places), self.n_features_in_))
        start = torch.from_numpy(noise).float()
        assert isinstance(self.diffusion_, CodeClasses)
        drawn = self.diffusion_.draw(start, places, steps=DRAW_STEPS).double().numpy()
        return np.asarray(drawn * self.scale_ + self.mean_)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probability of each class [N, C], columns in the order of `classes_`."""
        features = self._checked(X)
        return self.probe_.predict_proba(features)

    def uncertainty(self, X: ArrayLike) -> pd.DataFrame:
        """A row a code: entropy and least_confidence."""
        features = self._checked(X)
        return self.probe_.uncertainty(features)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The fitted head as a JSON-able dictionary and named arrays."""
        self._check_fitted()
        probe, arrays = self.probe_.state()
        told = self._config() | {"probe": probe, "drawn": self.drawn_.tolist()}
        return told, self._diffusion_arrays() | {f"{PROBE}{name}": array for name, array in arrays.items()}

    @classmethod
    def from_state(cls, config: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """The head that `state` described.

        Raises:
            CheckpointError: Another head's state, or arrays that do not fit it.
        """
        head = cls._rebuilt(config, arrays)
        head.drawn_ = np.asarray(config["drawn"], dtype=np.intp)
        head.probe_ = head._holding(LinearProbe.from_state(config["probe"], subset(arrays, PROBE)))
        return head

    def _check_options(self) -> None:
        check_number("share", self.share, least=0, most=1)
        super()._check_options()
