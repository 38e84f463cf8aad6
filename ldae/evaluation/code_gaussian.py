# SPDX-License-Identifier: Apache-2.0
"""The baseline of a code sampler: each class as one Gaussian of its training codes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf

from ldae.errors import InputError

FEWEST = 2


def draw_gaussian(
    codes: NDArray[np.float64],
    known: Sequence[str | None],
    *,
    wanted: Sequence[str | None],
    seed: int,
) -> NDArray[np.float64]:
    """Codes [M, D], one of each wanted class, from the Gaussian of that class's codes.

    Mean and covariance are those of the class alone, the covariance shrunken (Ledoit and Wolf, 2004). None
    draws from the Gaussian of all codes.

    Args:
        codes: Training codes [N, D].
        known: Class of each, None where it is not known.
        wanted: Class of each code to draw.
        seed: Seed of the draws.

    Raises:
        InputError: A wanted class has fewer than two training codes.
    """
    random = np.random.default_rng(seed)
    noise = random.standard_normal((len(wanted), codes.shape[1]))
    drawn = np.empty_like(noise)
    for name in set(wanted):
        members = codes if name is None else codes[[one == name for one in known]]
        if len(members) < FEWEST:
            raise InputError(f"Class {name} must have at least 2 training codes, got {len(members)}.")
        covariance, _ = ledoit_wolf(members)
        values, vectors = np.linalg.eigh(covariance)
        places = [place for place, one in enumerate(wanted) if one == name]
        drawn[places] = members.mean(0) + (noise[places] * np.sqrt(values.clip(min=0))) @ vectors.T
    return drawn
