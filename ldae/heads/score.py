# SPDX-License-Identifier: Apache-2.0
"""What a head says of a code as one number without bounds, and how that number follows the code."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logit

from ldae.heads.directions import Head, class_index, head_output

CERTAIN = 1e-9
SLOPE_STEP = 1e-3  # standard deviations of the codes, where those are whitened


def head_score(head: Head, codes: ArrayLike, *, target_class: Any = None) -> NDArray[np.float64]:
    """Log odds of the target class, or the predicted number, of each code [N]."""
    said = head_output(head, codes, target_class=target_class)
    if class_index(head, target_class) is None:
        return said
    return np.asarray(logit(np.clip(said, CERTAIN, 1 - CERTAIN)))


def score_slope(head: Head, code: ArrayLike, *, target_class: Any = None) -> NDArray[np.float64]:
    """Derivative of the score by a code [D], by central differences: any head has one, in float64."""
    place = np.asarray(code, dtype=np.float64)
    steps = SLOPE_STEP * np.eye(len(place))
    both = np.concatenate([place + steps, place - steps])
    after, before = np.split(head_score(head, both, target_class=target_class), 2)
    return np.asarray((after - before) / (2 * SLOPE_STEP))
