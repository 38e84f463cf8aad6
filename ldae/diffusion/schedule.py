# SPDX-License-Identifier: Apache-2.0
"""Noise schedules.

Notation of this room (DDPM, arXiv 2006.11239; DDIM, arXiv 2010.02502):

| symbol | code | meaning |
| --- | --- | --- |
| T | `steps` | number of noise levels, t = 0 .. T-1 |
| beta_t, a_t = 1 - beta_t | `beta`, `alpha` | one-step noise variance and signal |
| A_t = prod a | `alpha_bar` | signal variance at level t, A_{-1} = 1 |
| z_0, z_t, z_T | `z0`, `z` | clean, noised, fully noised latent |
| eps, x0, v | | noise, clean latent, v = sqrt(A) eps - sqrt(1-A) x0 (arXiv 2202.00512) |
| y | `code` | semantic code |
| G | `gradient` | output of the gradient estimator |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ldae.configured import check_numbers
from ldae.errors import InputError


@dataclass(frozen=True)
class ScheduleConfig:
    """Which noise schedule.

    Attributes:
        steps: Number of noise levels T.
        kind: "linear" in beta (DDPM) or "cosine" in alpha_bar (arXiv 2102.09672, equation 17).
        beta_start: First beta of the linear kind.
        beta_end: Last beta of the linear kind.
    """

    steps: int = 1000
    kind: Literal["linear", "cosine"] = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def __post_init__(self) -> None:
        """Stop on numbers that make no schedule."""
        betas = ("beta_start", "beta_end")
        check_numbers(
            self,
            "schedule",
            least={"steps": 2} | dict.fromkeys(betas, 0.0),
            below=dict.fromkeys(betas, 1.0),
        )


def _linear_betas(config: ScheduleConfig) -> Tensor:
    return torch.linspace(config.beta_start, config.beta_end, config.steps, dtype=torch.float64)


def _cosine_betas(config: ScheduleConfig) -> Tensor:
    time = torch.linspace(0, 1, config.steps + 1, dtype=torch.float64)
    signal = torch.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - signal[1:] / signal[:-1]).clamp(max=0.999)


def betas(config: ScheduleConfig) -> Tensor:
    """beta_t of a schedule, float64 [T]."""
    return _linear_betas(config) if config.kind == "linear" else _cosine_betas(config)


def signal_variances(config: ScheduleConfig) -> Tensor:
    """A_t of a schedule, float64 [T], for what float32 is too coarse for."""
    return torch.cumprod(1 - betas(config), 0)


class Schedule(nn.Module):
    """Tables of a noise schedule, built in float64 and kept in float32 whatever dtype the module is cast to.

    In bfloat16 the first ten values of alpha_bar are all 1, so the tables follow a move between devices but
    never a change of dtype.

    Attributes:
        alpha: a_t, float32 [T].
        alpha_bar: A_t, float32 [T].
        alpha_bar_previous: A_{t-1} with A_{-1} = 1, float32 [T].
    """

    alpha: Tensor
    alpha_bar: Tensor
    alpha_bar_previous: Tensor

    def __init__(self, config: ScheduleConfig | None = None) -> None:
        super().__init__()
        self.config = config or ScheduleConfig()
        beta, alpha_bar = betas(self.config), signal_variances(self.config)
        previous = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
        self.register_buffer("alpha", (1 - beta).float(), persistent=False)
        self.register_buffer("alpha_bar", alpha_bar.float(), persistent=False)
        self.register_buffer("alpha_bar_previous", previous.float(), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Schedule:
        device = fn(torch.empty(0, device=self.alpha.device)).device
        for name, table in self._buffers.items():
            self._buffers[name] = None if table is None else table.to(device)
        return self

    def __len__(self) -> int:
        return self.config.steps

    def signal(self, t: Tensor, ndim: int) -> Tensor:
        """A_t for a batch of levels, float32 [B, 1, ...] with `ndim` dimensions."""
        return self.alpha_bar[t].reshape(-1, *[1] * (ndim - 1))

    def signal_to_noise(self, t: Tensor) -> Tensor:
        """SNR_t = A_t / (1 - A_t), float32, of the shape of `t`."""
        return self.alpha_bar[t] / (1 - self.alpha_bar[t])

    def grid(self, steps: int) -> list[int]:
        """Levels t_i = round((T-1) i / steps), i = 0..steps, from clean to noise.

        Raises:
            InputError: `steps` is not in 1..T-1.
        """
        last = self._last(steps)
        return [round(last * i / steps) for i in range(steps + 1)]

    def angle_grid(self, steps: int) -> list[int]:
        """Levels whose angles arccos sqrt(A) lie as evenly as whole levels allow, from clean to noise.

        Raises:
            InputError: `steps` is not in 1..T-1.
        """
        return self._even(torch.arccos(self.alpha_bar.double().sqrt()), steps)

    def log_snr_grid(self, steps: int) -> list[int]:
        """Levels whose log-SNR lie as evenly as whole levels allow, from clean to noise.

        Raises:
            InputError: `steps` is not in 1..T-1.
        """
        signal = self.alpha_bar.double()
        return self._even(torch.log((1 - signal) / signal), steps)

    def _even(self, rising: Tensor, steps: int) -> list[int]:
        last = self._last(steps)
        rising = rising.cpu()
        wanted = torch.linspace(float(rising[0]), float(rising[-1]), steps + 1, dtype=torch.float64)
        above = torch.searchsorted(rising, wanted).clamp(1, last)
        below = above - 1
        nearest = torch.where(rising[above] - wanted < wanted - rising[below], above, below)
        # Rounding may name a level twice: leave room for those before it, then for those behind it.
        place = torch.arange(steps + 1)
        raised = torch.cummax(nearest - place, 0).values + place
        return [int(level) for level in torch.minimum(raised, last - steps + place)]

    def _last(self, steps: int) -> int:
        last = self.config.steps - 1
        if not 1 <= steps <= last:
            raise InputError(f"steps must be between 1 and {last}, got {steps}.")
        return last
