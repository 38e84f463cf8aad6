# SPDX-License-Identifier: Apache-2.0
"""What the network predicts, how a semantic code shifts it, and the loss of each form.

With the exact network both forms say the same; they differ in where the training signal lies. In the eps form
the error that a code can close sits at high noise, where it is divided by the signal-to-noise ratio.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from ldae.diffusion.schedule import Schedule

PredictionName = Literal["v", "eps"]


def add_noise(z0: Tensor, noise: Tensor, signal: Tensor) -> Tensor:
    """z_t = sqrt(A) z_0 + sqrt(1-A) eps."""
    return signal.sqrt() * z0 + (1 - signal).sqrt() * noise


def x0_from_eps(z: Tensor, eps: Tensor, signal: Tensor) -> Tensor:
    """x0 = (z_t - sqrt(1-A) eps) / sqrt(A)."""
    return (z - (1 - signal).sqrt() * eps) / signal.sqrt()


def eps_from_x0(z: Tensor, x0: Tensor, signal: Tensor) -> Tensor:
    """Noise eps = (z_t - sqrt(A) x0) / sqrt(1-A)."""
    return (z - signal.sqrt() * x0) / (1 - signal).sqrt()


def v_from(x0: Tensor, eps: Tensor, signal: Tensor) -> Tensor:
    """v = sqrt(A) eps - sqrt(1-A) x0 (arXiv 2202.00512, appendix D)."""
    return signal.sqrt() * eps - (1 - signal).sqrt() * x0


def x0_from_v(z: Tensor, v: Tensor, signal: Tensor) -> Tensor:
    """x0 = sqrt(A) z_t - sqrt(1-A) v."""
    return signal.sqrt() * z - (1 - signal).sqrt() * v


def eps_from_v(z: Tensor, v: Tensor, signal: Tensor) -> Tensor:
    """Noise eps = sqrt(1-A) z_t + sqrt(A) v."""
    return (1 - signal).sqrt() * z + signal.sqrt() * v


def gaussian_v(z: Tensor, *, mean: Tensor | float, variance: Tensor, signal: Tensor) -> Tensor:
    """E[v | z_t] where the clean latent is N(mean, variance), place by place.

    With residual r = z_t - sqrt(A) mean and gain g = 1 / (A variance + 1 - A), the posterior means are
    x0 = mean + sqrt(A) variance g r and eps = sqrt(1-A) g r.

    Args:
        z: Noised latents [B, C, h, w, d].
        mean: Mean of the clean latents, broadcastable to `z`.
        variance: Their variance, broadcastable to `z`.
        signal: A_t, broadcastable to `z`.
    """
    residual = (z - signal.sqrt() * mean) / (signal * variance + 1 - signal)
    x0 = mean + signal.sqrt() * variance * residual
    return v_from(x0, (1 - signal).sqrt() * residual, signal)


class Prediction(Protocol):
    """One choice of network output; all tensors [B, C, ...], levels `t` [B]."""

    name: PredictionName

    def target(self, z0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should say."""

    def eps(self, output: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """Noise estimate from the network's output."""

    def guide(self, output: Tensor, gradient: Tensor, t: Tensor) -> Tensor:
        """The output shifted by the gradient estimator, as trained."""

    def weight(self, t: Tensor) -> Tensor:
        """Loss weight of stage 3 by level, [B]."""


class VPrediction:
    """v form: v_hat = v_theta + G, no weight; the default."""

    name: PredictionName = "v"

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def target(self, z0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """v of the clean latent and the noise."""
        return v_from(z0, noise, self.schedule.signal(t, z0.ndim))

    def eps(self, output: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """Noise estimate from v."""
        return eps_from_v(z, output, self.schedule.signal(t, z.ndim))

    def guide(self, output: Tensor, gradient: Tensor, t: Tensor) -> Tensor:
        """v_theta + G, so eps moves by sqrt(A) G and x0 by -sqrt(1-A) G."""
        return output + gradient

    def weight(self, t: Tensor) -> Tensor:
        """One for every level."""
        return torch.ones_like(t, dtype=torch.float32)


class EpsPrediction:
    """eps form as published (PDAE, arXiv 2212.12990, equations 9 to 12)."""

    name: PredictionName = "eps"

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def target(self, z0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The noise itself."""
        return noise

    def eps(self, output: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """The output itself."""
        return output

    def shift(self, t: Tensor) -> Tensor:
        """c_t = -sqrt(a_t) (1 - A_{t-1}) / sqrt(1 - A_t), of the shape of `t`.

        The published sampler uses -sqrt(1 - A_t) instead, which training never saw: the two agree but for the
        smallest levels (ratio 0 at t = 0, 0.45 at 1, 0.92 at 20). Here training and sampling share c_t.
        """
        table = self.schedule
        return -table.alpha[t].sqrt() * (1 - table.alpha_bar_previous[t]) / (1 - table.alpha_bar[t]).sqrt()

    def guide(self, output: Tensor, gradient: Tensor, t: Tensor) -> Tensor:
        """eps_theta + c_t G."""
        return output + self.shift(t).reshape(-1, *[1] * (output.ndim - 1)) * gradient

    def weight(self, t: Tensor) -> Tensor:
        """w_t = SNR^0.1 / (1 + SNR) = A^0.1 (1 - A)^0.9."""
        signal = self.schedule.alpha_bar[t]
        return signal**0.1 * (1 - signal) ** 0.9


def make_prediction(name: PredictionName, schedule: Schedule) -> Prediction:
    """The form of that name over a schedule."""
    return VPrediction(schedule) if name == "v" else EpsPrediction(schedule)
