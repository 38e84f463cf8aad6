# SPDX-License-Identifier: Apache-2.0
"""Losses on Dirichlet distributions over class probabilities.

With concentration alpha, S = sum alpha, one-hot target y and mean p = alpha / S. Sensoy et al. 2018
(arXiv 1806.01768), Deng et al. 2023 (I-EDL, arXiv 2303.02045), Chen et al. 2024 (R-EDL).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

EvidenceName = Literal["exp", "softplus"]
LossName = Literal["nll", "ce", "mse", "iedl", "redl"]
KLName = Literal["full", "tilde", "none"]
EVIDENCES: tuple[EvidenceName, ...] = ("exp", "softplus")
LOSSES: tuple[LossName, ...] = ("nll", "ce", "mse", "iedl", "redl")
KLS: tuple[KLName, ...] = ("full", "tilde", "none")

LOGIT_LIMIT = 10.0
FISHER_WEIGHT = 0.01
RELAXED_PRIOR = 0.1


def prior_weight(loss: LossName) -> float:
    """What alpha holds without evidence, per class: 1, and 0.1 for R-EDL."""
    return RELAXED_PRIOR if loss == "redl" else 1.0


def to_evidence(logits: Tensor, *, name: EvidenceName) -> Tensor:
    """Logits to evidence >= 0 of the same shape: exp of logits within +-10, or softplus."""
    if name == "exp":
        return logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT).exp()
    return functional.softplus(logits)


def dirichlet_loss(alpha: Tensor, targets: Tensor, *, name: LossName) -> Tensor:
    """Data term of each distribution [...], from concentrations [..., C] and class indices [...].

    "nll" is the type-II likelihood log S - log alpha_y, "ce" and "mse" the Bayes risks of cross-entropy and
    squared error, "iedl" the latter weighted by Fisher information, "redl" the squared error of the mean
    alone.
    """
    total = alpha.sum(-1)
    if name in ("nll", "ce"):
        own = alpha.gather(-1, targets[..., None])[..., 0]
        return total.log() - own.log() if name == "nll" else torch.digamma(total) - torch.digamma(own)
    mean = alpha / total[..., None]
    gap = (functional.one_hot(targets, alpha.shape[-1]) - mean).square()
    if name == "redl":
        return gap.sum(-1)
    risk = gap + mean * (1 - mean) / (total[..., None] + 1)
    if name == "mse":
        return risk.sum(-1)
    return (risk * torch.polygamma(1, alpha)).sum(-1) - FISHER_WEIGHT * log_det_fisher(alpha)


def log_det_fisher(alpha: Tensor) -> Tensor:
    """Log-determinant [...] of the Fisher information diag(psi1(alpha)) - psi1(S) of Dir(alpha [..., C])."""
    own, joint = torch.polygamma(1, alpha), torch.polygamma(1, alpha.sum(-1, keepdim=True))
    return own.log().sum(-1) + torch.log1p(-(joint / own).sum(-1))


def kl_to_uniform(alpha: Tensor) -> Tensor:
    """KL(Dir(alpha) || Dir(1)) [...], from concentrations [..., C]."""
    total = alpha.sum(-1, keepdim=True)
    gathered = torch.lgamma(total[..., 0]) - torch.lgamma(alpha).sum(-1)
    moved = ((alpha - 1) * (torch.digamma(alpha) - torch.digamma(total))).sum(-1)
    return gathered - math.lgamma(alpha.shape[-1]) + moved


def kl_term(evidence: Tensor, targets: Tensor, *, name: KLName) -> Tensor:
    """The regulariser [...]: KL to the uniform of 1 + evidence ("full"), of the same without the true class's
    ("tilde"), or zero.

    Whatever the prior weight, 1 is added: the pull is to end where there is no evidence, and that of R-EDL's
    0.1 + evidence would end at 0.9.
    """
    if name == "full":
        return kl_to_uniform(1 + evidence)
    if name == "tilde":
        return kl_to_uniform(1 + evidence * (1 - functional.one_hot(targets, evidence.shape[-1])))
    return evidence.new_zeros(evidence.shape[:-1])


def annealed(weight: float, *, epoch: int, over: int) -> float:
    """The weight of the regulariser in an epoch, from 1: rising evenly to `weight` over `over` epochs."""
    return weight * min(1.0, epoch / over) if over else weight
