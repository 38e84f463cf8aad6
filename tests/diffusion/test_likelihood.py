# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import Tensor

from ldae.diffusion.likelihood import ClassModel, class_log_likelihoods, signal_levels
from ldae.diffusion.prediction import eps_from_x0, v_from
from ldae.diffusion.schedule import Schedule

SCHEDULE = Schedule()
CODES = torch.randn(6, 2, generator=torch.Generator().manual_seed(1)) * 1.5


def exact_denoiser(means: Tensor, variance: float) -> ClassModel:
    """v of classes that are even mixtures of Gaussians with means [classes, parts, D] and one variance."""

    def model(z: Tensor, t: Tensor, label: Tensor) -> Tensor:
        signal = SCHEDULE.signal(t, 2).double()
        centres, spread = means[label - 1], signal * variance + 1 - signal
        offsets = z.double()[:, None] - signal[..., None].sqrt() * centres  # [B, parts, D]
        chances = (-offsets.square().sum(2) / (2 * spread)).softmax(1)
        parts = centres + signal[..., None].sqrt() * variance / spread[..., None] * offsets
        x0 = (chances[..., None] * parts).sum(1)
        return v_from(x0, eps_from_x0(z.double(), x0, signal), signal)

    return model


def log_likelihoods(code: Tensor, means: Tensor, variance: float) -> Tensor:
    squares = (code.double() - means).square().sum(2) / (2 * variance)
    return torch.logsumexp(-squares, 1)


def posteriors(means: Tensor, *, variance: float, levels: int, draws: int) -> tuple[Tensor, Tensor]:
    """p(y | z) by denoising error, and by Bayes, with even priors."""
    noise = torch.randn(levels, draws, 2, generator=torch.Generator().manual_seed(0))
    model = exact_denoiser(means, variance)
    by_error = [
        class_log_likelihoods(model, code, classes=len(means), schedule=SCHEDULE, noise=noise)
        for code in CODES
    ]
    by_bayes = [log_likelihoods(code, means, variance) for code in CODES]
    return torch.stack(by_error).softmax(1), torch.stack(by_bayes).softmax(1)


def test_levels_are_even_in_signal_variance() -> None:
    signal = SCHEDULE.alpha_bar[signal_levels(SCHEDULE, 10)]
    torch.testing.assert_close(signal, (torch.arange(10) + 0.5) / 10, atol=0.003, rtol=0)


def test_gaussian_classes_are_judged_exactly_from_a_single_level_and_draw() -> None:
    means = torch.tensor([[[1.0, 0.0]], [[-1.0, 0.5]], [[0.0, -1.0]]]).double()
    for levels in (1, 16):
        ours, bayes = posteriors(means, variance=1.0, levels=levels, draws=1)
        torch.testing.assert_close(ours, bayes, atol=2e-5, rtol=0)


def test_mixture_classes_are_judged_as_by_bayes() -> None:
    means = torch.tensor([[[1.0, 1.0], [-1.0, -1.0]], [[1.0, -1.0], [-1.0, 1.0]]]).double()
    ours, bayes = posteriors(means, variance=0.5, levels=64, draws=64)
    assert (bayes.max(1).values - 0.5).max() > 0.4
    torch.testing.assert_close(ours, bayes, atol=0.02, rtol=0)
