# SPDX-License-Identifier: Apache-2.0
"""An algebraically exact inverter: the leapfrog of BDIA in the coordinate of a Gaussian flow.

Three states in a row fulfil u_{i+1} = u_{i-1} + (h_i + h_{i-1}) f(u_i), BDIA with gamma = 1
(arXiv 2307.10829). The equation reads the same from either end, so a walk down takes back a walk up but for
rounding, whatever the network says and however few the steps. What is needed for the way back are the two
last states: z_T, and the one before it as a difference in u.

The first state up is the latent taken twice, over a step of length zero. Down, the last call therefore gives
a second estimate of the latent; the mean of both is the smoothing step of Gragg's method, which removes the
alternating error that a leapfrog carries along when the code was changed on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from ldae.diffusion.gaussian_flow import GaussianFlow
from ldae.diffusion.multistep import EpsModel, ask


def walk_up(
    model: EpsModel, z0: Tensor, *, levels: Sequence[int], flow: GaussianFlow
) -> tuple[Tensor, Tensor]:
    """Latents to noise, one network call a step.

    Args:
        model: Noise estimate.
        z0: Latents [B, C, ...].
        levels: Levels, rising.
        flow: Coordinate.

    Returns:
        z_T, and the step back to the state before it, in u; both of the shape of `z0`.
    """
    u = flow.whiten(z0, levels[0])
    before, reach = u, 0.0
    for here, there in pairwise(levels):
        arc = flow.arc(here, there)
        before, u = u, before + (reach + arc) * _speed(model, u, here, flow)
        reach = arc
    return flow.colour(u, levels[-1]), before - u


def walk_down(
    model: EpsModel, noise: Tensor, *, levels: Sequence[int], flow: GaussianFlow, previous: Tensor | None
) -> Tensor:
    """Noise to latents, one network call a step.

    Args:
        model: Noise estimate.
        noise: z_T [B, C, ...].
        levels: Levels, falling.
        flow: Coordinate.
        previous: What `walk_up` gave beside z_T. None, for noise that was drawn, takes the first step by the
            Euler method and leaves out the smoothing call.

    Returns:
        z_0 of the shape of `noise`.
    """
    before = flow.whiten(noise, levels[0])
    reach = flow.arc(levels[0], levels[1])
    step = reach * _speed(model, before, levels[0], flow) if previous is None else previous
    u = before + step
    for here, there in pairwise(levels[1:]):
        arc = flow.arc(here, there)
        before, u = u, before + (reach + arc) * _speed(model, u, here, flow)
        reach = arc
    if previous is not None:
        u = (u + before + reach * _speed(model, u, levels[-1], flow)) / 2
    return flow.colour(u, levels[-1])


def _speed(model: EpsModel, u: Tensor, level: int, flow: GaussianFlow) -> Tensor:
    return flow.speed(u, ask(model, flow.colour(u, level), level), level)
