# SPDX-License-Identifier: Apache-2.0
"""What the training scans look like to the pipeline: mean, spread and covariance of codes, and ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ldae.data.artefact import CONFIG_NAME, Component, load_component, save_component, whole
from ldae.errors import CheckpointError, InputError

KIND = "statistics"
CODE_DISTANCE = "code distance"
CENTRAL_PERCENTILES = (0.5, 99.5)
FOLDS = 5
SMALLEST_VARIANCE = 1e-6


@dataclass(frozen=True)
class TrainingStatistics:
    """Distribution of the training scans.

    Attributes:
        mean: Mean of the training codes [D].
        std: Standard deviation of the training codes [D].
        whitening: Inverse square root of the covariance of (code - mean) / std, [D, D].
        ranges: 0.5th and 99.5th percentile of the training scans by the name of the measure.
        scans: Number of training scans.
        sha256: Hash of the saved component, empty before it is saved.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    whitening: NDArray[np.float64]
    ranges: dict[str, tuple[float, float]]
    scans: int
    sha256: str = ""

    def whiten(self, codes: ArrayLike) -> NDArray[np.float64]:
        """Codes [..., D] with zero mean and unit variance per feature over the training scans."""
        return np.asarray((np.asarray(codes, dtype=np.float64) - self.mean) / _divisor(self.std))

    def distance(self, codes: ArrayLike) -> NDArray[np.float64]:
        """Mahalanobis distance of codes [N, D] from the training codes, [N]."""
        return np.asarray(np.linalg.norm(self.whiten(codes) @ self.whitening, axis=1))

    def covariance(self) -> NDArray[np.float64]:
        """Covariance of the training codes [D, D], shrunken as the whitening is."""
        root = np.linalg.inv(self.whitening)
        return np.asarray(self.std[:, None] * (root @ root) * self.std)

    def spread(self, unit: ArrayLike) -> float:
        """Standard deviation of the whitened training codes along a unit direction [D]."""
        return float(np.linalg.norm(np.linalg.solve(self.whitening, np.asarray(unit, dtype=np.float64))))


def measure_training(
    codes: NDArray[np.float64], *, subjects: Sequence[str], measures: Mapping[str, NDArray[np.float64]]
) -> TrainingStatistics:
    """Statistics of training scans.

    The range of the code's distance is that of scans which the covariance has not seen (folds over subjects):
    seen ones lie nearer, the more so the more numbers a code has.

    Args:
        codes: Semantic codes [N, D].
        subjects: Subject of each scan.
        measures: Further measures by name, [M] each.

    Raises:
        InputError: Fewer than two subjects.
    """
    if len(set(subjects)) < 2:
        raise InputError(f"The training split must hold at least 2 subjects, got {len(set(subjects))}.")
    mean, std = codes.mean(axis=0), codes.std(axis=0, ddof=1)
    whitened = (codes - mean) / _divisor(std)
    values = {CODE_DISTANCE: _distances_of_unseen(whitened, subjects=subjects), **measures}
    ranges = {name: _central_range(found) for name, found in values.items()}
    return TrainingStatistics(mean, std, _whitening(whitened), ranges, len(codes))


def save_statistics(
    folder: Path,
    statistics: TrainingStatistics,
    *,
    spec: Mapping[str, Any],
    split: str,
    parents: Mapping[str, str],
    request: str,
) -> str:
    """Write the statistics as a component, with what they were measured on, and return its sha256."""
    arrays = {"mean": statistics.mean, "std": statistics.std, "whitening": statistics.whitening}
    ranges = {name: list(limits) for name, limits in statistics.ranges.items()}
    return save_component(
        folder,
        kind=KIND,
        config={"code_size": len(statistics.mean)},
        tensors={name: torch.from_numpy(array) for name, array in arrays.items()},
        spec=spec,
        split=split,
        parents=parents,
        extra={"scans": statistics.scans, "ranges": ranges, "request": request},
    )


def load_statistics(folder: Path) -> tuple[TrainingStatistics, Component]:
    """The statistics of a component folder.

    Raises:
        FileNotFoundError: The folder is missing.
        CheckpointError: It is damaged or something else.
    """
    component = load_component(folder, KIND)
    with whole(folder / CONFIG_NAME):
        size = component.config["code_size"]
        shapes = {"mean": (size,), "std": (size,), "whitening": (size, size)}
    found = {name: tuple(tensor.shape) for name, tensor in component.tensors.items()}
    if found != shapes:
        raise CheckpointError(f"{folder} must hold tensors {shapes}, got {found}. Run: ldae assemble")
    with whole(folder / CONFIG_NAME):
        arrays = {name: component.tensors[name].double().numpy() for name in shapes}
        ranges = {name: (float(low), float(high)) for name, (low, high) in component.extra["ranges"].items()}
        statistics = TrainingStatistics(
            arrays["mean"],
            arrays["std"],
            arrays["whitening"],
            ranges,
            component.extra["scans"],
            sha256=component.sha256,
        )
    return statistics, component


def _divisor(std: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spread to divide by: a feature that never varies stays as it is."""
    return np.where(std > 0, std, 1.0)


def _whitening(whitened: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse square root of the shrunken covariance (Ledoit and Wolf, 2004), however few scans."""
    from sklearn.covariance import ledoit_wolf

    covariance, _ = ledoit_wolf(whitened, assume_centered=True)
    values, vectors = np.linalg.eigh(covariance)
    scaled = vectors / np.sqrt(np.maximum(values, SMALLEST_VARIANCE))
    return np.asarray(scaled @ vectors.T)


def _distances_of_unseen(whitened: NDArray[np.float64], *, subjects: Sequence[str]) -> NDArray[np.float64]:
    from sklearn.model_selection import GroupKFold

    folds = GroupKFold(min(FOLDS, len(set(subjects))))
    distances = np.empty(len(whitened))
    for seen, unseen in folds.split(whitened, groups=subjects):
        distances[unseen] = np.linalg.norm(whitened[unseen] @ _whitening(whitened[seen]), axis=1)
    return distances


def _central_range(values: NDArray[np.float64]) -> tuple[float, float]:
    # Rounded outwards: of a few scans it is the smallest and the largest.
    low, high = CENTRAL_PERCENTILES
    return float(np.percentile(values, low, method="lower")), float(
        np.percentile(values, high, method="higher")
    )
