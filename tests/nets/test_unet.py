# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch import nn

from ldae.errors import InputError
from ldae.nets.estimator import EstimatorConfig, GradientEstimator
from ldae.nets.unet import UNet, UNetConfig

SMALL = UNetConfig(base=8, multipliers=(1, 2), blocks=1, attention_levels=(1,), head_channels=8, groups=4)


def perturbed(module: nn.Module) -> nn.Module:
    """Weights away from zero, so that no part is switched off by its initialisation."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return module


def test_published_size_is_487_million() -> None:
    with torch.device("meta"):
        unet = UNet(UNetConfig())
    assert sum(parameter.numel() for parameter in unet.parameters()) / 1e6 == pytest.approx(487, abs=0.5)


def test_output_starts_at_zero() -> None:
    z, t = torch.randn(2, 3, 4, 6, 4), torch.tensor([3, 900])
    assert (UNet(SMALL)(z, t) == 0).all()


def test_all_three_axes_are_halved() -> None:
    features = UNet(SMALL).trunk(torch.randn(1, 3, 4, 6, 8), torch.tensor([5]))
    assert features.hidden.shape == (1, 16, 2, 3, 4)


def test_result_does_not_depend_on_the_batch() -> None:
    unet = perturbed(UNet(SMALL)).eval()
    z, t = torch.randn(3, 3, 4, 6, 4), torch.tensor([3, 500, 900])
    alone = torch.cat([unet(z[i : i + 1], t[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(unet(z, t), alone, rtol=1e-4, atol=1e-5)


def test_every_parameter_of_the_unet_is_reached() -> None:
    unet = perturbed(UNet(SMALL))
    unet(torch.randn(2, 3, 4, 6, 4), torch.tensor([3, 900])).square().sum().backward()
    silent = [name for name, p in unet.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert not silent


@pytest.mark.parametrize("entry", ["modulation", "modulation+place"])
def test_the_code_reaches_every_block_of_the_estimator(entry: str) -> None:
    trunk = perturbed(UNet(SMALL)).trunk
    estimator = perturbed(
        GradientEstimator(EstimatorConfig(entry=entry), unet=SMALL, code_size=5, latent_shape=(4, 6, 4))
    )
    y = torch.randn(2, 5, requires_grad=True)
    features = trunk(torch.randn(2, 3, 4, 6, 4), torch.tensor([3, 900]))
    estimator(features, y, estimator.latent(y)).square().sum().backward()
    silent = [name for name, p in estimator.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert not silent
    assert (y.grad.abs() > 0).all()


def test_estimator_starts_at_zero() -> None:
    estimator = GradientEstimator(EstimatorConfig(), unet=SMALL, code_size=5, latent_shape=(4, 6, 4))
    features = UNet(SMALL).trunk(torch.randn(2, 3, 4, 6, 4), torch.tensor([3, 900]))
    y = torch.randn(2, 5)
    assert (estimator(features, y, estimator.latent(y)) == 0).all()


def test_odd_latents_are_refused() -> None:
    with pytest.raises(InputError, match=r"multiples of 2 .* got \(5, 6, 4\)"):
        UNet(SMALL)(torch.randn(1, 3, 5, 6, 4), torch.tensor([0]))
