# SPDX-License-Identifier: Apache-2.0
"""Corrupt, then clean, then classify: what a diffusion model takes for noise is taken off a code first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import log_loss
from torch import Tensor

from ldae.heads.checks import check_count, check_number
from ldae.heads.class_diffusion import Diffusion, purify
from ldae.heads.classifier import TrainingSet
from ldae.heads.diffusion_based import DiffusionBased
from ldae.heads.linear import LinearProbe
from ldae.heads.noise_aware import NoiseAwareClassifier
from ldae.heads.shaped import mean_and_disagreement, one_by_one
from ldae.heads.stacked import subset
from ldae.heads.uncertainty import softmax_uncertainty

BASE = "base."
TOP_LEVEL = 999
CANDIDATES = (0, 25, 50, 100, 200, 300, 400)

Base = LinearProbe | NoiseAwareClassifier


class PurifyClassifier(DiffusionBased):
    """A base classifier of purified codes: noised to level t*, walked back by the diffusion, and judged.

    As DiffPure (arXiv 2205.07460) on codes. The base is the linear probe for codes, and for latents a 3D
    residual network (`NoiseAwareClassifier`). The diffusion is one of all classes together, and the walk back
    is the default solver's. t* is chosen on held-out scans, as they are and with `corruption`. This is made
    for corruptions, not for attacks that know of the purification (arXiv 2305.15241).

    Args:
        latent_shape: (C, h, w, d) of latents that come as flat rows; None takes rows for codes, and the shape
            of [N, C, h, w, d] from there.
        level: t*, 0 to 999; 0 is the base alone. None chooses.
        corruption: Standard deviation of the noise that is added to held-out scans to choose t*, in standard
            deviations of each number of a code, or of each channel of a latent.
        steps: Calls of the denoiser on the way back.
        draws: Number of walks that are averaged, from the same noise for every scan.
        width: Width of the MLP, for codes.
        channels: Channels of the residual networks, for latents.
        layers: Layers of the MLP, or residual blocks.
        diffusion_steps: Most training steps of the denoiser; 0 leaves the Gaussians.
        batch_size: Codes a step.
        learning_rate: Of AdamW.
        folds: Number of folds; the first is held out to choose steps and level.
        positive_label: The class that binary scores speak of, such as "AD"; None takes the last of two.
        random_state: Seed of folds, initial weights, batches and noise.

    Attributes:
        classes_: Sorted class labels [C].
        positive_label_: Positive class; None past two classes when none was named.
        base_: The classifier of purified codes.
        level_: t*.
        steps_: The number of training steps that was chosen; 0 where the network did not help.

    Example:
        >>> import numpy as np
        >>> from ldae.heads import PurifyClassifier
        >>> codes = np.linspace(-2, 2, 40)[:, None]
        >>> labels = np.where(codes[:, 0] > 0, "AD", "CN")
        >>> head = PurifyClassifier(level=50, draws=4, diffusion_steps=0).fit(codes, labels)
        >>> head.predict([[-1.5], [1.5]]).tolist()
        ['CN', 'AD']
        >>> head.purified([[1.5]]).shape  # scans, draws, numbers
        (1, 4, 1)
    """

    base_: Base
    level_: int

    def __init__(
        self,
        *,
        latent_shape: Sequence[int] | None = None,
        level: int | None = None,
        corruption: float = 0.5,
        steps: int = 10,
        draws: int = 8,
        width: int = 64,
        channels: int = 16,
        layers: int = 3,
        diffusion_steps: int = 1000,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        folds: int = 5,
        positive_label: str | int | None = None,
        random_state: int | None = 0,
    ) -> None:
        self.latent_shape = latent_shape
        self.level = level
        self.corruption = corruption
        self.steps = steps
        self.draws = draws
        self.width = width
        self.channels = channels
        self.layers = layers
        self.diffusion_steps = diffusion_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.folds = folds
        self.positive_label = positive_label
        self.random_state = random_state

    def _fit(self, training: TrainingSet) -> None:
        values = self._standardised(training.features)
        fitted = self._fit_diffusion(values, training)
        every = np.arange(len(training.encoded))
        self.level_ = self.level if self.level is not None else self._choose_level(training, fitted.judged)
        self.base_ = self._fit_base(training, every)
        self.diffusion_, self.steps_ = fitted.final, fitted.steps

    def purified(self, X: ArrayLike) -> NDArray[np.float64]:
        """Purified codes or latents [N, R, ...], in the units of X."""
        features = self._checked(X)
        clean = self._purified(features, self.diffusion_, level=self.level_)
        return np.asarray(clean.reshape(len(features), self.draws, *self._shape))

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probability of each class [N, C], columns in the order of `classes_`."""
        return self._judged(X)[0]

    def uncertainty(self, X: ArrayLike) -> pd.DataFrame:
        """A row a code: entropy, least_confidence, and disagreement between the walks, in nats."""
        chances, disagreement = self._judged(X)
        return softmax_uncertainty(chances).assign(disagreement=disagreement)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The fitted head as a JSON-able dictionary and named arrays."""
        self._check_fitted()
        base, arrays = self.base_.state()
        told = self._config() | {"level": self.level_, "base": base}
        return told, self._diffusion_arrays() | {f"{BASE}{name}": array for name, array in arrays.items()}

    @classmethod
    def from_state(cls, config: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """The head that `state` described.

        Raises:
            CheckpointError: Another head's state, or arrays that do not fit it.
        """
        head = cls._rebuilt(config, arrays)
        check_count("level", config["level"], least=0, most=TOP_LEVEL)
        head.level_ = config["level"]
        kind = LinearProbe if head.latent_shape_ is None else NoiseAwareClassifier
        head.base_ = head._holding(kind.from_state(config["base"], subset(arrays, BASE)))
        return head

    def _check_options(self) -> None:
        check_count("level", self.level or 0, least=0, most=TOP_LEVEL)
        check_number("corruption", self.corruption, least=0)
        check_count("steps", self.steps, least=1)
        check_count("draws", self.draws, least=1)
        super()._check_options()

    def _fit_base(self, training: TrainingSet, rows: NDArray[np.intp]) -> Base:
        base: Base
        if self.latent_shape_ is None:
            base = LinearProbe(folds=self.folds, random_state=self.seed_)
        else:
            base = NoiseAwareClassifier(
                latent_shape=self.latent_shape_,
                judged_at="clean",
                width=self.channels,
                folds=self.folds,
                random_state=self.seed_,
            )
        groups = None if training.groups is None else training.groups[rows]
        return base.fit(training.features[rows], self.classes_[training.encoded[rows]], groups=groups)

    def _choose_level(self, training: TrainingSet, model: Diffusion) -> int:
        """The level with the lowest NLL over held-out scans as they are and corrupted."""
        seen, held_out = training.folds[0]
        base = self._fit_base(training, seen)
        features = training.features[held_out]
        noise = np.random.default_rng(self.seed_).standard_normal(features.shape)
        both = np.concatenate([features, features + self.corruption * self.scale_ * noise])
        truth = np.tile(self.classes_[training.encoded[held_out]], 2)

        def loss(level: int) -> float:
            clean = self._purified(both, model, level=level)
            chances = self._base_chances(base, clean, scans=len(both)).mean(axis=1)
            return float(log_loss(truth, chances, labels=self.classes_))

        return min(CANDIDATES, key=loss)

    def _purified(
        self, features: NDArray[np.float64], model: Diffusion, *, level: int
    ) -> NDArray[np.float64]:
        """Purified rows [N R, F] in the units of X, R of a scan one after another."""
        if level == 0:
            return features.repeat(self.draws, axis=0)
        noise = torch.randn((self.draws, *self._shape), generator=torch.Generator().manual_seed(self.seed_))

        def walk(row: Tensor) -> Tensor:
            whitened = model.whiten(row[None])[0]
            return model.colour(purify(model, whitened, noise=noise, level=level, steps=self.steps))

        clean = one_by_one(walk, self._standardised(features))
        return np.asarray(clean.reshape(len(features) * self.draws, -1) * self.scale_ + self.mean_)

    def _base_chances(self, base: Base, clean: NDArray[np.float64], *, scans: int) -> NDArray[np.float64]:
        return base.predict_proba(clean).reshape(scans, self.draws, -1)

    def _judged(self, X: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Class probabilities [N, C], and what the walks disagree by [N]."""
        features = self._checked(X)
        clean = self._purified(features, self.diffusion_, level=self.level_)
        return mean_and_disagreement(self._base_chances(self.base_, clean, scans=len(features)))
