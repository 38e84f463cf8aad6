# SPDX-License-Identifier: Apache-2.0
"""Coordinates in which the probability flow of a Gaussian stands still.

If the clean latents were N(m, s^2), place by place, the flow from z_0 to z_T would be known in closed form:
u = (z_t - sqrt(A) m) / sqrt(A s^2 + 1 - A) would never change. What the network knows beyond that moves u.
With the angle phi = arccos sqrt(A), dz/dphi = v (arXiv 2202.00512, appendix D), hence

    du/dphi = (v - v_gauss) / sqrt(A s^2 + 1 - A),    v - v_gauss = (eps - eps_gauss) / sqrt(A).

A place that hardly varies, s << 1, is stiff for DDIM: there z_t grows by 1/s on the way up, most of it within
the first step. In u that growth is exact, and only what the network adds is discretised. DPM-Solver-v3
(arXiv 2310.13268) chooses its linear part from the model's statistics in the same spirit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ldae.diffusion.schedule import Schedule


@dataclass(frozen=True)
class Gaussian:
    """What is known of clean latents by place; the default fits latents of unit variance.

    Attributes:
        mean: m, broadcastable to [B, C, ...].
        variance: s^2, broadcastable to [B, C, ...].
    """

    mean: Tensor | float = 0.0
    variance: Tensor | float = 1.0


class GaussianFlow:
    """States z_t of a walk in the coordinate u, and the speed at which the network moves u.

    Args:
        gaussian: Distribution whose flow stands still.
        schedule: Noise schedule.
    """

    def __init__(self, gaussian: Gaussian, schedule: Schedule) -> None:
        self.gaussian = gaussian
        self.schedule = schedule
        self.angle: list[float] = torch.arccos(schedule.alpha_bar.double().sqrt()).tolist()

    def scale(self, t: int) -> Tensor:
        """Spread sqrt(A s^2 + 1 - A) of z_t."""
        signal = self.schedule.alpha_bar[t]
        return (signal * self.gaussian.variance + 1 - signal).sqrt()

    def whiten(self, z: Tensor, t: int) -> Tensor:
        """u of z_t."""
        return (z - self.schedule.alpha_bar[t].sqrt() * self.gaussian.mean) / self.scale(t)

    def colour(self, u: Tensor, t: int) -> Tensor:
        """z_t of u."""
        return self.schedule.alpha_bar[t].sqrt() * self.gaussian.mean + self.scale(t) * u

    def speed(self, u: Tensor, eps: Tensor, t: int) -> Tensor:
        """du/dphi from the network's noise estimate at level `t`."""
        signal = self.schedule.alpha_bar[t]
        scale = self.scale(t)
        # the Gaussian's own estimate is sqrt(1-A) (z - sqrt(A) m) / scale^2 = sqrt(1-A) u / scale
        return (eps - (1 - signal).sqrt() * u / scale) / (signal.sqrt() * scale)

    def arc(self, here: int, there: int) -> float:
        """Signed angle between two levels, radians."""
        return self.angle[there] - self.angle[here]
