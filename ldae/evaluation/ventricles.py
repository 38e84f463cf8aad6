# SPDX-License-Identifier: Apache-2.0
"""Lateral-ventricle volume measured from the voxels of a scan, real or generated.

The measure is local: it looks only at the region whose voxels darken as ventricles grow, and only at
intensities relative to the bright tissue of that region, so that contrast, brightness or anything elsewhere
in the head says nothing about the volume. It learns from scans whose volume is known.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import islice
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
MOST_SCANS = 1000  # more hardly make it better, and each takes room and time
PREDICTED_AT_ONCE = 256

Volumes = NDArray[np.floating] | Sequence[NDArray[np.floating]]


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
            volumes: Training volumes [N, X, Y, Z] in [0, 1]; of more than 1,000, evenly spaced ones are used.
            ml: Their lateral-ventricle volumes [N].
            subjects: Subject of each scan [N]; None takes every scan for a subject of its own.

        Raises:
            InputError: Fewer than 20 scans, volumes of two sizes, or no voxel that darkens with the volume.
        """
        known = np.asarray(ml, dtype=np.float64)
        if len(known) < MIN_SCANS or known.shape != (len(volumes),):
            raise InputError(
                f"The ventricle estimator needs at least {MIN_SCANS} scans, each with its volume in ml, "
                f"got {len(volumes)} scans and volumes of shape {known.shape}."
            )
        chosen = slice(None, None, math.ceil(len(known) / MOST_SCANS))
        places = range(len(known))[chosen]
        self.region_ = _darkening_region((volumes[place] for place in places), known[chosen])
        inside = self._inside(volumes[place] for place in places)
        self.varying_ = inside.std(axis=0) > FLAT
        self.probe_ = RidgeProbe(regularisation=STRENGTHS, folds=self.folds)
        groups = None if subjects is None else np.asarray(subjects)[chosen]
        self.probe_.fit(self._features(inside), known[chosen], groups=groups)
        return self

    def predict(self, volumes: Iterable[NDArray[np.floating]]) -> NDArray[np.float64]:
        """Estimated volume of each scan in ml [N]; linear, so it may pass 0 far outside the training range.

        Args:
            volumes: Volumes [N, X, Y, Z] of the size it was fitted on, in [0, 1].

        Raises:
            InputError: Another size.
        """
        remaining, parts = iter(volumes), []
        while some := list(islice(remaining, PREDICTED_AT_ONCE)):
            parts.append(self.probe_.predict(self._features(self._inside(some))))
        return np.concatenate(parts)

    def correlation(self, volumes: Iterable[NDArray[np.floating]], ml: ArrayLike) -> float:
        """Pearson correlation between estimated and known volumes: what the estimator is worth."""
        return float(np.corrcoef(self.predict(volumes), np.asarray(ml, dtype=np.float64))[0, 1])

    def _inside(self, volumes: Iterable[NDArray[np.floating]]) -> NDArray[np.float32]:
        """Coarse voxels of the region [N, R]: of 10,000 scans these are kept, and not the rest of them."""
        rows = []
        for volume in volumes:
            pooled = _pool(np.asarray(volume, dtype=np.float32))
            if pooled.shape != self.region_.shape:
                raise InputError(
                    f"Volumes must have the size the estimator was fitted on, {self.region_.shape} after "
                    f"pooling, got {pooled.shape}."
                )
            rows.append(pooled[self.region_])
        return np.stack(rows)

    def _features(self, inside: NDArray[np.float32]) -> NDArray[np.float32]:
        bright = np.percentile(inside, BRIGHT_PERCENTILE, axis=1, keepdims=True)
        return np.asarray(inside[:, self.varying_] / bright)


def _pool(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """A volume averaged over blocks of voxels so that the shortest side has some 32 voxels."""
    block = max(1, round(min(volume.shape) / COARSE_SIDE))
    if block == 1 or volume.ndim != 3:
        return volume
    x, y, z = (side // block for side in volume.shape)
    kept = volume[: x * block, : y * block, : z * block]
    return np.asarray(kept.reshape(x, block, y, block, z, block).mean(axis=(1, 3, 5)))


def _darkening_region(volumes: Iterable[NDArray[np.floating]], ml: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The largest connected region of voxels that correlate negatively with the volume, one voxel wider."""
    total: NDArray[np.float64] | None = None
    for deviation, volume in zip(ml - ml.mean(), volumes, strict=True):
        pooled = _pool(np.asarray(volume, dtype=np.float32)).astype(np.float64)
        if total is None and pooled.ndim == 3:
            start, total = pooled, np.zeros((3, *pooled.shape))
        if total is None or pooled.shape != start.shape:
            found = f"{pooled.shape}" if total is None else f"{start.shape} and {pooled.shape}"
            raise InputError(f"Volumes must be [N, X, Y, Z] of one size, got {found} after pooling.")
        # from the first scan, since the squares of large numbers would lose what differs
        change = pooled - start
        total += np.stack([change, change**2, deviation * change])
    assert total is not None
    mean, square, covariance = total / len(ml)
    spread = np.sqrt(np.maximum(square - mean**2, 0))
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
