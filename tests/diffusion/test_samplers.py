# SPDX-License-Identifier: Apache-2.0
"""DDIM on a mixture 0.5 N(-0.9, 0.436^2) + 0.5 N(0.9, 0.436^2), whose score is known exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ldae.diffusion.samplers import decode, encode
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
    ],
)
def test_round_trip_on_the_mixture(
    schedule: Schedule, samples: Tensor, solver: str, steps: int, error: float, spread: float
) -> None:
    model = exact_eps(schedule)
    noise = encode(model, samples, schedule=schedule, steps=steps, solver=solver)
    back = decode(model, noise, schedule=schedule, steps=steps)
    assert (back - samples).square().mean().sqrt().item() == pytest.approx(error, rel=0.06)
    assert noise.std().item() == pytest.approx(spread, abs=0.01)


def test_decoding_noise_gives_the_distribution(schedule: Schedule, samples: Tensor) -> None:
    noise = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(1))
    drawn = decode(exact_eps(schedule), noise, schedule=schedule, steps=200)
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
    free = decode(perfect, noise, schedule=schedule, steps=20)
    clipped = decode(perfect, noise, schedule=schedule, steps=20, clip_sample=True)
    assert free.mean().item() == pytest.approx(target, abs=0.02)
    assert clipped.mean().item() == pytest.approx(1.0, abs=0.02)


def test_steps_count_network_calls(schedule: Schedule) -> None:
    asked: list[int] = []

    def eps(z: Tensor, t: Tensor) -> Tensor:
        asked.append(int(t[0]))
        return torch.zeros_like(z)

    z = torch.zeros(1, 1)
    encode(eps, z, schedule=schedule, steps=5, solver="ddim")
    encode(eps, z, schedule=schedule, steps=5, solver="ddim-next")
    decode(eps, z, schedule=schedule, steps=5)
    up = [0, 200, 400, 599, 799]
    assert asked == [*up, *up[1:], 999, 999, *up[:0:-1]]


def test_unknown_solver_is_named(schedule: Schedule) -> None:
    with pytest.raises(InputError, match="solver must be one of ddim, ddim-next, got 'euler'"):
        encode(exact_eps(schedule), torch.zeros(1, 1), schedule=schedule, steps=5, solver="euler")
