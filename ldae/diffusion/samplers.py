# SPDX-License-Identifier: Apache-2.0
"""DDIM both ways (arXiv 2010.02502, equation 12 with sigma = 0).

`steps` counts network calls each way. The state at level t_0 = 0 is the latent itself; x0 is never clipped
unless asked, since latents of unit variance do not lie in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ldae.diffusion.prediction import add_noise, eps_from_x0, x0_from_eps
from ldae.diffusion.schedule import Schedule
from ldae.errors import InputError

Solver = Literal["ddim", "ddim-next"]
SOLVERS: tuple[Solver, ...] = ("ddim", "ddim-next")
EpsModel = Callable[[Tensor, Tensor], Tensor]
"""Noise estimate [B, C, ...] from a noised latent [B, C, ...] and its levels [B]."""


def _move(z: Tensor, eps: Tensor, here: Tensor, there: Tensor, *, clip_sample: bool) -> Tensor:
    x0 = x0_from_eps(z, eps, here)
    if clip_sample:
        x0 = x0.clamp(-1, 1)
        eps = eps_from_x0(z, x0, here)
    return add_noise(x0, eps, there)


def _check_solver(solver: str) -> None:
    if solver not in SOLVERS:
        raise InputError(f"solver must be one of {', '.join(SOLVERS)}, got {solver!r}.")


@torch.no_grad()
def encode(
    model: EpsModel,
    z0: Tensor,
    *,
    schedule: Schedule,
    steps: int,
    solver: Solver = "ddim-next",
    clip_sample: bool = False,
) -> Tensor:
    """Walk a clean latent up to its noise z_T.

    Args:
        model: Noise estimate, with the semantic code bound to it.
        z0: Clean latents, float32 [B, C, ...].
        schedule: Noise schedule.
        steps: Network calls, 1..T-1.
        solver: "ddim" asks the network at the level where the state is (first-order reference grid);
            "ddim-next" at the level to which it moves, which inverts the decoding step to first order and
            has a quarter of the round-trip error at equal cost.
        clip_sample: Clip x0 to [-1, 1] as the published sampler does.

    Returns:
        z_T, float32, of the shape of `z0`.
    """
    _check_solver(solver)
    grid = schedule.grid(steps)
    z = z0
    for here, there in pairwise(grid):
        asked = there if solver == "ddim-next" else here
        eps = model(z, torch.full((len(z),), asked, device=z.device))
        z = _move(z, eps, schedule.alpha_bar[here], schedule.alpha_bar[there], clip_sample=clip_sample)
    return z


@torch.no_grad()
def decode(
    model: EpsModel, zT: Tensor, *, schedule: Schedule, steps: int, clip_sample: bool = False
) -> Tensor:
    """Walk noise z_T down to a clean latent; arguments as for `encode`.

    Returns:
        z_0, float32, of the shape of `zT`.
    """
    grid = schedule.grid(steps)
    z = zT
    for here, there in zip(grid[:0:-1], grid[-2::-1], strict=True):
        eps = model(z, torch.full((len(z),), here, device=z.device))
        z = _move(z, eps, schedule.alpha_bar[here], schedule.alpha_bar[there], clip_sample=clip_sample)
    return z
