# SPDX-License-Identifier: Apache-2.0
"""Walks on a mixture 0.5 N(-0.9, 0.436^2) + 0.5 N(0.9, 0.436^2), whose score is known exactly."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ldae.diffusion.gaussian_flow import Gaussian, GaussianFlow
from ldae.diffusion.samplers import SOLVERS, Solver, decode, encode
from ldae.diffusion.schedule import Schedule
from ldae.errors import InputError

MEAN, SPREAD = 0.9, 0.436


@pytest.fixture(scope="module")
def schedule() -> Schedule:
    return Schedule()


@pytest.fixture(scope="module")
def samples() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    sign = torch.randint(0, 2, (20_000, 1), generator=generator) * 2 - 1
    return sign * MEAN + SPREAD * torch.randn(20_000, 1, generator=generator)


def exact_eps(schedule: Schedule):
    def eps(z: Tensor, t: Tensor) -> Tensor:
        signal = schedule.signal(t, z.ndim)
        variance = signal * SPREAD**2 + 1 - signal
        mean = signal.sqrt() * MEAN
        score = (mean * torch.tanh(mean * z / variance) - z) / variance
        return -(1 - signal).sqrt() * score

    return eps


@pytest.mark.parametrize(
    ("solver", "steps", "error", "spread"),
    [
        ("ddim", 20, 0.124, 0.88),
        ("ddim", 50, 0.053, 0.95),
        ("ddim", 100, 0.027, 0.97),
        ("ddim-next", 20, 0.031, 1.09),
        ("ddim-next", 50, 0.011, 1.04),
        ("ddim-next", 100, 0.0055, 1.02),
        ("gaussian-2m", 20, 0.0052, 1.00),
        ("gaussian-2m", 50, 0.00078, 1.00),
        ("exact", 20, 0.0, 1.00),
    ],
)
def test_round_trip_on_the_mixture(
    schedule: Schedule, samples: Tensor, solver: str, steps: int, error: float, spread: float
) -> None:
    model = exact_eps(schedule)
    noise, previous = encode(model, samples, schedule=schedule, steps=steps, solver=solver)
    back = decode(model, noise, schedule=schedule, steps=steps, solver=solver, previous=previous)
    assert (back - samples).square().mean().sqrt().item() == pytest.approx(error, rel=0.06, abs=1e-4)
    assert noise.std().item() == pytest.approx(spread, abs=0.01)


def test_decoding_noise_gives_the_distribution(schedule: Schedule, samples: Tensor) -> None:
    noise = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(1))
    drawn = decode(exact_eps(schedule), noise, schedule=schedule, steps=200, solver="ddim")
    assert drawn.std().item() == pytest.approx(samples.std().item(), rel=0.02)
    assert (drawn.abs() < 0.2).float().mean().item() == pytest.approx(
        (samples.abs() < 0.2).float().mean().item(), abs=0.02
    )


@pytest.mark.parametrize("target", [1.5, 2.0, 3.0])
def test_latents_beyond_one_survive_unless_clipped(schedule: Schedule, target: float) -> None:
    def perfect(z: Tensor, t: Tensor) -> Tensor:
        signal = schedule.signal(t, z.ndim)
        return (z - signal.sqrt() * target) / (1 - signal).sqrt()

    noise = torch.randn(64, 1, generator=torch.Generator().manual_seed(2))
    free = decode(perfect, noise, schedule=schedule, steps=20, solver="ddim")
    clipped = decode(perfect, noise, schedule=schedule, steps=20, solver="ddim", clip_sample=True)
    assert free.mean().item() == pytest.approx(target, abs=0.02)
    assert clipped.mean().item() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("solver", SOLVERS)
def test_steps_count_network_calls(schedule: Schedule, solver: Solver, steps: int) -> None:
    asked: list[int] = []

    def eps(z: Tensor, t: Tensor) -> Tensor:
        asked.append(int(t[0]))
        return torch.zeros_like(z)

    z = torch.zeros(1, 1)
    _, previous = encode(eps, z, schedule=schedule, steps=steps, solver=solver)
    assert len(asked) == steps
    for last in (previous, None):
        asked.clear()
        decode(eps, z, schedule=schedule, steps=steps, solver=solver, previous=last)
        assert len(asked) == steps


def test_ddim_asks_where_it_is_or_where_it_goes(schedule: Schedule) -> None:
    asked: list[int] = []

    def eps(z: Tensor, t: Tensor) -> Tensor:
        asked.append(int(t[0]))
        return torch.zeros_like(z)

    z = torch.zeros(1, 1)
    encode(eps, z, schedule=schedule, steps=5, solver="ddim")
    encode(eps, z, schedule=schedule, steps=5, solver="ddim-next")
    decode(eps, z, schedule=schedule, steps=5, solver="ddim-next")
    up = [0, 200, 400, 599, 799]
    assert asked == [*up, *up[1:], 999, 999, *up[:0:-1]]


def gaussian_eps(schedule: Schedule, gaussian: Gaussian):
    def eps(z: Tensor, t: Tensor) -> Tensor:
        signal = schedule.signal(t, z.ndim)
        spread = signal * gaussian.variance + 1 - signal
        return (1 - signal).sqrt() * (z - signal.sqrt() * gaussian.mean) / spread

    return eps


@pytest.mark.parametrize("solver", ["gaussian-2m", "exact"])
def test_a_gaussian_needs_no_steps(schedule: Schedule, solver: Solver) -> None:
    """Where the network knows no more than the Gaussian, one step takes any spread to N(0, 1) and back."""
    gaussian = Gaussian(torch.tensor([[0.5, -2.0, 0.0]]), torch.tensor([[0.001, 0.04, 3.0]]))
    model = gaussian_eps(schedule, gaussian)
    unit = torch.randn(4000, 3, generator=torch.Generator().manual_seed(3))
    # the latent is the state at level 0, whose noise has variance 1e-4
    z0 = GaussianFlow(gaussian, schedule).colour(unit, 0)
    noise, previous = encode(model, z0, schedule=schedule, steps=1, solver=solver, gaussian=gaussian)
    expected = GaussianFlow(gaussian, schedule).colour(unit, 999)
    torch.testing.assert_close(noise, expected, atol=1e-2, rtol=1e-3)
    back = decode(
        model, noise, schedule=schedule, steps=1, solver=solver, gaussian=gaussian, previous=previous
    )
    torch.testing.assert_close(back, z0, atol=1e-2, rtol=1e-3)


def test_ddim_shrinks_the_noise_of_a_place_that_hardly_varies(schedule: Schedule) -> None:
    """Spread of z_T where the latent's is 0.05: what the Gaussian flow takes out of the discretisation."""
    gaussian = Gaussian(0.0, torch.tensor(0.05**2))
    model = gaussian_eps(schedule, gaussian)
    z0 = 0.05 * torch.randn(4000, 1, generator=torch.Generator().manual_seed(4))
    spreads = {
        solver: encode(model, z0, schedule=schedule, steps=20, solver=solver, gaussian=gaussian)[0]
        .std()
        .item()
        for solver in ("ddim", "gaussian-2m")
    }
    assert spreads["ddim"] < 0.6
    assert spreads["gaussian-2m"] == pytest.approx(0.98, abs=0.03)  # 0.05 / sqrt(0.05^2 + 1e-4) = 0.98


