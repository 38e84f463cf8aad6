# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ldae.diffusion.model import GuidedDiffusion, LatentDenoiser
from ldae.diffusion.samplers import decode, encode
from ldae.diffusion.schedule import Schedule
from ldae.errors import InputError
from ldae.nets.estimator import EstimatorConfig, GradientEstimator
from ldae.nets.unet import UNet, UNetConfig

CONFIG = UNetConfig(base=8, multipliers=(1, 2), blocks=1, attention_levels=(1,), head_channels=8, groups=4)
LATENT = (4, 6, 4)
CODE = 5


def guided(prior: Tensor | None) -> GuidedDiffusion:
    """Untrained networks, whose outputs are zero: only the closed-form part speaks."""
    torch.manual_seed(0)
    denoiser = LatentDenoiser(UNet(CONFIG), schedule=Schedule(), prediction="v", prior=prior)
    estimator = GradientEstimator(EstimatorConfig(), unet=CONFIG, code_size=CODE, latent_shape=LATENT)
    return GuidedDiffusion(denoiser, estimator).eval()


@pytest.fixture(scope="module")
def spread() -> Tensor:
    """A standard deviation for each place, from 0.05, a background, to 2."""
    return torch.logspace(-1.3, 0.3, 3 * 4 * 6 * 4).reshape(3, *LATENT)


def test_prior_alone_encodes_any_spread_to_unit_noise(spread: Tensor) -> None:
    model = guided(spread.square())
    generator = torch.Generator().manual_seed(1)
    z0 = spread * torch.randn(12, 3, *LATENT, generator=generator)
    noise, _ = encode(model.eps_model(None), z0, schedule=model.schedule, steps=100)
    per_place = noise.square().mean(0).sqrt()
    assert per_place.mean().item() == pytest.approx(1, abs=0.06)
    assert per_place.mean((1, 2, 3)).min() > 0.8
    back = decode(model.eps_model(None), noise, schedule=model.schedule, steps=100)
    assert ((back - z0).square().mean() / z0.square().mean()).sqrt() < 0.03


def test_without_a_prior_small_places_vanish_from_the_noise(spread: Tensor) -> None:
    model = guided(None)
    generator = torch.Generator().manual_seed(1)
    z0 = spread * torch.randn(12, 3, *LATENT, generator=generator)
    noise, _ = encode(model.eps_model(None), z0, schedule=model.schedule, steps=100)
    assert noise.square().mean(0).sqrt().min() < 0.1


def test_code_replaces_mean_and_variance_of_the_prior() -> None:
    """The posterior mean of x0 at high noise is the latent that the code stands for."""
    model = guided(torch.ones(3, *LATENT))
    with torch.no_grad():
        model.estimator.place.weight.normal_(generator=torch.Generator().manual_seed(2))
        model.estimator.unexplained.fill_(0.04)
    y = torch.randn(2, CODE, generator=torch.Generator().manual_seed(3))
    latent = model.estimator.latent(y)
    z = torch.randn(2, 3, *LATENT, generator=torch.Generator().manual_seed(4))
    drawn = decode(model.eps_model(y), z, schedule=model.schedule, steps=100)
    torch.testing.assert_close((drawn - latent).std().item(), 0.2, rtol=0.1, atol=0)
    assert (drawn - latent).mean().abs() < 0.02


def test_zero_code_effect_is_no_gradient() -> None:
    """Where the code says nothing, mean zero and all variance left, G is zero."""
    model = guided(torch.full((3, *LATENT), 0.3))
    with torch.no_grad():
        model.estimator.unexplained.fill_(0.3)
    z, t = torch.randn(2, 3, *LATENT), torch.tensor([10, 700])
    _, (gradient,) = model.parts(z, t, [torch.randn(2, CODE)])
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-6, rtol=0)


def test_several_codes_share_one_trunk_and_equal_single_calls() -> None:
    model = guided(torch.ones(3, *LATENT))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    z, t, a, b = (
        torch.randn(2, 3, *LATENT),
        torch.tensor([10, 700]),
        torch.randn(2, CODE),
        torch.randn(2, CODE),
    )
    output, (first, second) = model.parts(z, t, [a, b])
    torch.testing.assert_close(model(z, t, a), output + first)
    torch.testing.assert_close(model(z, t, b), output + second)
    assert (first - second).abs().max() > 1e-3


def test_stop_fraction_switches_the_code_off_below_a_level() -> None:
    model = guided(torch.ones(3, *LATENT))
    with torch.no_grad():
        model.estimator.place.bias.fill_(1.0)
    z, y = torch.randn(1, 3, *LATENT), torch.zeros(1, CODE)
    stopped, full, none = model.eps_model(y, stop_fraction=0.3), model.eps_model(y), model.eps_model(None)
    for level, expected in ((299, none), (300, full)):
        t = torch.tensor([level])
        torch.testing.assert_close(stopped(z, t), expected(z, t), rtol=0, atol=0)
    assert (full(z, torch.tensor([299])) - none(z, torch.tensor([299]))).abs().max() > 1e-3


def test_prior_needs_the_v_form() -> None:
    with pytest.raises(InputError, match="prior needs prediction v, got eps"):
        LatentDenoiser(UNet(CONFIG), schedule=Schedule(), prediction="eps", prior=torch.ones(3, *LATENT))
