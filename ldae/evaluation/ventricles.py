# SPDX-License-Identifier: Apache-2.0
"""Lateral-ventricle volume measured from the voxels of a scan, real or generated.

The measure is local: it looks only at the region whose voxels darken as ventricles grow, and only at
intensities relative to the bright tissue of that region, so that contrast, brightness or anything elsewhere
in the head says nothing about the volume. It learns from scans whose volume is known.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ldae.errors import InputError
from ldae.heads import RidgeProbe

COARSE_SIDE = 32  # voxels; partial volume holds the rest, and a coarse voxel has less noise
STRENGTHS = tuple(float(value) for value in 10.0 ** np.arange(1, 4.5, 0.5))
CORRELATION_SHARE = 0.4  # of the strongest one
BRIGHT_PERCENTILE = 90  # of the region: white matter around the ventricles
FLAT = 0.01  # standard deviation below which a voxel says nothing
MIN_SCANS = 20

Volumes = NDArray[np.floating] | Iterable[NDArray[np.floating]]


class VentricleEstimator:
    """Ventricle volume in ml from a volume on the pipeline's grid, by ridge regression on local voxels.

    Args:
        folds: Folds over subjects that choose the regularisation.

    Attributes:
        region_: Coarse voxels that it looks at [X', Y', Z'], bool.
        varying_: Which of them differ between scans and enter the regression, bool.
        probe_: The fitted regression.

    Example:
        >>> import numpy as np
        >>> from ldae.evaluation.ventricles import VentricleEstimator
        >>> ml = np.linspace(10, 90, 40)
        >>> scans = np.full((40, 16, 16, 16), 0.9)
        >>> scans[:, 6:10, 6:10, 6:10] -= ml[:, None, None, None] / 150
        >>> estimator = VentricleEstimator().fit(scans, ml)
        >>> bool(estimator.correlation(scans, ml) > 0.99)
        True
    """

    region_: NDArray[np.bool_]
    varying_: NDArray[np.bool_]
    probe_: RidgeProbe

    def __init__(self, *, folds: int = 5) -> None:
        self.folds = folds

    def fit(self, volumes: Volumes, ml: ArrayLike, *, subjects: ArrayLike | None = None) -> Self:
        """Learns region and regression from scans with known volumes.

        Args:
            volumes: Training volumes [N, X, Y, Z] in [0, 1]; read one at a time, so memory maps will do.
            ml: Their lateral-ventricle volumes [N].
            subjects: Subject of each scan [N]; None takes every scan for a subject of its own.

        Raises:
            InputError: Fewer than 20 scans, volumes of two sizes, or no voxel that darkens with the volume.
        """
        coarse, known = _coarse(volumes), np.asarray(ml, dtype=np.float64)
        if len(known) < MIN_SCANS or known.shape != (len(coarse),):
            raise InputError(
                f"The ventricle estimator needs at least {MIN_SCANS} scans, each with its volume in ml, "
                f"got {len(coarse)} scans and volumes of shape {known.shape}."
            )
        self.region_ = _darkening_region(coarse, known)
        self.varying_ = coarse[:, self.region_].std(axis=0) > FLAT
        self.probe_ = RidgeProbe(regularisation=STRENGTHS, folds=self.folds)
        self.probe_.fit(self._features(coarse), known, groups=subjects)
        return self

    def predict(self, volumes: Volumes) -> NDArray[np.float64]:
        """Estimated volume of each scan in ml [N]; linear, so it may pass 0 far outside the training range.

        Args:
            volumes: Volumes [N, X, Y, Z] of the size it was fitted on, in [0, 1].

        Raises:
            InputError: Another size.
        """
        coarse = _coarse(volumes)
        if coarse.shape[1:] != self.region_.shape:
            raise InputError(
                f"Volumes must have the size the estimator was fitted on, {self.region_.shape} after "
                f"pooling, got {coarse.shape[1:]}."
            )
        return self.probe_.predict(self._features(coarse))

    def correlation(self, volumes: Volumes, ml: ArrayLike) -> float:
        """Pearson correlation between estimated and known volumes: what the estimator is worth."""
        return float(np.corrcoef(self.predict(volumes), np.asarray(ml, dtype=np.float64))[0, 1])

    def _features(self, coarse: NDArray[np.float32]) -> NDArray[np.float32]:
        inside = coarse[:, self.region_]
        bright = np.percentile(inside, BRIGHT_PERCENTILE, axis=1, keepdims=True)
        return np.asarray(inside[:, self.varying_] / bright)


def _coarse(volumes: Volumes) -> NDArray[np.float32]:
    """Volumes averaged over blocks of voxels so that the shortest side has some 32 voxels."""
    pooled = [_pool(np.asarray(volume, dtype=np.float32)) for volume in volumes]
    sizes = {volume.shape for volume in pooled}
    if len(sizes) != 1 or len(next(iter(sizes))) != 3:
        raise InputError(f"Volumes must be [N, X, Y, Z] of one size, got {sorted(sizes)} after pooling.")
    return np.stack(pooled)


def _pool(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    block = max(1, round(min(volume.shape) / COARSE_SIDE))
    if block == 1 or volume.ndim != 3:
        return volume
    x, y, z = (side // block for side in volume.shape)
    kept = volume[: x * block, : y * block, : z * block]
    return np.asarray(kept.reshape(x, block, y, block, z, block).mean(axis=(1, 3, 5)))


def _darkening_region(coarse: NDArray[np.float32], ml: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The largest connected region of voxels that correlate negatively with the volume, one voxel wider."""
    spread = coarse.std(axis=0)
    covariance = np.tensordot(ml - ml.mean(), coarse - coarse.mean(axis=0), axes=1) / len(ml)
    scale = np.where(spread > FLAT, spread * ml.std(), np.inf)
    correlation = covariance / scale
    strongest = correlation.min()
    if not strongest < 0:
        raise InputError(
            "Volumes must darken somewhere as ventricles grow, but no voxel does. Check that scans and their "
            "ventricle_ml belong together."
        )
    labels, _ = ndimage.label(correlation < CORRELATION_SHARE * strongest)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(ndimage.binary_dilation(labels == sizes.argmax()))
