# SPDX-License-Identifier: Apache-2.0
"""Spatial latents whose classes differ in one corner."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SHAPE = (2, 4, 6, 4)


def latent_blobs(*, per_class: int = 40, shift: float = 1.5) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Latents [N, 2, 4, 6, 4] of unit noise, those of "AD" raised in a corner, and their classes."""
    labels = np.array(["AD", "CN"]).repeat(per_class)
    latents = np.random.default_rng(0).standard_normal((len(labels), *SHAPE))
    latents[labels == "AD", 0, :2, :3, :2] += shift
    return latents, labels
