# SPDX-License-Identifier: Apache-2.0
"""Nearest neighbours among the training codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from ldae.heads.checks import check_arrays, check_count, check_features
from ldae.heads.classifier import CodeClassifier, TrainingSet
from ldae.heads.uncertainty import softmax_uncertainty

NEIGHBOURS = (5, 7, 9, 11, 15, 21, 31, 45, 81)  # odd: two classes never tie


class NeighbourClassifier(CodeClassifier):
    """Which class a code belongs to, by how many of the closest training codes do.

    Distances are Euclidean between standardised codes. One neighbour more, spread over the classes as they
    are in training, keeps probabilities off zero. The number of neighbours is the one with the lowest
    out-of-fold negative log-likelihood.

    Args:
        neighbours: Candidates; those above the number of training codes of a fold are left out.
        folds: Number of folds.
        positive_label: The class that binary scores speak of, such as "AD"; None takes the last of two.
        random_state: Seed that deals subjects to folds.

    Attributes:
        classes_: Sorted class labels [C].
        positive_label_: Positive class; None past two classes when none was named.
        neighbours_: The number that was chosen.

    Example:
        >>> import numpy as np
        >>> from ldae.heads import NeighbourClassifier
        >>> codes = np.linspace(-2, 2, 40)[:, None]
        >>> head = NeighbourClassifier().fit(codes, np.where(codes[:, 0] > 0, "AD", "CN"))
        >>> head.predict([[-1.5], [1.5]]).tolist()
        ['CN', 'AD']
    """

    mean_: NDArray[np.float64]
    scale_: NDArray[np.float64]
    codes_: NDArray[np.float64]
    members_: NDArray[np.float64]
    neighbours_: int
    stepwise = True  # between changes of neighbours nothing changes
    index_: NearestNeighbors

    def __init__(
        self,
        *,
        neighbours: Sequence[int] = NEIGHBOURS,
        folds: int = 5,
        positive_label: str | int | None = None,
        random_state: int | None = 0,
    ) -> None:
        self.neighbours = neighbours
        self.folds = folds
        self.positive_label = positive_label
        self.random_state = random_state

    def _check_options(self) -> None:
        check_count("neighbours", min(self.neighbours, default=0), least=1)
        super()._check_options()

    def _fit(self, training: TrainingSet) -> None:
        scaler = StandardScaler().fit(training.features)
        self.mean_, self.scale_ = scaler.mean_, scaler.scale_
        codes = (training.features - self.mean_) / self.scale_
        members = np.eye(len(self.classes_))[training.encoded]
        fewest = min(len(train) for train, _ in training.folds)
        candidates = [count for count in self.neighbours if count <= fewest] or [fewest]
        losses = np.zeros(len(candidates))
        for train, test in training.folds:
            near = NearestNeighbors(n_neighbors=max(candidates)).fit(codes[train])
            closest = near.kneighbors(codes[test], return_distance=False)
            for place, count in enumerate(candidates):
                chances = _shares(members[train], closest[:, :count])
                losses[place] -= np.log((chances * members[test]).sum(axis=1)).sum()
        self.neighbours_ = candidates[int(losses.argmin())]
        self._keep(codes, members)

    def _keep(self, codes: NDArray[np.float64], members: NDArray[np.float64]) -> None:
        self.codes_, self.members_ = codes, members
        self.index_ = NearestNeighbors(n_neighbors=self.neighbours_).fit(codes)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probability of each class [N, C], columns in the order of `classes_`."""
        closest = self._closest(X)[1]
        return _shares(self.members_, closest)

    def uncertainty(self, X: ArrayLike) -> pd.DataFrame:
        """A row a code: entropy, least_confidence, and distance, that of the farthest neighbour asked."""
        distances, closest = self._closest(X)
        return softmax_uncertainty(_shares(self.members_, closest)).assign(distance=distances[:, -1])

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The fitted head as a JSON-able dictionary and named arrays."""
        check_is_fitted(self, "codes_")
        arrays = {name: getattr(self, f"{name}_").copy() for name in ("mean", "scale", "codes", "members")}
        config = self._config() | {"kept": len(self.codes_), "chosen": self.neighbours_}
        return config, arrays

    @classmethod
    def from_state(cls, config: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """The head that `state` described.

        Raises:
            CheckpointError: Another head's state, or arrays that do not fit it.
        """
        head = cls._restored(config)
        rows, width = int(config["kept"]), head.n_features_in_
        check_count("chosen", config["chosen"], least=1, most=rows)
        head.neighbours_ = config["chosen"]
        shapes: dict[str, tuple[int, ...]] = {"codes": (rows, width), "members": (rows, len(head.classes_))}
        shapes |= {"mean": (width,), "scale": (width,)}
        kept = check_arrays(arrays, shapes=shapes, head=cls.__name__, positive=["scale"])
        head.mean_, head.scale_ = kept["mean"], kept["scale"]
        head._keep(kept["codes"], kept["members"])
        return head

    def _closest(self, X: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        check_is_fitted(self, "codes_")
        standardised = (check_features(self, X) - self.mean_) / self.scale_
        distances, closest = self.index_.kneighbors(standardised)
        return distances, closest


def _shares(members: NDArray[np.float64], closest: NDArray[np.intp]) -> NDArray[np.float64]:
    """Class probabilities [N, C] from the rows [N, k] of one-hot classes that lie closest."""
    counts = members[closest].sum(axis=1)
    return np.asarray((counts + members.mean(axis=0)) / (closest.shape[1] + 1))
