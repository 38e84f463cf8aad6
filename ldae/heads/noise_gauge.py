# SPDX-License-Identifier: Apache-2.0
"""How much noise a code carries, told from what codes without noise look like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.extmath import randomized_svd

from ldae.diffusion.schedule import ScheduleConfig, signal_variances
from ldae.heads.checks import Folds

MOST_DIRECTIONS = 64
SMALLEST_VARIANCE = 1e-6

Array = NDArray[np.float64]


@dataclass(frozen=True)
class NoiseGauge:
    """The most likely level of noise in x = z + sigma eps, for Gaussian z.

    Codes are Gaussian with a variance of their own along some directions and one along all others
    (probabilistic PCA: Tipping and Bishop, 1999, section 3), so that noise shows first where codes vary
    least. Variances are those of held-out codes: along directions that were fitted to a code it varies more,
    and across them less, than along those of others.

    Attributes:
        directions: Orthonormal rows [K, F].
        variances: Of standardised codes along them [K], and along any other direction, [K + 1].
    """

    directions: Array
    variances: Array

    @classmethod
    def fit(cls, codes: Array, *, folds: Folds) -> Self:
        """The gauge of standardised codes [N, F] without noise.

        Args:
            codes: Of mean 0.
            folds: Training and held-out rows of each fold.
        """
        count = min(MOST_DIRECTIONS, codes.shape[1], min(len(seen) for seen, _ in folds) // 2)
        energies = np.zeros(count + 1)
        for seen, held_out in folds:
            part = _directions(codes[seen], count=count)
            energies += np.stack([_energies(code, part) for code in codes[held_out]]).sum(axis=0)
        axes = np.append(np.ones(count), max(codes.shape[1] - count, 1))
        variances = np.maximum(energies / len(codes) / axes, SMALLEST_VARIANCE)
        return cls(_directions(codes, count=count), variances)

    def levels(self, codes: Array) -> NDArray[np.intp]:
        """The most likely level of each code [N]; 0 for none, t + 1 for level t of the default schedule.

        Args:
            codes: Standardised, with noise of variance (1 - A_t) / A_t upon them.
        """
        signal = np.append(1.0, signal_variances(ScheduleConfig()).numpy())
        axes = np.append(np.ones(len(self.directions)), codes.shape[1] - len(self.directions))
        expected = self.variances + ((1 - signal) / signal)[:, None]

        def level(code: Array) -> int:
            energies = _energies(code, self.directions)
            return int((energies / expected + axes * np.log(expected)).sum(axis=1).argmin())

        return np.array([level(code) for code in codes], dtype=np.intp)


def _directions(codes: Array, *, count: int) -> Array:
    """The `count` directions along which codes vary most."""
    return np.asarray(randomized_svd(codes, count, random_state=0)[2])


def _energies(code: Array, directions: Array) -> Array:
    """Squares along the directions, and the sum of squares across them [K + 1]."""
    along = np.square(directions @ code)
    return np.append(along, max(float(np.square(code).sum() - along.sum()), 0.0))
