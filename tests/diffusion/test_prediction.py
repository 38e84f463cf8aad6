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
    gaussian_v,
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


def test_forms_are_inverses_of_each_other(
    schedule: Schedule, pair: tuple[torch.Tensor, torch.Tensor]
) -> None:
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


def test_gaussian_v_is_the_exact_posterior_mean(schedule: Schedule) -> None:
    """Against conditioning of the joint normal of (x0, eps) on z, by regression over many draws' moments."""
    mean, variance = 0.7, torch.tensor(0.09)
    t = torch.tensor([40, 400, 900])
    signal = schedule.signal(t, 2).double()
    z = torch.tensor([[0.3], [-1.2], [2.0]]).double()
    # cov(v, z) / var(z) from v = sqrt(A) eps - sqrt(1-A) x0 and z = sqrt(A) x0 + sqrt(1-A) eps
    root = (signal * (1 - signal)).sqrt()
    slope = root * (1 - variance.double()) / (signal * variance.double() + 1 - signal)
    expected = -(1 - signal).sqrt() * mean + slope * (z - signal.sqrt() * mean)
    found = gaussian_v(z, mean=mean, variance=variance.double(), signal=signal)
    torch.testing.assert_close(found, expected)


def test_gaussian_v_of_unit_variance_says_nothing(schedule: Schedule) -> None:
    z = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    found = gaussian_v(z, mean=0.0, variance=torch.ones(3), signal=schedule.signal(LEVELS, 2))
    torch.testing.assert_close(found, torch.zeros_like(z), atol=1e-6, rtol=0)
