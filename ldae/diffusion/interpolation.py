# SPDX-License-Identifier: Apache-2.0
"""Paths between two codes: straight for semantic codes, on the sphere for stochastic ones."""

from __future__ import annotations

import torch
from torch import Tensor

NEARLY_PARALLEL = 1e-4
"""Sine of the angle below which the spherical weights lose their digits in float32."""


def lerp(a: Tensor, b: Tensor, *, fraction: float) -> Tensor:
    """(1 - fraction) a + fraction b."""
    return a + fraction * (b - a)


def slerp(a: Tensor, b: Tensor, *, fraction: float) -> Tensor:
    """Spherical interpolation, the angle taken for each scan on its own (arXiv 1609.04468).

    Near-parallel and antipodal pairs, whose great circle is not defined, fall back to the straight line; so
    does a vector of length zero. The result is never NaN.

    Args:
        a: [B, ...].
        b: Of the same shape.
        fraction: 0 gives `a`, 1 gives `b`.

    Returns:
        Of the shape of `a`.
    """
    weight_a, weight_b = slerp_weights(a, b, fraction=fraction)
    return mix(a, b, weights=(weight_a, weight_b))


def slerp_weights(a: Tensor, b: Tensor, *, fraction: float) -> tuple[Tensor, Tensor]:
    """What `slerp` multiplies each scan of `a` and of `b` by, float64 [B] each; arguments as there."""
    flat_a, flat_b = a.flatten(1).double(), b.flatten(1).double()
    length = (flat_a.norm(dim=1) * flat_b.norm(dim=1)).clamp_min(torch.finfo(torch.float64).tiny)
    angle = torch.arccos(((flat_a * flat_b).sum(1) / length).clamp(-1, 1))
    sine = torch.sin(angle)
    straight = (sine < NEARLY_PARALLEL) | (length < torch.finfo(torch.float32).tiny)
    safe = torch.where(straight, torch.ones_like(sine), sine)
    weight_a = torch.where(straight, 1 - fraction, torch.sin((1 - fraction) * angle) / safe)
    weight_b = torch.where(straight, fraction, torch.sin(fraction * angle) / safe)
    return weight_a, weight_b


def mix(a: Tensor, b: Tensor, *, weights: tuple[Tensor, Tensor]) -> Tensor:
    """Weighted sum of two batches [B, ...], one pair of weights [B] a scan, in the type of `a`."""
    first, second = (weight[:, None] for weight in weights)
    mixed = first * a.flatten(1).double() + second * b.flatten(1).double()
    out: Tensor = mixed.reshape(a.shape).to(a.dtype)
    return out


def nearly_opposite(a: Tensor, b: Tensor) -> Tensor:
    """Which pairs of a batch [B, ...] point away from each other, so that no great circle is the shortest."""
    flat_a, flat_b = a.flatten(1).double(), b.flatten(1).double()
    cosine = (flat_a * flat_b).sum(1)
    length = flat_a.norm(dim=1) * flat_b.norm(dim=1)
    opposite: Tensor = (length > 0) & (cosine < -length * (1 - NEARLY_PARALLEL**2 / 2))
    return opposite
