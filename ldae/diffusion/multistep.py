# SPDX-License-Identifier: Apache-2.0
"""Second-order multistep walks: one network call a step, the last one's answer used again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ldae.diffusion.gaussian_flow import GaussianFlow
from ldae.diffusion.prediction import x0_from_eps
from ldae.diffusion.schedule import Schedule

EpsModel = Callable[[Tensor, Tensor], Tensor]
"""Noise estimate [B, C, ...] from a noised latent [B, C, ...] and its levels [B]."""


def ask(model: EpsModel, z: Tensor, level: int) -> Tensor:
    """The noise estimate with every state at one level."""
    return model(z, torch.full((len(z),), level, device=z.device))


def walk_gaussian(model: EpsModel, z: Tensor, *, levels: Sequence[int], flow: GaussianFlow) -> Tensor:
    """Walk through levels, up or down, by Adams-Bashforth 2 in the coordinate of a Gaussian flow.

    Args:
        model: Noise estimate.
        z: State at the first level [B, C, ...].
        levels: Levels in the order of the walk.
        flow: Coordinate.

    Returns:
        The state at the last level.
    """
    u = flow.whiten(z, levels[0])
    last: Tensor | None = None
    before = 1.0
    for here, there in pairwise(levels):
        speed = flow.speed(u, ask(model, flow.colour(u, here), here), here)
        arc = flow.arc(here, there)
        ahead = speed if last is None else speed + arc / (2 * before) * (speed - last)
        u = u + arc * ahead
        last, before = speed, arc
    return flow.colour(u, levels[-1])


def walk_dpm(model: EpsModel, z: Tensor, *, levels: Sequence[int], schedule: Schedule) -> Tensor:
    """Walk down through levels by DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2; first step of order 1).

    Args:
        model: Noise estimate.
        z: State at the first level [B, C, ...].
        levels: Levels in the order of the walk, falling.
        schedule: Noise schedule.

    Returns:
        The state at the last level.
    """
    last: Tensor | None = None
    before = 1.0
    for here, there in pairwise(levels):
        now, then = (float(schedule.alpha_bar[t].double()) for t in (here, there))
        step = 0.5 * (math.log(then / (1 - then)) - math.log(now / (1 - now)))
        x0 = x0_from_eps(z, ask(model, z, here), schedule.alpha_bar[here])
        ahead = x0 if last is None else x0 + step / (2 * before) * (x0 - last)
        z = math.sqrt((1 - then) / (1 - now)) * z - math.sqrt(then) * math.expm1(-step) * ahead
        last, before = x0, step
    return z
