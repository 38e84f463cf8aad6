# SPDX-License-Identifier: Apache-2.0
"""A Dirichlet head from densities: how many training scans stand behind a calibrated probability."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import gamma
from sklearn.covariance import LedoitWolf
from sklearn.utils.validation import check_is_fitted

from ldae.heads.checks import check_arrays, check_features
from ldae.heads.classifier import DirichletClassifier, TrainingSet
from ldae.heads.linear import LinearProbe
from ldae.heads.uncertainty import dirichlet_uncertainty

PROBE = "probe."
SMALLEST = 1e-9
LEAST = 1e-6  # scans behind a code, wherever it lies: the more probable class is named even there


class DensityDirichletClassifier(DirichletClassifier):
    """Which class a code belongs to, with as much evidence as training scans lie where the code does.

    alpha = 1 + N(z) p(y | z), as in posterior networks (arXiv 2006.09239), on frozen codes: p is the linear
    probe, and N(z) the number of training scans that lie no closer to the middle of their class, each class a
    Gaussian with a shrunk covariance common to all (Ledoit and Wolf). How far scans of a class lie from its
    middle is learned out of fold, as a gamma distribution of squared Mahalanobis distances. Far from every
    class N is next to nothing and alpha uniform, but for the side on which the probe has it.

    Args:
        folds: Number of folds.
        positive_label: The class that binary scores speak of, such as "AD"; None takes the last of two.
        random_state: Seed that deals subjects to folds.

    Attributes:
        classes_: Sorted class labels [C].
        positive_label_: Positive class; None past two classes when none was named.
        probe_: The linear probe behind the probabilities.
        means_: Middle of each class [C, D].
        root_: Square root of the inverse covariance [D, D].
        shape_, rate_: The gamma distribution of each class's squared distances [C].
        counts_: Training scans of each class [C].

    Example:
        >>> import numpy as np
        >>> from ldae.heads import DensityDirichletClassifier
        >>> codes = np.random.default_rng(0).standard_normal((80, 2))
        >>> head = DensityDirichletClassifier().fit(codes, np.where(codes[:, 0] > 0, "AD", "CN"))
        >>> head.uncertainty([[0.5, 0.0], [50.0, 0.0]])["vacuity"].round(1).tolist()
        [0.0, 1.0]
    """

    probe_: LinearProbe
    means_: NDArray[np.float64]
    root_: NDArray[np.float64]
    shape_: NDArray[np.float64]
    rate_: NDArray[np.float64]
    counts_: NDArray[np.float64]

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
        self.shape_, self.rate_ = _distance_distributions(training)
        self.means_, self.root_ = _gaussians(features, training.encoded)
        self.counts_ = np.bincount(training.encoded).astype(np.float64)

    def concentration(self, X: ArrayLike) -> NDArray[np.float64]:
        """Concentration alpha of each code's Dirichlet distribution [N, C]."""
        check_is_fitted(self, "counts_")
        features = check_features(self, X)
        distances = _squared_distances(features, self.means_, root=self.root_)
        behind = gamma.sf(distances * self.rate_, self.shape_) @ self.counts_
        return np.asarray(1 + np.maximum(behind, LEAST)[:, None] * self.probe_.predict_proba(features))

    def uncertainty(self, X: ArrayLike) -> pd.DataFrame:
        """A row a code; columns as of `ldae.heads.uncertainty.dirichlet_uncertainty`, and distance.

        The distance is the squared Mahalanobis distance from the closest class, which goes on rising where
        there is no evidence left to lose.
        """
        table = dirichlet_uncertainty(self.concentration(X))
        distances = _squared_distances(check_features(self, X), self.means_, root=self.root_)
        return table.assign(distance=distances.min(axis=1))

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The fitted head as a JSON-able dictionary and named arrays."""
        check_is_fitted(self, "counts_")
        config, probe = self.probe_.state()
        arrays = {f"{PROBE}{name}": array for name, array in probe.items()}
        own = {name: getattr(self, f"{name}_").copy() for name in self._shapes()}
        return self._config() | {"probe": config}, arrays | own

    @classmethod
    def from_state(cls, config: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """The head that `state` described.

        Raises:
            CheckpointError: Another head's state, or arrays that do not fit it.
        """
        head = cls._restored(config)
        probe = {name.removeprefix(PROBE): value for name, value in arrays.items() if PROBE in name}
        head.probe_ = head._holding(LinearProbe.from_state(config["probe"], probe))
        own = {name: value for name, value in arrays.items() if PROBE not in name}
        kept = check_arrays(
            own, shapes=head._shapes(), head=cls.__name__, positive=["shape", "rate", "counts"]
        )
        for name, array in kept.items():
            setattr(head, f"{name}_", array)
        return head

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        classes, width = len(self.classes_), self.n_features_in_
        each = dict.fromkeys(("shape", "rate", "counts"), (classes,))
        return {"means": (classes, width), "root": (width, width), **each}


def _gaussians(
    features: NDArray[np.float64], encoded: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Class means [C, D] and the root of the inverse of their common, shrunk covariance [D, D]."""
    means = np.stack([features[encoded == index].mean(axis=0) for index in np.unique(encoded)])
    # Shrinkage is towards a sphere, so that every feature must be of one size.
    scale = features.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    covariance = LedoitWolf(assume_centered=True).fit((features - means[encoded]) / scale).covariance_
    values, vectors = np.linalg.eigh(covariance)
    floor = SMALLEST * max(float(values[-1]), SMALLEST)
    return means, (vectors / np.sqrt(np.maximum(values, floor))) / scale[:, None]


def _squared_distances(
    features: NDArray[np.float64], means: NDArray[np.float64], *, root: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Squared Mahalanobis distances [N, C]."""
    return np.stack([np.square((features - mean) @ root).sum(axis=1) for mean in means], axis=1)


def _distance_distributions(training: TrainingSet) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shape and rate [C] of the gamma distribution of each class's out-of-fold squared distances."""
    own = np.empty(len(training.encoded))
    for train, test in training.folds:
        means, root = _gaussians(training.features[train], training.encoded[train])
        distances = _squared_distances(training.features[test], means, root=root)
        own[test] = distances[np.arange(len(test)), training.encoded[test]]
    of_class = [own[training.encoded == index] for index in np.unique(training.encoded)]
    mean = np.array([max(values.mean(), SMALLEST) for values in of_class])
    variance = np.array([values.var() for values in of_class])
    variance = np.maximum(variance, SMALLEST * mean**2)
    return mean**2 / variance, mean / variance
