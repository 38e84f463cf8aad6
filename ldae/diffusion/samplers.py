# SPDX-License-Identifier: Apache-2.0
"""Walks between clean latents and noise, chosen by name.

| solver | up | down | levels |
| --- | --- | --- | --- |
| gaussian-2m | Adams-Bashforth 2 over the model's own Gaussian flow | the same | even in arccos sqrt(A) |
| exact | leapfrog over that flow (BDIA, arXiv 2307.10829) | the same, backwards | even in arccos sqrt(A) |
| ddim-next | DDIM (arXiv 2010.02502), asked at the next level | DDIM | even in t |
| ddim | DDIM, equation 12 with sigma = 0 | DDIM | even in t |
| dpm++2m | as ddim-next | DPM-Solver++(2M), arXiv 2211.01095 | up even in t, down in log-SNR |

`steps` counts network calls each way. The state at level t_0 = 0 is the latent itself; x0 is never clipped
unless asked, since latents of unit variance do not lie in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ldae.diffusion import exact
from ldae.diffusion.gaussian_flow import Gaussian, GaussianFlow
from ldae.diffusion.multistep import EpsModel, ask, walk_dpm, walk_gaussian
from ldae.diffusion.prediction import add_noise, eps_from_x0, x0_from_eps
from ldae.diffusion.schedule import Schedule
from ldae.errors import InputError

Solver = Literal["gaussian-2m", "exact", "ddim-next", "ddim", "dpm++2m"]
SOLVERS: tuple[Solver, ...] = ("gaussian-2m", "exact", "ddim-next", "ddim", "dpm++2m")
DEFAULT_SOLVER: Solver = "gaussian-2m"
ON_GAUSSIAN = ("gaussian-2m", "exact")


def check_solver(solver: str) -> None:
    """Stop on a name that is no solver's.

    Raises:
        InputError: With the names that there are.
    """
    if solver not in SOLVERS:
        raise InputError(f"solver must be one of {', '.join(SOLVERS)}, got {solver!r}.")


def solver_levels(solver: Solver, *, schedule: Schedule, steps: int) -> list[int]:
    """The levels that a solver walks up through, from clean to noise.

    Raises:
        InputError: Unknown solver, or `steps` is not in 1..T-1.
    """
    check_solver(solver)
    return schedule.angle_grid(steps) if solver in ON_GAUSSIAN else schedule.grid(steps)


@torch.no_grad()
def encode(
    model: EpsModel,
    z0: Tensor,
    *,
    schedule: Schedule,
    steps: int,
    solver: Solver = DEFAULT_SOLVER,
    gaussian: Gaussian | None = None,
    clip_sample: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Walk a clean latent up to its noise z_T, and give what the solver needs besides for the way back.

    Args:
        model: Noise estimate, with the semantic code bound to it.
        z0: Clean latents, float32 [B, C, ...].
        schedule: Noise schedule.
        steps: Network calls, 1..T-1.
        solver: One of `SOLVERS`, see above.
        gaussian: What the model knows of clean latents by place, for "gaussian-2m" and "exact"; None is unit
            variance about zero.
        clip_sample: Clip x0 to [-1, 1] as the published sampler does; "ddim" and "ddim-next" only.

    Returns:
        z_T, float32, of the shape of `z0`; and for "exact" the last step in its own coordinate, of the same
        shape, else None.

    Raises:
        InputError: Unknown solver, `steps` out of range, or clipping asked of a solver without it.
    """
    levels = solver_levels(solver, schedule=schedule, steps=steps)
    _check_clip(solver, clip_sample)
    flow = GaussianFlow(gaussian or Gaussian(), schedule)
    if solver == "exact":
        return exact.walk_up(model, z0, levels=levels, flow=flow)
    if solver == "gaussian-2m":
        return walk_gaussian(model, z0, levels=levels, flow=flow), None
    ahead = solver != "ddim"
    return _walk_ddim(model, z0, levels=levels, schedule=schedule, ahead=ahead, clip_sample=clip_sample), None


@torch.no_grad()
def decode(
    model: EpsModel,
    zT: Tensor,
    *,
    schedule: Schedule,
    steps: int,
    solver: Solver = DEFAULT_SOLVER,
    gaussian: Gaussian | None = None,
    previous: Tensor | None = None,
    clip_sample: bool = False,
) -> Tensor:
    """Walk noise z_T down to a clean latent; arguments as for `encode`.

    Args:
        model: Noise estimate.
        zT: Noise, float32 [B, C, ...].
        schedule: Noise schedule.
        steps: Network calls.
        solver: One of `SOLVERS`.
        gaussian: As on the way up.
        previous: What `encode` gave beside z_T, for "exact"; None for noise that was drawn.
        clip_sample: Clip x0.

    Returns:
        z_0, float32, of the shape of `zT`.

    Raises:
        InputError: As on the way up.
    """
    levels = solver_levels(solver, schedule=schedule, steps=steps)[::-1]
    _check_clip(solver, clip_sample)
    flow = GaussianFlow(gaussian or Gaussian(), schedule)
    if solver == "exact":
        return exact.walk_down(model, zT, levels=levels, flow=flow, previous=previous)
    if solver == "gaussian-2m":
        return walk_gaussian(model, zT, levels=levels, flow=flow)
    if solver == "dpm++2m":
        return walk_dpm(model, zT, levels=schedule.log_snr_grid(steps)[::-1], schedule=schedule)
    return _walk_ddim(model, zT, levels=levels, schedule=schedule, ahead=False, clip_sample=clip_sample)


def _check_clip(solver: Solver, clip_sample: bool) -> None:
    if clip_sample and solver not in ("ddim", "ddim-next"):
        raise InputError(f"clip_sample must come with solver ddim or ddim-next, got {solver}.")


def _walk_ddim(
    model: EpsModel, z: Tensor, *, levels: Sequence[int], schedule: Schedule, ahead: bool, clip_sample: bool
) -> Tensor:
    """`ahead` asks the network at the level to which the state moves, not at the one where it is."""
    for here, there in pairwise(levels):
        eps = ask(model, z, there if ahead else here)
        z = _move(z, eps, schedule.alpha_bar[here], schedule.alpha_bar[there], clip_sample=clip_sample)
    return z


def _move(z: Tensor, eps: Tensor, here: Tensor, there: Tensor, *, clip_sample: bool) -> Tensor:
    x0 = x0_from_eps(z, eps, here)
    if clip_sample:
        x0 = x0.clamp(-1, 1)
        eps = eps_from_x0(z, x0, here)
    return add_noise(x0, eps, there)
