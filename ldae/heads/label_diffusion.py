# SPDX-License-Identifier: Apache-2.0
"""Diffusion of class labels (CARD, arXiv 2206.07275; LaDiNE, arXiv 2310.15952).

A one-hot label y_0 in R^C drifts towards a prior mean m, y_t = s_t y_0 + (1 - s_t) m + sqrt(1 - A_t) eps with
s_t = sqrt(A_t). With r = y - m this is the plain process r_t = s_t r_0 + sqrt(1 - A_t) eps, so any sampler of
residuals will do, and m is added at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from ldae.diffusion.schedule import ScheduleConfig, signal_variances
from ldae.errors import InputError

LEVELS = 1000
FEWEST_STEPS = 10

LabelModel = Callable[[Tensor, int], Tensor]
"""y_t [..., C] at a level t to E[y_0 | y_t] of the same shape."""


@cache
def alpha_bar_table() -> Tensor:
    """Signal variance A_t of each level, float64 [T]."""
    return signal_variances(ScheduleConfig())


def noised(residual: Tensor, noise: Tensor, *, alpha_bar: Tensor) -> Tensor:
    """r_t from r_0 = y_0 - m and standard normal noise, at signal variances that broadcast."""
    return alpha_bar.sqrt() * residual + (1 - alpha_bar).sqrt() * noise


def level_grid(steps: int) -> list[int]:
    """The levels at which the model is called, from T-1 down, evenly spaced and ending above 0 (1 step: T-1).

    Raises:
        InputError: `steps` is neither 1 nor in 10..T. A few steps fall onto the most probable class: with
        two,
            every sample does.
    """
    if steps != 1 and not FEWEST_STEPS <= steps <= LEVELS:
        raise InputError(f"steps must be 1, or between {FEWEST_STEPS} and {LEVELS}, got {steps}.")
    return [round(LEVELS * (steps - i) / steps) - 1 for i in range(steps)]


class Sampled(NamedTuple):
    """Labels at the end, and what the model expected of them on the way, each [..., C].

    Attributes:
        labels: y_0 as sampled.
        first: E[y_0 | y_T], from the first call.
        middle: E[y_0 | y_t] at the level whose signal and noise are most even.
    """

    labels: Tensor
    first: Tensor
    middle: Tensor


def sample_labels(
    model: LabelModel,
    mean: Tensor,
    *,
    noise: Tensor,
    steps: int = 20,
    eta: float = 0.0,
    fresh: Tensor | None = None,
) -> Sampled:
    """Labels from noise by DDIM on the residual (arXiv 2010.02502, equation 12), ending at A = 1.

    Args:
        model: Expectation of the label.
        mean: Prior mean m [..., C].
        noise: r_T, standard normal [..., C].
        steps: Calls of the model.
        eta: Share of the ancestral sampler's noise: 0 deterministic, 1 with 1000 steps is DDPM.
        fresh: Standard normal [steps - 1, ..., C], needed where eta > 0.
    """
    table, levels = alpha_bar_table(), level_grid(steps)
    signals = [float(table[t]) for t in levels] + [1.0]
    even = min(range(steps), key=lambda i: abs(signals[i] - 0.5))
    residual, first, middle = noise, mean, mean
    for i, (t, now, after) in enumerate(zip(levels, signals[:-1], signals[1:], strict=True)):
        expected = model(residual + mean, t)
        first, middle = (expected if i == 0 else first), (expected if i == even else middle)
        residual, sigma = ddim_step(residual, expected - mean, now=now, after=after, eta=eta)
        if sigma > 0 and fresh is not None:
            residual = residual + sigma * fresh[i]
    return Sampled(residual + mean, first, middle)


def ddim_step(
    residual: Tensor, clean: Tensor, *, now: float, after: float, eta: float
) -> tuple[Tensor, float]:
    """Mean and standard deviation of r at signal variance `after`, from r at `now` and the expected r_0."""
    sigma = eta * ((1 - after) / (1 - now) * (1 - now / after)) ** 0.5
    towards = max(1 - after - sigma**2, 0.0) ** 0.5 / (1 - now) ** 0.5
    return after**0.5 * clean + towards * (residual - now**0.5 * clean), sigma


def one_hot_posterior(label: Tensor, mean: Tensor, *, alpha_bar: float | Tensor) -> Tensor:
    """What y_t says of a one-hot label: log-likelihood of each class, up to a constant, of the shape of y_t.

    From |y_t - (1 - s) m - s e_c|^2 / (2 (1 - A)); beside log p(c | x) it is the exact posterior.
    """
    alpha_bar = torch.as_tensor(alpha_bar, dtype=label.dtype)
    signal = alpha_bar.sqrt()
    return signal / (1 - alpha_bar) * (label - (1 - signal) * mean)
