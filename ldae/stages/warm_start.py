# SPDX-License-Identifier: Apache-2.0
"""The warm start of stage 3: a linear regression of the latents from the code."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ldae.configured import check_numbers

MOST_SCANS = 4096
"""Scans that the principal components are measured on, at most."""


@dataclass(frozen=True)
class WarmStartConfig:
    """Regression of the latents from the code by one linear layer.

    Attributes:
        epochs: Epochs of regression alone before the diffusion loss; 0 as published.
        weight: Weight of the regression term beside the diffusion loss afterwards; 0 as published.
        components: Whether the linear layer starts at the principal components of the training latents; from
            zero otherwise.
        lr: Highest learning rate of the encoder during the warm start.
        regressor_lr: That of the linear layer, which may be larger.
    """

    epochs: int = 0
    weight: float = 0.0
    components: bool = True
    lr: float = 1e-3
    regressor_lr: float = 1e-3

    def __post_init__(self) -> None:
        """Stop on numbers below zero."""
        numbers = ("epochs", "weight", "lr", "regressor_lr")
        check_numbers(self, "warm_start", least=dict.fromkeys(numbers, 0))

    @property
    def active(self) -> bool:
        """Whether there is any regression."""
        return self.epochs > 0 or self.weight > 0


def spread_scans(latents: Tensor) -> Tensor:
    """All of the latents [N, ...], or of more than 4,096 scans evenly spaced ones."""
    return latents[:: math.ceil(len(latents) / MOST_SCANS)]


@torch.no_grad()
def start_at_components(layer: nn.Linear, latents: Tensor, *, generator: torch.Generator) -> None:
    """Let a linear layer begin as the best linear decoder of its size, so that only the encoder must learn.

    The code that it expects is a random rotation of the principal component scores, each number divided by
    its standard deviation. A rotation keeps distances: codes differ as much as the latents do. Were the
    numbers the scores themselves, all of variance one, the faintest component would weigh as much as the
    strongest, and a classifier with few scans would learn from its noise.

    Args:
        layer: From codes [D] of unit variance to flattened latents [L]; its bias becomes zero.
        latents: Normalised training latents, [N, ...] with L numbers a scan; of more than 4,096 scans,
            evenly spaced ones are used.
        generator: Of the rotation.
    """
    rows = spread_scans(latents).flatten(1).float()
    rows = rows - rows.mean(0)
    scores, basis = _components(rows, most=layer.in_features)
    square = torch.randn(layer.in_features, layer.in_features, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(square)[0][:, : len(scores)]
    deviation = (rotation * scores).square().sum(1).sqrt()
    layer.weight.copy_(basis @ rotation.T.float() * deviation.float())
    layer.bias.zero_()


def _components(rows: Tensor, *, most: int) -> tuple[Tensor, Tensor]:
    """Spread along the principal components of centred rows [N, L], float64 [K], and their axes [L, K]."""
    rank = min(most, len(rows) - 1, rows.shape[1])
    of_scans = len(rows) < rows.shape[1]  # the smaller of the two matrices has the same eigenvalues
    values, vectors = torch.linalg.eigh((rows @ rows.T if of_scans else rows.T @ rows).double() / len(rows))
    values, vectors = values.flip(0)[:rank].clamp(min=0), vectors.flip(1)[:, :rank].float()
    scores = values.sqrt()
    if of_scans:
        vectors = (rows.T @ vectors) / (scores.float() * math.sqrt(len(rows))).clamp(min=1e-12)
    return scores, vectors
