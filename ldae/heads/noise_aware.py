# SPDX-License-Identifier: Apache-2.0
"""A classifier that knows how much noise a code or latent carries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self, get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ldae.heads.checks import check_arrays, check_count, check_number, check_option
from ldae.heads.classifier import TrainingSet
from ldae.heads.noise_gauge import NoiseGauge
from ldae.heads.noised_network import NoisedClassifier, NoisedTraining, fit_noised
from ldae.heads.shaped import ShapedClassifier, frozen, mean_and_disagreement, one_by_one
from ldae.heads.stacked import load_arrays, seeded, subset, to_arrays
from ldae.heads.uncertainty import softmax_uncertainty

NETWORK, GAUGE = "network.", "gauge."
TOP_LEVEL = 1000

JudgedAt = Literal["estimate", "clean", "average"]


class NoiseAwareClassifier(ShapedClassifier):
    """p(y | z_t, t): which class a noised code or latent belongs to.

    The classifier of classifier guidance (arXiv 2105.05233, section 4), trained on codes half of which are
    clean and half noised to a uniform level; on codes an MLP, on latents a 3D residual network. Noise in
    training acts as ridge does, and leaves a classifier that also judges z_t on the way down. The number of
    epochs is the best for the first fold, held out; the head is then fitted on all codes for as many.

    A code x to judge is taken for z_0 + sigma eps with the sigma that `NoiseGauge` finds most likely, and
    judged as z_t = sqrt(A_t) x at the level t of that noise: the more noise, the less is said.

    Args:
        latent_shape: (C, h, w, d) of latents that come as flat rows; None takes rows for codes, and the shape
            of [N, C, h, w, d] from there.
        judged_at: Judge a code at the level of noise that it is estimated to carry ("estimate"), as one that
            carries none ("clean"), or as the mean over noised versions of it ("average").
        highest_level: Of the noised versions, 1000 at most.
        draws: Number of noised versions, at even levels; the same noise for every scan.
        clean: Share of clean codes in training.
        hidden: Widths of the MLP's hidden layers.
        width: Channels of the residual network.
        epochs: Most epochs.
        batch_size: Codes a step.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
        folds: Number of folds; the first is held out to choose the epochs.
        positive_label: The class that binary scores speak of, such as "AD"; None takes the last of two.
        random_state: Seed of folds, initial weights, batches and noise.

    Attributes:
        classes_: Sorted class labels [C].
        positive_label_: Positive class; None past two classes when none was named.
        epochs_: The number of epochs that was chosen.
        latent_shape_: Shape of a latent; None for codes.
        gauge_: What tells the level of noise.

    Example:
        >>> import numpy as np
        >>> from ldae.heads import NoiseAwareClassifier
        >>> codes = np.linspace(-2, 2, 40)[:, None]
        >>> head = NoiseAwareClassifier(epochs=30).fit(codes, np.where(codes[:, 0] > 0, "AD", "CN"))
        >>> head.predict([[-1.5], [1.5]]).tolist()
        ['CN', 'AD']
        >>> bool(head.posterior([[1.0]], level=1000).max() < 0.7)  # nothing but noise
        True
    """

    network_: NoisedClassifier
    epochs_: int
    gauge_: NoiseGauge

    def __init__(
        self,
        *,
        latent_shape: Sequence[int] | None = None,
        judged_at: JudgedAt = "estimate",
        highest_level: int = 400,
        draws: int = 16,
        clean: float = 0.5,
        hidden: Sequence[int] = (64,),
        width: int = 16,
        epochs: int = 80,
        batch_size: int = 64,
        learning_rate: float = 2e-3,
        weight_decay: float = 0.1,
        folds: int = 5,
        positive_label: str | int | None = None,
        random_state: int | None = 0,
    ) -> None:
        self.latent_shape = latent_shape
        self.judged_at = judged_at
        self.highest_level = highest_level
        self.draws = draws
        self.clean = clean
        self.hidden = hidden
        self.width = width
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.folds = folds
        self.positive_label = positive_label
        self.random_state = random_state

    def _fit(self, training: TrainingSet) -> None:
        options = NoisedTraining(
            self.epochs, self.batch_size, self.learning_rate, self.weight_decay, self.clean
        )
        rows = self._standardised(training.features), torch.from_numpy(training.encoded)
        first = training.folds[0]
        with seeded(self.seed_):
            network, self.epochs_ = fit_noised(
                self._network(),
                rows,
                training=options,
                folds=(torch.from_numpy(first[0]), torch.from_numpy(first[1])),
            )
        self.network_ = frozen(network)
        self.gauge_ = NoiseGauge.fit(_rows(rows[0]), folds=training.folds)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probability of each class [N, C], columns in the order of `classes_`."""
        return self._judged(X)[0]

    def posterior(self, noised: ArrayLike, *, level: int) -> NDArray[np.float64]:
        """p(y | z_t, t) [N, C] of standardised codes or latents that already carry noise.

        Args:
            noised: sqrt(A_t) z_0 + sqrt(1 - A_t) eps with z_0 = (X - mean_) / scale_.
            level: 0 for A = 1, t + 1 for level t of the default noise schedule.

        Raises:
            InputError: No such level, or another shape than fitted on.
        """
        check_number("level", level, least=0, most=TOP_LEVEL)
        values = torch.from_numpy(self._checked(noised)).float().reshape(-1, *self._shape)
        return self._posterior(values, torch.full((len(values),), int(level)))

    def levels(self, X: ArrayLike) -> NDArray[np.intp]:
        """The level of noise that each code or latent is estimated to carry [N]: 0 for none, t + 1 for t."""
        return self.gauge_.levels(_rows(self._standardised(self._checked(X))))

    def uncertainty(self, X: ArrayLike) -> pd.DataFrame:
        """A row a code: entropy, least_confidence, disagreement between noised versions (nats), and level."""
        chances, disagreement = self._judged(X)
        return softmax_uncertainty(chances).assign(disagreement=disagreement, level=self.levels(X))

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The fitted head as a JSON-able dictionary and named arrays."""
        self._check_fitted()
        arrays = {f"{NETWORK}{name}": array for name, array in to_arrays(self.network_).items()}
        arrays |= {f"{GAUGE}{name}": array.copy() for name, array in vars(self.gauge_).items()}
        return self._config() | {"epochs": self.epochs_}, self._own_arrays() | arrays

    @classmethod
    def from_state(cls, config: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """The head that `state` described.

        Raises:
            CheckpointError: Another head's state, or arrays that do not fit it.
        """
        head = cls._reshaped(config, arrays)
        head.epochs_ = int(config["epochs"])
        head.network_ = frozen(load_arrays(head._network(), subset(arrays, NETWORK), head=cls.__name__))
        gauge = subset(arrays, GAUGE)
        count = len(gauge.get("directions", ()))
        shapes = {"directions": (count, head.n_features_in_), "variances": (count + 1,)}
        head.gauge_ = NoiseGauge(
            **check_arrays(gauge, shapes=shapes, head=cls.__name__, positive=["variances"])
        )
        return head

    def _check_options(self) -> None:
        check_option("judged_at", self.judged_at, allowed=get_args(JudgedAt))
        check_count("highest_level", self.highest_level, least=1, most=TOP_LEVEL)
        check_count("draws", self.draws, least=1)
        check_number("clean", self.clean, least=0, most=1)
        check_count("width", self.width, least=1)
        check_count("epochs", self.epochs, least=1)
        check_count("batch_size", self.batch_size, least=1)
        super()._check_options()

    def _network(self) -> NoisedClassifier:
        return NoisedClassifier(
            self._shape, classes=len(self.classes_), hidden=list(self.hidden), width=self.width
        )

    def _judged(self, X: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Class probabilities [N, C], and what the noised versions disagree by [N]."""
        values = self._standardised(self._checked(X))
        if self.judged_at == "average":
            return mean_and_disagreement(one_by_one(self._judge_noised, values))
        levels = self.levels(X) if self.judged_at == "estimate" else np.zeros(len(values), dtype=np.intp)
        return self._judge_at(values, levels), np.zeros(len(values))

    def _judge_at(self, values: Tensor, levels: NDArray[np.intp]) -> NDArray[np.float64]:
        """Class probabilities [N, C] of codes that carry noise of these levels."""
        told = torch.from_numpy(levels)
        return self._posterior(self.network_.signal_of(told, values.ndim).sqrt() * values, told)

    def _posterior(self, noised: Tensor, levels: Tensor) -> NDArray[np.float64]:
        """p(y | z_t, t) [N, C] of codes that carry noise at levels [N]."""
        with torch.no_grad():
            # One at a time, as in `one_by_one`, but each with its level.
            logits = [
                self.network_(row.clone()[None], level[None])[0]
                for row, level in zip(noised, levels, strict=True)
            ]
            return torch.stack(logits).double().softmax(1).numpy()

    def _judge_noised(self, row: Tensor) -> Tensor:
        """Class probabilities [R, C] of a code's noised versions."""
        level = torch.linspace(self.highest_level / self.draws, self.highest_level, self.draws).round().long()
        noise = torch.randn((self.draws, *self._shape), generator=torch.Generator().manual_seed(self.seed_))
        z = self.network_.noised(row.expand_as(noise), noise, level)
        chances: Tensor = self.network_(z, level).double().softmax(1)
        return chances


def _rows(values: Tensor) -> NDArray[np.float64]:
    return values.double().flatten(1).numpy()