def test_exact_takes_back_whatever_the_network_says(schedule: Schedule) -> None:
    def wild(z: Tensor, t: Tensor) -> Tensor:
        return (1 - schedule.signal(t, z.ndim)).sqrt() * z + 0.05 * torch.sin(20 * z + t[:, None])

    z0 = torch.randn(64, 5, generator=torch.Generator().manual_seed(5))
    back = {}
    for solver in ("gaussian-2m", "exact"):
        noise, previous = encode(wild, z0, schedule=schedule, steps=10, solver=solver)
        found = decode(wild, noise, schedule=schedule, steps=10, solver=solver, previous=previous)
        back[solver] = (found - z0).abs().max().item()
    assert back["exact"] < 1e-3
    assert back["gaussian-2m"] > 0.05


def test_dpm_is_of_second_order_on_the_way_down(schedule: Schedule) -> None:
    model = exact_eps(schedule)
    noise = torch.randn(2000, 1, generator=torch.Generator().manual_seed(6))
    truth = decode(model, noise, schedule=schedule, steps=999, solver="ddim")

    def error(solver: Solver, steps: int) -> float:
        found = decode(model, noise, schedule=schedule, steps=steps, solver=solver)
        return float((found - truth).square().mean().sqrt())

    assert error("dpm++2m", 50) < 0.5 * error("ddim", 50)


@pytest.mark.parametrize("steps", [1, 7, 20, 500, 999])
def test_grids_are_even_and_levels_distinct(schedule: Schedule, steps: int) -> None:
    for levels in (schedule.log_snr_grid(steps), schedule.angle_grid(steps)):
        assert (levels[0], levels[-1], len(levels)) == (0, 999, steps + 1)
        assert all(a < b for a, b in pairwise(levels))
    if steps == 20:
        arcs = torch.arccos(schedule.alpha_bar.sqrt())[levels].diff()
        assert (arcs.max() / arcs.min()).item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [0, 1000])
def test_steps_lie_within_the_levels(schedule: Schedule, solver: Solver, steps: int) -> None:
    with pytest.raises(InputError, match=f"steps must be between 1 and 999, got {steps}"):
        encode(exact_eps(schedule), torch.zeros(1, 1), schedule=schedule, steps=steps, solver=solver)


def test_clipping_is_the_published_sampler_s_alone(schedule: Schedule) -> None:
    with pytest.raises(InputError, match="clip_sample must come with solver ddim or ddim-next, got exact"):
        encode(
            exact_eps(schedule),
            torch.zeros(1, 1),
            schedule=schedule,
            steps=5,
            solver="exact",
            clip_sample=True,
        )


def test_unknown_solver_is_named(schedule: Schedule) -> None:
    with pytest.raises(InputError, match=r"solver must be one of gaussian-2m, exact, .*got 'euler'"):
        encode(exact_eps(schedule), torch.zeros(1, 1), schedule=schedule, steps=5, solver="euler")
