# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from ldae.diffusion.code_sampler import CodeSampler, measure_codes
from ldae.diffusion.schedule import Schedule
from ldae.errors import InputError
from ldae.nets.code_denoiser import CodeDenoiser, CodeDenoiserConfig

SMALL = CodeDenoiserConfig(width=16, layers=3, embedding=8)


def untrained(codes: torch.Tensor, labels: torch.Tensor) -> CodeSampler:
    axes = measure_codes(codes, labels, classes=2)
    network = CodeDenoiser(SMALL, size=axes.axes.shape[1], classes=2)
    return CodeSampler(network.eval(), axes, schedule=Schedule(), classes=("AD", "CN"))


@pytest.fixture(scope="module")
def sampler() -> CodeSampler:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4000) % 3
    codes = torch.randn(4000, 5, generator=generator) @ torch.randn(5, 5, generator=generator) + 3
    codes[labels == 1] += torch.tensor([4.0, 0, 0, 0, 0])
    return untrained(codes, labels)


def test_whitening_and_back(sampler: CodeSampler) -> None:
    whitened = torch.randn(7, sampler.size)
    torch.testing.assert_close(sampler.whiten(sampler.colour(whitened)), whitened, rtol=1e-4, atol=1e-4)


def test_an_untrained_sampler_draws_the_gaussian_of_the_codes(sampler: CodeSampler) -> None:
    noise = torch.randn(6000, sampler.size, generator=torch.Generator().manual_seed(1))
    drawn = sampler.draw(noise, steps=50)
    torch.testing.assert_close(drawn.mean(0), sampler.mean, rtol=0, atol=0.15)
    torch.testing.assert_close(drawn.T.cov(), sampler.axes @ sampler.axes.T, rtol=0.1, atol=0.25)


def test_a_class_is_drawn_about_its_centre(sampler: CodeSampler) -> None:
    noise = torch.randn(4000, sampler.size, generator=torch.Generator().manual_seed(2))
    drawn = sampler.whiten(sampler.draw(noise, label=sampler.label("AD"), steps=50))
    # the first level is not pure noise: sqrt(A_T) of the centre is missing, 0.6 %
    torch.testing.assert_close(drawn.mean(0), sampler.centres[1], rtol=0.02, atol=0.06)
    assert sampler.centres[1].norm() > 0.3
    assert torch.equal(sampler.centres[0], torch.zeros(sampler.size))


def test_centres_that_chance_explains_are_zero() -> None:
    generator = torch.Generator().manual_seed(3)
    axes = measure_codes(torch.randn(60, 20, generator=generator), torch.arange(60) % 3, classes=2)
    assert axes.centres.norm(dim=1).max() < 0.35


def test_unknown_class_is_refused(sampler: CodeSampler) -> None:
    with pytest.raises(InputError, match="must be one of AD, CN, got 'MCI'"):
        sampler.label("MCI")
