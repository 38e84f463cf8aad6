# SPDX-License-Identifier: Apache-2.0
"""Classifiers that take semantic codes [N, D] or spatial latents [N, C, h, w, d], in float32 inside.

Scans are judged one at a time: the last bits of a float32 product depend on the number of rows, so that only
batches of one form make the result for a scan independent of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ldae.errors import InputError
from ldae.heads.checks import check_arrays, check_features
from ldae.heads.classifier import CodeClassifier, TrainingSet
from ldae.heads.stacked import Network

LATENT_AXES = 5
SMALLEST_SPREAD = 1e-6


class ShapedClassifier(CodeClassifier):
    """A classifier of codes, or of latents, as [N, C, h, w, d] or flat with their `latent_shape` beside."""

    latent_shape: Sequence[int] | None
    latent_shape_: tuple[int, ...] | None
    mean_: NDArray[np.float64]
    scale_: NDArray[np.float64]

    def _begin(self, X: ArrayLike, y: ArrayLike, *, groups: ArrayLike | None) -> TrainingSet:
        training = super()._begin(flat(X), y, groups=groups)
        self.latent_shape_ = self._told_shape(_shape_of(X))
        self.mean_, self.scale_ = _standardisation(training.features, shape=self.latent_shape_)
        return training

    def _told_shape(self, given: tuple[int, ...]) -> tuple[int, ...] | None:
        """Shape of a latent by `latent_shape` or by X; None for codes."""
        found = given[1:] if len(given) == LATENT_AXES else None
        if self.latent_shape is None:
            return found
        told = tuple(self.latent_shape)
        if len(told) != LATENT_AXES - 1 or told != (found or told) or np.prod(told) != self.n_features_in_:
            raise InputError(
                f"latent_shape must be the (channels, h, w, d) of X, got {told} for {given[1:]}."
            )
        return told

    @property
    def _shape(self) -> tuple[int, ...]:
        """Shape of one code (D,) or latent (C, h, w, d)."""
        return self.latent_shape_ or (self.n_features_in_,)

    def _check_fitted(self) -> None:
        check_is_fitted(self, "mean_")

    def _checked(self, X: ArrayLike) -> NDArray[np.float64]:
        """Features [N, F] of codes or latents to score."""
        self._check_fitted()
        given = _shape_of(X)
        if len(given) == LATENT_AXES and given[1:] != self.latent_shape_:
            raise InputError(f"X must hold latents {self.latent_shape_}, got {given[1:]}.")
        return check_features(self, flat(X))

    def _standardised(self, features: NDArray[np.float64]) -> Tensor:
        """Standardised codes [N, D] or latents [N, C, h, w, d], float32."""
        values = torch.from_numpy((features - self.mean_) / self.scale_).float()
        return values.reshape(-1, *self._shape)

    def _config(self) -> dict[str, Any]:
        return super()._config() | {"latent_shape": self.latent_shape_ and list(self.latent_shape_)}

    def _own_arrays(self) -> dict[str, NDArray[Any]]:
        return {"mean": self.mean_.copy(), "scale": self.scale_.copy()}

    @classmethod
    def _reshaped(cls, config: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """A restored head with its standardisation."""
        head = cls._restored(config)
        shape = config["latent_shape"]
        head.latent_shape_ = None if shape is None else tuple(shape)
        own = {name: value for name, value in arrays.items() if name in ("mean", "scale")}
        width = (head.n_features_in_,)
        shapes = {"mean": width, "scale": width}
        kept = check_arrays(own, shapes=shapes, head=cls.__name__, positive=["scale"])
        head.mean_, head.scale_ = kept["mean"], kept["scale"]
        return head


def flat(X: ArrayLike) -> ArrayLike:
    """Latents [N, C, h, w, d] as [N, F]; anything else as it is."""
    if len(_shape_of(X)) != LATENT_AXES:
        return X
    values = np.asarray(X)
    return np.asarray(values.reshape(len(values), -1))


def _shape_of(X: ArrayLike) -> tuple[int, ...]:
    """Shape of an array; that of nested lists is left to scikit-learn."""
    return tuple(getattr(X, "shape", ()))


def one_by_one(judge: Callable[[Tensor], Tensor], values: Tensor) -> NDArray[np.float64]:
    """What `judge` says of each row alone, stacked; rows are copied, so that they lie in memory alike."""
    with torch.no_grad():
        return np.stack([judge(row.clone()).double().numpy() for row in values])


def mean_and_disagreement(draws: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean of class probabilities [N, R, C] over draws [N, C], and what they disagree by, in nats [N].

    The disagreement is the mutual information between draw and class: the entropy of the mean less the mean
    of the entropies.
    """
    mean = draws.mean(axis=1)
    return mean, np.maximum(entr(mean).sum(axis=1) - entr(draws).sum(axis=2).mean(axis=1), 0)


def frozen(network: Network) -> Network:
    """The network for prediction only, in float32."""
    network.float().eval().requires_grad_(False)
    return network


def _standardisation(
    features: NDArray[np.float64], *, shape: tuple[int, ...] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean [F], and spread [F] of each number of a code or of each channel of a latent."""
    mean, spread = features.mean(axis=0), features.std(axis=0)
    if shape is not None:
        channels = np.sqrt(np.square(spread).reshape(shape[0], -1).mean(axis=1))
        spread = channels.repeat(features.shape[1] // shape[0])
    return mean, np.where(spread > SMALLEST_SPREAD * np.maximum(np.abs(mean), SMALLEST_SPREAD), spread, 1.0)
