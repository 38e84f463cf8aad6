# SPDX-License-Identifier: Apache-2.0
"""How like real scans drawn ones are, as two sets of features.

| figure | what it says | source |
| --- | --- | --- |
| KID | squared maximum mean discrepancy, unbiased: 0 on average for draws of one distribution | 1801.01401 |
| FID | Frechet distance of two Gaussians; biased upwards, the more, the fewer scans | 1706.08500 |
| precision | share of drawn ones within the k-NN balls of real ones: is each one plausible? | 1904.06991 |
| recall | share of real ones within the k-NN balls of drawn ones: is every kind drawn? | 1904.06991 |
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from ldae.errors import InputError
from ldae.evaluation.bootstrap import DEFAULT_BOOTSTRAP, Bootstrap, Weights, subject_weights

Features = NDArray[np.float64]  # [N, D]
NEIGHBOURS = 3


def kernel_distance(
    real: Features, drawn: Features, *, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
) -> tuple[float, list[float]]:
    """KID (Binkowski et al. 2018): unbiased squared MMD under the kernel (x.y / D + 1)^3, and its interval.

    The interval draws scans of both sets again; pairs of a scan with its own copy do not count. It may be
    below 0.

    Args:
        real: Features of real scans, one of a subject [N, D].
        drawn: Features of drawn scans [M, D].
        bootstrap: How the interval is made.

    Raises:
        InputError: Fewer than two of either.
    """
    _check(real, drawn, least=2)
    once = np.ones((1, len(real))), np.ones((1, len(drawn)))
    again = [
        subject_weights(
            np.arange(len(part)),
            resamples=bootstrap.resamples,
            seed=bootstrap.seed + place,
            valid=lambda drawn: (drawn > 0).sum(axis=1) > 1,  # else there is no pair
        )
        for place, part in enumerate((real, drawn))
    ]
    kernels = _kernel(real, real), _kernel(drawn, drawn), _kernel(real, drawn)
    point, spread = (_discrepancy(kernels, weights=pair) for pair in (once, (again[0], again[1])))
    tails = [(1 - bootstrap.level) / 2, (1 + bootstrap.level) / 2]
    return float(point[0]), [float(bound) for bound in np.quantile(spread, tails)]


def _kernel(first: Features, second: Features) -> Features:
    return np.asarray((first @ second.T / first.shape[1] + 1) ** 3)


def _discrepancy(
    kernels: tuple[Features, Features, Features], *, weights: tuple[Weights, Weights]
) -> NDArray[np.float64]:
    """Squared MMD for every row of weights [R, N] and [R, M]."""
    within = [
        (((w @ kernel) * w).sum(1) - (w * w) @ np.diag(kernel)) / (w.sum(1) ** 2 - (w * w).sum(1))
        for kernel, w in zip(kernels[:2], weights, strict=True)
    ]
    between = ((weights[0] @ kernels[2]) * weights[1]).sum(1) / (weights[0].sum(1) * weights[1].sum(1))
    return np.asarray(within[0] + within[1] - 2 * between)


def frechet_distance(real: Features, drawn: Features) -> float:
    """FID (Heusel et al. 2017): |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of the two Gaussians.

    Raises:
        InputError: Fewer than two of either.
    """
    _check(real, drawn, least=2)
    first, second = (np.atleast_2d(np.cov(part, rowvar=False)) for part in (real, drawn))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    # tr (S1 S2)^(1/2) is that of (S1^(1/2) S2 S1^(1/2))^(1/2), which is symmetric
    crossed = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(min=0)).sum()
    shift = np.square(real.mean(0) - drawn.mean(0)).sum()
    return float(shift + np.trace(first) + np.trace(second) - 2 * crossed)


def precision_recall(
    real: Features, drawn: Features, *, neighbours: int = NEIGHBOURS
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each drawn scan [M] lies among real ones, and each real one [N] among drawn ones.

    A scan lies among others if it is nearer to one of them than that one's k-th neighbour of its own kind
    (Kynkaanniemi et al. 2019, equations 1 and 2).

    Raises:
        InputError: No more than `neighbours` of either.
    """
    _check(real, drawn, least=neighbours + 1)
    distances = cdist(real, drawn)
    radii = [np.sort(cdist(part, part), axis=1)[:, neighbours] for part in (real, drawn)]
    return (distances <= radii[0][:, None]).any(0), (distances <= radii[1][None]).any(1)


def nearest(features: Features, among: Features) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Distance of each row to the nearest row of `among`, and that one's place."""
    distances = cdist(features, among)
    places = distances.argmin(1)
    return distances[np.arange(len(features)), places], places


def _check(real: Features, drawn: Features, *, least: int) -> None:
    if min(len(real), len(drawn)) < least:
        raise InputError(
            f"Two sets of scans must hold at least {least} each, got {len(real)} and {len(drawn)}. "
            "Take more scans, or a larger split."
        )
