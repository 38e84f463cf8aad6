# SPDX-License-Identifier: Apache-2.0
"""What a probability, or a Dirichlet distribution over probabilities, says of its own doubt.

Entropies are in nats. With concentration alpha, S = sum alpha and prior weight w, evidence is e = alpha - w,
belief b = e / S.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma, entr, gammaln


def softmax_uncertainty(probabilities: ArrayLike) -> pd.DataFrame:
    """Doubt of class probabilities [N, C]: entropy and least_confidence, 1 - the largest probability."""
    chances = np.asarray(probabilities, dtype=np.float64)
    return pd.DataFrame({"entropy": entr(chances).sum(axis=1), "least_confidence": 1 - chances.max(axis=1)})


def dirichlet_uncertainty(alpha: ArrayLike, *, prior_weight: float = 1.0) -> pd.DataFrame:
    """Doubt of Dirichlet distributions over class probabilities.

    Args:
        alpha: Concentrations [N, C], above 0.
        prior_weight: What alpha holds without any evidence, per class.

    Returns:
        A row a distribution: vacuity C w / S; dissonance, evidence in conflict with itself (Josang et al.
        2018); entropy of the mean; aleatoric, the mean entropy; epistemic, the mutual information between
        them; differential_entropy; least_confidence.
    """
    alpha = np.asarray(alpha, dtype=np.float64)
    strength = alpha.sum(axis=1)
    mean = alpha / strength[:, None]
    entropy = entr(mean).sum(axis=1)
    aleatoric = -(mean * (digamma(alpha + 1) - digamma(strength + 1)[:, None])).sum(axis=1)
    return pd.DataFrame(
        {
            "vacuity": alpha.shape[1] * prior_weight / strength,
            "dissonance": dissonance((alpha - prior_weight) / strength[:, None]),
            "entropy": entropy,
            "aleatoric": aleatoric,
            "epistemic": entropy - aleatoric,
            "differential_entropy": differential_entropy(alpha),
            "least_confidence": 1 - mean.max(axis=1),
        }
    )


def dissonance(belief: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum over classes of belief times how evenly the others balance it [N], for beliefs [N, C] >= 0."""
    belief = np.maximum(belief, 0)
    pair = belief[:, :, None] + belief[:, None, :]
    gap = np.abs(belief[:, :, None] - belief[:, None, :])
    balance = np.where(pair > 0, 1 - gap / np.where(pair > 0, pair, 1), 0)
    others = ~np.eye(belief.shape[1], dtype=bool)
    weight = (belief[:, None, :] * others).sum(axis=2)
    met = (belief[:, None, :] * balance * others).sum(axis=2)
    return np.asarray((belief * np.where(weight > 0, met / np.where(weight > 0, weight, 1), 0)).sum(axis=1))


def differential_entropy(alpha: NDArray[np.float64]) -> NDArray[np.float64]:
    """Differential entropy [N] of Dirichlet distributions with concentrations [N, C]."""
    strength = alpha.sum(axis=1)
    log_beta = gammaln(alpha).sum(axis=1) - gammaln(strength)
    spread = (strength - alpha.shape[1]) * digamma(strength)
    return np.asarray(log_beta + spread - ((alpha - 1) * digamma(alpha)).sum(axis=1))
