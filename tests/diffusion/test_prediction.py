# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch

from ldae.diffusion.prediction import (
    EpsPrediction,
    VPrediction,
    add_noise,
    eps_from_v,
    eps_from_x0,
    v_from,
    x0_from_eps,
    x0_from_v,
)
from ldae.diffusion.schedule import Schedule

LEVELS = torch.tensor([0, 1, 20, 300, 700, 999])


@pytest.fixture(scope="module")
def schedule() -> Schedule:
    return Schedule()


@pytest.fixture(scope="module")
def alpha_bar() -> np.ndarray:
    return np.cumprod(1 - np.linspace(1e-4, 0.02, 1000, dtype=np.float64))


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (len(LEVELS), 2, 3, 3, 3)
    return torch.randn(shape, generator=generator).double(), torch.randn(shape, generator=generator).double()


def test_forms_are_inverses_of_each_other(schedule: Schedule, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    x0, eps = pair
    signal = schedule.signal(LEVELS, 5).double()
    z = add_noise(x0, eps, signal)
    v = v_from(x0, eps, signal)
    torch.testing.assert_close(x0_from_v(z, v, signal), x0)
    torch.testing.assert_close(eps_from_v(z, v, signal), eps)
    torch.testing.assert_close(x0_from_eps(z, eps, signal), x0)
    torch.testing.assert_close(eps_from_x0(z, x0, signal), eps)


@pytest.mark.parametrize("form", [VPrediction, EpsPrediction])
def test_the_exact_output_gives_the_exact_noise(
    form: type, schedule: Schedule, pair: tuple[torch.Tensor, torch.Tensor]
) -> None:
    z0, noise = (part.float() for part in pair)
    prediction = form(schedule)
    z = add_noise(z0, noise, schedule.signal(LEVELS, 5))
    output = prediction.target(z0, noise, LEVELS)
    torch.testing.assert_close(prediction.eps(output, z, LEVELS), noise, atol=2e-5, rtol=1e-5)


def test_v_shift_moves_eps_and_x0_as_derived(
    schedule: Schedule, pair: tuple[torch.Tensor, torch.Tensor]
) -> None:
    output, gradient = pair
    prediction = VPrediction(schedule)
    signal = schedule.signal(LEVELS, 5).double()
    z = torch.zeros_like(output)
    guided = prediction.guide(output, gradient, LEVELS)
    torch.testing.assert_close(
        eps_from_v(z, guided, signal), eps_from_v(z, output, signal) + signal.sqrt() * gradient
    )
    torch.testing.assert_close(
        x0_from_v(z, guided, signal), x0_from_v(z, output, signal) - (1 - signal).sqrt() * gradient
    )
    assert (prediction.weight(LEVELS) == 1).all()


def test_eps_shift_is_the_formula(schedule: Schedule, alpha_bar: np.ndarray) -> None:
    levels = np.arange(1000)
    alpha = 1 - np.linspace(1e-4, 0.02, 1000)
    previous = np.concatenate([[1.0], alpha_bar[:-1]])
    expected = -np.sqrt(alpha) * (1 - previous) / np.sqrt(1 - alpha_bar)
    shift = EpsPrediction(schedule).shift(torch.from_numpy(levels)).numpy()
    np.testing.assert_allclose(shift, expected, rtol=2e-3, atol=1e-6)
    ratio = shift / -np.sqrt(1 - alpha_bar)
    np.testing.assert_allclose(ratio[[0, 1, 20]], [0, 0.45, 0.92], atol=0.01)


def test_eps_weight_is_both_published_forms(schedule: Schedule, alpha_bar: np.ndarray) -> None:
    weight = EpsPrediction(schedule).weight(torch.arange(1000)).numpy()
    ratio = alpha_bar / (1 - alpha_bar)
    np.testing.assert_allclose(weight, ratio**0.1 / (1 + ratio), rtol=1e-3)
    np.testing.assert_allclose(weight, alpha_bar**0.1 * (1 - alpha_bar) ** 0.9, rtol=1e-3)
