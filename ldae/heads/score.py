# SPDX-License-Identifier: Apache-2.0
"""What a head says of a code as one number without bounds, and how that number follows the code."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import logit

from ldae.errors import InputError
from ldae.heads.directions import Head, class_index, head_output

CERTAIN = 1e-9
NOISE_SEED = 0
SLOPE_STEP = 1e-3  # standard deviations of the codes, where those are whitened


def head_score(head: Head, codes: ArrayLike, *, target_class: Any = None) -> NDArray[np.float64]:
    """Log odds of the target class, or the predicted number, of each code [N]."""
    said = head_output(head, codes, target_class=target_class)
    if class_index(head, target_class) is None:
        return said
    return np.asarray(logit(np.clip(said, CERTAIN, 1 - CERTAIN)))


def check_smooth(head: Head) -> None:
    """Stop where a head's score has no slope to speak of.

    Raises:
        InputError: Its answer is constant but for jumps.
    """
    if getattr(head, "stepwise", False):
        raise InputError(
            f"Gradients need a head that changes smoothly with the code, got {type(head).__name__}, whose "
            "answer is constant but for jumps. Choose another head, such as linear."
        )


def score_slope(head: Head, code: ArrayLike, *, target_class: Any = None) -> NDArray[np.float64]:
    """Derivative of the score by a code [D]: by autograd where the head has it, else by central differences.

    A head that samples draws its noise from the code, and codes side by side have unlike noise: here all
    codes have the same.

    Raises:
        InputError: The head's answer is constant but for jumps.
    """
    check_smooth(head)
    place = np.asarray(code, dtype=np.float64)
    index = class_index(head, target_class)
    if index is not None and hasattr(head, "differentiable_proba"):
        given = torch.from_numpy(place[None].copy()).requires_grad_()
        with torch.enable_grad():
            said = head.differentiable_proba(given, generator=torch.Generator().manual_seed(NOISE_SEED))
            (slope,) = torch.autograd.grad(said[0, index].logit(CERTAIN), given)
        return np.asarray(slope[0].numpy())
    steps = SLOPE_STEP * np.eye(len(place))
    both = np.concatenate([place + steps, place - steps])
    after, before = np.split(head_score(head, both, target_class=target_class), 2)
    return np.asarray((after - before) / (2 * SLOPE_STEP))
