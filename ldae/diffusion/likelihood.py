# SPDX-License-Identifier: Apache-2.0
"""The likelihood of a code under each class, from how well a class-conditional denoiser undoes noise.

With x0_hat the posterior mean under class y, d KL(p(z_t | z_0) || p(z_t | y)) / dSNR = E|z_0 - x0_hat|^2 / 2
for every single z_0 (Kong et al., arXiv 2302.03792). Summed over all levels,

    log p(z_0 | y) = const - 1/2 int E|v - v_hat|^2 / (1 - A) dA,

where the constant is the same for all classes. The diffusion classifier (arXiv 2303.16203) and the robust
diffusion classifier (arXiv 2305.15241) compare such sums by other weights.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ldae.diffusion.prediction import add_noise, v_from
from ldae.diffusion.schedule import Schedule

ClassModel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""v from noised codes [B, ...], levels [B] and labels [B], 1 for the first class."""


def signal_levels(schedule: Schedule, count: int) -> Tensor:
    """The levels whose signal variances A are nearest to (i + 1/2) / count, from noise to clean [count]."""
    wanted = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return (schedule.alpha_bar.double().cpu()[None] - wanted[:, None]).abs().argmin(1)


@torch.no_grad()
def class_log_likelihoods(
    model: ClassModel, z0: Tensor, *, classes: int, schedule: Schedule, noise: Tensor
) -> Tensor:
    """log p(z_0 | y) of each class up to a common constant, float64 [classes].

    All classes see the same noise, each draw once with either sign. For Gaussian classes of one covariance
    and their exact denoiser, the differences are then exact whatever the noise and the number of levels.

    Args:
        model: Class-conditional denoiser in the v form.
        z0: One clean code or latent [...].
        classes: Number of classes.
        schedule: Noise schedule.
        noise: Standard normal [levels, draws, ...].
    """
    count, draws = noise.shape[:2]
    t = signal_levels(schedule, count)
    eps = torch.cat([noise, -noise], 1).flatten(0, 1)  # [levels * 2 draws, ...]
    levels = t.repeat_interleave(2 * draws)
    signal = schedule.signal(levels, eps.ndim)
    z, wanted = add_noise(z0, eps, signal), v_from(z0, eps, signal)
    labels = torch.arange(1, classes + 1).repeat_interleave(len(z))
    shape = classes, *[1] * z0.ndim
    answers = model(z.repeat(shape), levels.repeat(classes), labels)
    errors = (answers.double() - wanted.double().repeat(shape)).square().flatten(1).sum(1)
    weight = 1 / (count * (1 - schedule.alpha_bar[t].double()))
    return -(errors.reshape(classes, count, -1).mean(2) * weight).sum(1) / 2
