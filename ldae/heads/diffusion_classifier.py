# SPDX-License-Identifier: Apache-2.0
"""Classification by a generative model: the class whose denoiser undoes noise on the code best."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from torch import Tensor

from ldae.diffusion.likelihood import class_log_likelihoods
from ldae.heads.checks import check_arrays, check_count, saved_positive
from ldae.heads.class_diffusion import Diffusion, class_v
from ldae.heads.classifier import TrainingSet
from ldae.heads.diffusion_based import DiffusionBased
from ldae.heads.diffusion_training import Loss
from ldae.heads.shaped import one_by_one
from ldae.heads.uncertainty import softmax_uncertainty

PRIOR_SPREAD = 2.0  # of the log factor and the offsets, nats


class DiffusionClassifier(DiffusionBased):
    """p(y | z) from the class-conditional denoising error of a diffusion model of the codes or latents.

    As the robust diffusion classifier (arXiv 2305.15241), with the weights that make the error a
    log-likelihood. The model starts from the classes' Gaussians of one shrunk covariance, which alone are a
    linear discriminant analysis, and adds a network as far as that helps to classify held-out scans.
    Likelihoods of many numbers are far too sure of themselves: a common factor and an offset of each class
    are fitted on held-out scans.

    Args:
        latent_shape: (C, h, w, d) of latents that come as flat rows; None takes rows for codes, and the shape
            of [N, C, h, w, d] from there.
        levels: Noise levels at which the denoiser is asked, even in signal variance.
        draws: Noises at each level, the same for every scan and class, each used with either sign.
        width: Width of the MLP, for codes.
        channels: Channels of the residual network, for latents.
        layers: Layers of the MLP, or residual blocks.
        diffusion_steps: Most training steps of the network; 0 leaves the Gaussians.
        batch_size: Codes a step.
        learning_rate: Of AdamW.
        folds: Number of folds; the first is held out to choose the steps and to calibrate.
        positive_label: The class that binary scores speak of, such as "AD"; None takes the last of two.
        random_state: Seed of folds, initial weights, batches and noise.

    Attributes:
        classes_: Sorted class labels [C].
        positive_label_: Positive class; None past two classes when none was named.
        steps_: The number of training steps that was chosen; 0 where the network did not help.
        factor_, offsets_: log p(y | z) = factor log p(z | y) + offset, normalised.

    Example:
        >>> import numpy as np
        >>> from ldae.heads import DiffusionClassifier
        >>> codes = np.linspace(-2, 2, 40)[:, None]
        >>> head = DiffusionClassifier(diffusion_steps=0).fit(codes, np.where(codes[:, 0] > 0, "AD", "CN"))
        >>> head.predict([[-1.5], [1.5]]).tolist()
        ['CN', 'AD']
        >>> errors = head.uncertainty([[1.0], [50.0]])["denoising_error"]
        >>> bool(errors[1] > 100 * errors[0])
        True
    """

    factor_: float
    offsets_: NDArray[np.float64]

    def __init__(
        self,
        *,
        latent_shape: Sequence[int] | None = None,
        levels: int = 16,
        draws: int = 1,
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
        self.levels = levels
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
        fitted = self._fit_diffusion(self._standardised(training.features), training)
        self.factor_, self.offsets_, _ = self._calibration(training, fitted.judged)
        self.diffusion_, self.steps_ = fitted.final, fitted.steps

    def _held_out_loss(self, values: Tensor, training: TrainingSet) -> Loss:
        """By what the steps are chosen: what the calibrated classifier loses on the first fold.

        A network that undoes noise better need not tell classes apart better.
        """
        return lambda model: self._calibration(training, model)[2]

    def _calibration(
        self, training: TrainingSet, model: Diffusion
    ) -> tuple[float, NDArray[np.float64], float]:
        held_out = training.folds[0][1]
        shares = np.bincount(training.encoded) / len(training.encoded)
        scores = self._scores(training.features[held_out], model)
        return calibrate_scores(scores, training.encoded[held_out], offsets=np.log(shares))

    def log_likelihoods(self, X: ArrayLike) -> NDArray[np.float64]:
        """log p(z | y) of each class [N, C], up to a constant that the classes of a scan share."""
        return self._scores(self._checked(X), self.diffusion_)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probability of each class [N, C], columns in the order of `classes_`."""
        return self._chances(self.log_likelihoods(X))

    def uncertainty(self, X: ArrayLike) -> pd.DataFrame:
        """A row a code: entropy, least_confidence, and denoising_error under the best class.

        The error is weighted as the likelihood is and divided by the number of values; it rises without end
        for codes unlike those of every class, whatever the probabilities say.
        """
        scores = self.log_likelihoods(X)
        error = -2 * scores.max(axis=1) / self.n_features_in_
        return softmax_uncertainty(self._chances(scores)).assign(denoising_error=error)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The fitted head as a JSON-able dictionary and named arrays."""
        self._check_fitted()
        calibration = np.array([self.factor_, *self.offsets_])
        return self._config(), self._diffusion_arrays() | {"calibration": calibration}

    @classmethod
    def from_state(cls, config: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """The head that `state` described.

        Raises:
            CheckpointError: Another head's state, or arrays that do not fit it.
        """
        head = cls._rebuilt(config, arrays)
        found = {name: value for name, value in arrays.items() if name == "calibration"}
        shapes: dict[str, tuple[int, ...]] = {"calibration": (1 + len(head.classes_),)}
        kept = check_arrays(found, shapes=shapes, head=cls.__name__)["calibration"]
        head.factor_, head.offsets_ = float(saved_positive("factor", kept[:1], count=1)[0]), kept[1:]
        return head

    def _chances(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(softmax(self.factor_ * scores + self.offsets_, axis=1))

    def _check_options(self) -> None:
        check_count("levels", self.levels, least=1)
        check_count("draws", self.draws, least=1)
        super()._check_options()

    def _scores(self, features: NDArray[np.float64], model: Diffusion) -> NDArray[np.float64]:
        generator = torch.Generator().manual_seed(self.seed_)
        noise = torch.randn((self.levels, self.draws, *self._shape), generator=generator)

        def score(row: Tensor) -> Tensor:
            return class_log_likelihoods(
                partial(class_v, model),
                model.whiten(row[None])[0],
                classes=len(self.classes_),
                schedule=model.schedule,
                noise=noise,
            )

        return one_by_one(score, self._standardised(features))


def calibrate_scores(
    scores: NDArray[np.float64], encoded: NDArray[np.intp], *, offsets: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64], float]:
    """The positive factor of scores [N, C] and the offset of each class [C] with the lowest NLL, and the NLL.

    Args:
        scores: Log-likelihoods of scans that were not fitted.
        encoded: Class index of each scan [N].
        offsets: Log shares of the classes, to which a weak normal prior holds the offsets.
    """
    rows = np.arange(len(encoded))
    centred = scores - scores.max(axis=1, keepdims=True)
    size = max(float(centred.std()), 1e-12)

    def loss(parameters: NDArray[np.float64]) -> float:
        logits = np.exp(parameters[0]) * centred / size + offsets + parameters[1:]
        chosen = log_softmax(logits, axis=1)[rows, encoded]
        penalty = np.square(parameters / PRIOR_SPREAD).sum() / (2 * len(encoded))
        return float(-chosen.mean() + penalty)

    result = minimize(loss, np.zeros(1 + len(offsets)), method="L-BFGS-B")
    return float(np.exp(result.x[0]) / size), offsets + result.x[1:], float(result.fun)
