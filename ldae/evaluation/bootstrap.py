# SPDX-License-Identifier: Apache-2.0
"""Bootstrap over subjects: a subject is drawn with all its scans, or not at all.

Scans of one person resemble each other, so an interval over scans is too narrow. A resample is a row of
weights, how often each scan was drawn, and every metric is computed for many rows at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ldae.errors import InputError

Weights = NDArray[np.float64]  # [R, N]
Statistic = Callable[[Weights], dict[str, NDArray[np.float64]]]  # each value [R]
MAX_ROUNDS = 200
WEIGHTS_AT_ONCE = 2**19


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made.

    Attributes:
        resamples: Number of resamples.
        level: Coverage of the percentile interval.
        seed: Seed of the draws.
    """

    resamples: int = 1000
    level: float = 0.95
    seed: int = 0


DEFAULT_BOOTSTRAP = Bootstrap()


def subject_weights(
    subjects: ArrayLike,
    *,
    resamples: int,
    seed: int,
    valid: Callable[[Weights], NDArray[np.bool_]] | None = None,
) -> Weights:
    """How often each scan is in each resample: [resamples, N].

    Args:
        subjects: Subject of each scan [N].
        resamples: Number of resamples.
        seed: Seed of the draws.
        valid: Which resamples [R] a statistic is defined on; the others are drawn again.

    Raises:
        InputError: Fewer than two subjects, or hardly any resample is valid.
    """
    return np.concatenate(list(_blocks(subjects, resamples=resamples, seed=seed, valid=valid)))


def _blocks(
    subjects: ArrayLike,
    *,
    resamples: int,
    seed: int,
    valid: Callable[[Weights], NDArray[np.bool_]] | None = None,
) -> Iterator[Weights]:
    """What `subject_weights` tells, some resamples at a time: 1,000 of 10,000 scans are 80 MB."""
    names, subject = np.unique(np.asarray(subjects), return_inverse=True)
    if len(names) < 2:
        raise InputError(f"A bootstrap over subjects needs at least 2 subjects, got {len(names)}.")
    generator = np.random.default_rng(seed)
    even = np.full(len(names), 1 / len(names))
    size = min(resamples, max(1, WEIGHTS_AT_ONCE // len(subject)))
    found = 0
    for start in range(0, MAX_ROUNDS * resamples, size):
        rows = min(size, MAX_ROUNDS * resamples - start)
        drawn = generator.multinomial(len(names), even, size=rows)[:, subject].astype(np.float64)
        kept = drawn if valid is None else drawn[valid(drawn)]
        if len(kept):
            yield kept[: resamples - found]
        found += len(kept)
        if found >= resamples:
            return
    raise InputError(
        f"A bootstrap must find {resamples} resamples with every class in them, got {found} "
        f"in {MAX_ROUNDS * resamples} draws. Add subjects of the rarest class."
    )


def with_intervals(
    statistic: Statistic,
    subjects: ArrayLike,
    *,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
    valid: Callable[[Weights], NDArray[np.bool_]] | None = None,
) -> dict[str, float | list[float]]:
    """Each number of a statistic and, under its name with `_ci` behind, its percentile interval [lo, hi].

    A number that some resamples do not have, such as what errors have in common where there is none, has the
    interval of the others.

    Args:
        statistic: Takes weights [R, N], gives each number for every row.
        subjects: Subject of each scan [N].
        bootstrap: How intervals are made.
        valid: Which resamples [R] the statistic is defined on.

    Raises:
        InputError: Fewer than two subjects.
    """
    point = statistic(np.ones((1, np.asarray(subjects).shape[0])))
    blocks = _blocks(subjects, resamples=bootstrap.resamples, seed=bootstrap.seed, valid=valid)
    parts = [statistic(weights) for weights in blocks]
    result: dict[str, float | list[float]] = {}
    for name, value in point.items():
        result[name] = float(value[0])
        result[f"{name}_ci"] = _percentiles(np.concatenate([part[name] for part in parts]), bootstrap.level)
    return result


def mean_with_interval(
    values: ArrayLike, subjects: ArrayLike, *, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
) -> tuple[float, list[float]]:
    """Mean of one value per scan, and its interval [lo, hi] over subjects.

    Raises:
        InputError: Values are not finite, not one per scan, or from fewer than two subjects.
    """
    column = np.asarray(values, dtype=np.float64)
    if column.shape != np.asarray(subjects).shape or not np.isfinite(column).all():
        raise InputError(f"Values must be finite, one per scan, got shape {column.shape}.")
    blocks = _blocks(subjects, resamples=bootstrap.resamples, seed=bootstrap.seed)
    spread = np.concatenate([weights @ column / weights.sum(axis=1) for weights in blocks])
    return float(column.mean()), _percentiles(spread, bootstrap.level)


def _percentiles(values: NDArray[np.float64], level: float) -> list[float]:
    known = values[~np.isnan(values)]
    if not len(known):
        return [float("nan"), float("nan")]
    return [float(bound) for bound in np.quantile(known, [(1 - level) / 2, (1 + level) / 2])]
