# SPDX-License-Identifier: Apache-2.0
"""Codes of a few Gaussian classes, for every head to learn."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Labelled = tuple[NDArray[np.float64], NDArray[Any]]


def blobs(classes: int = 2, *, width: int = 6, distance: float = 2.0, per_class: int = 40) -> Labelled:
    """Codes of unit spread around one random mean a class, and their classes 0, 1 and on."""
    generator = np.random.default_rng(0)
    means = distance * generator.standard_normal((classes, width))
    codes = means.repeat(per_class, 0) + generator.standard_normal((classes * per_class, width))
    return codes, np.repeat(np.arange(classes), per_class)
