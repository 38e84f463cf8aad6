# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from ldae.diffusion.code_sampler import CodeSampler, measure_codes
from ldae.diffusion.schedule import Schedule
from ldae.errors import InputError
from ldae.nets.code_denoiser import UNKNOWN, CodeDenoiser, CodeDenoiserConfig

SMALL = CodeDenoiserConfig(width=16, layers=3, embedding=8)
SHARES = (0.5, 0.2, 0.3)
CENTRES = torch.tensor([[0.0, 0, 0, 0, 0], [6, 0, 0, 0, 0], [0, 0, -6, 0, 3]])


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def untrained(codes: Tensor, labels: Tensor, *, classes: tuple[str, ...] = ("AD", "CN")) -> CodeSampler:
    axes = measure_codes(codes, labels, classes=len(classes))
    network = CodeDenoiser(SMALL, size=axes.axes.shape[1], classes=len(classes))
    return CodeSampler(network.eval(), axes, schedule=Schedule(), classes=classes)


@pytest.fixture(scope="module")
def known() -> tuple[Tensor, Tensor]:
    """Codes of no class, AD and CN, Gaussian with one covariance about three centres; and their labels."""
    labels = torch.multinomial(torch.tensor(SHARES), 6000, replacement=True, generator=generator(0))
    mixing = 0.3 * torch.randn(5, 5, generator=generator(1)) + torch.eye(5)
    return torch.randn(6000, 5, generator=generator(2)) @ mixing + CENTRES[labels] + 3, labels


@pytest.fixture(scope="module")
def sampler(known: tuple[Tensor, Tensor]) -> CodeSampler:
    return untrained(*known)


def test_whitening_and_back(sampler: CodeSampler) -> None:
    whitened = torch.randn(7, sampler.size, generator=generator(3))
    torch.testing.assert_close(sampler.whiten(sampler.colour(whitened)), whitened, rtol=1e-4, atol=1e-4)


def test_whitened_codes_have_unit_covariance_within_classes(
    sampler: CodeSampler, known: tuple[Tensor, Tensor]
) -> None:
    codes, labels = known
    left = sampler.whiten(codes)
    left = left - torch.stack([left[labels == label].mean(0) for label in range(3)])[labels]
    torch.testing.assert_close(left.T @ left / (6000 - 3), torch.eye(5), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(sampler.shares, torch.tensor(SHARES), rtol=0, atol=0.02)


@pytest.mark.parametrize("level", [0, 300, 999])
def test_the_prior_is_the_score_of_the_mixture(sampler: CodeSampler, level: int) -> None:
    """Where no class is told, against the score by automatic differentiation of the mixture's density."""
    t = torch.full((4,), level)
    signal = sampler.schedule.alpha_bar[level].double()
    z = torch.randn(4, 5, generator=generator(4)).double().requires_grad_()
    places = MultivariateNormal(signal.sqrt() * sampler.centres.double(), torch.eye(5).double())
    MixtureSameFamily(Categorical(sampler.shares.double()), places).log_prob(z).sum().backward()
    assert z.grad is not None
    eps = -(1 - signal).sqrt() * z.grad
    v = (eps - (1 - signal).sqrt() * z.detach()) / signal.sqrt()
    found = sampler.prior(z.detach().float(), t, torch.zeros(4, dtype=torch.long))
    torch.testing.assert_close(found.double(), v, rtol=1e-3, atol=1e-3)


def test_a_class_is_drawn_from_its_gaussian(sampler: CodeSampler, known: tuple[Tensor, Tensor]) -> None:
    codes, labels = known
    drawn = sampler.draw(torch.randn(4000, 5, generator=generator(5)), torch.full((4000,), 1), steps=20)
    real = codes[labels == sampler.label("AD")]
    torch.testing.assert_close(drawn.mean(0), real.mean(0), rtol=0, atol=0.2)
    torch.testing.assert_close(drawn.T.cov(), real.T.cov(), rtol=0.15, atol=0.3)


def test_no_class_is_drawn_from_all_in_their_shares(
    sampler: CodeSampler, known: tuple[Tensor, Tensor]
) -> None:
    codes, _ = known
    drawn = sampler.draw(torch.randn(4000, 5, generator=generator(6)), torch.zeros(4000, dtype=torch.long))
    torch.testing.assert_close(drawn.mean(0), codes.mean(0), rtol=0, atol=0.2)
    torch.testing.assert_close(drawn.T.cov(), codes.T.cov(), rtol=0.15, atol=0.3)
    nearest = torch.cdist(sampler.whiten(drawn), sampler.centres).argmin(1)
    real = torch.cdist(sampler.whiten(codes), sampler.centres).argmin(1)
    shares = [torch.bincount(found, minlength=3) / len(found) for found in (nearest, real)]
    torch.testing.assert_close(shares[0], shares[1], rtol=0, atol=0.03)


def test_what_is_drawn_does_not_depend_on_its_neighbours(sampler: CodeSampler) -> None:
    noise, labels = torch.randn(6, 5, generator=generator(7)), torch.tensor([0, 1, 2, 0, 1, 2])
    together = sampler.draw(noise, labels, steps=20)
    alone = torch.cat([sampler.draw(noise[[i]], labels[[i]], steps=20) for i in range(6)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_centres_that_chance_explains_are_zero() -> None:
    axes = measure_codes(torch.randn(60, 20, generator=generator(8)), torch.arange(60) % 3, classes=2)
    assert axes.centres.norm(dim=1).max() < 0.35


def two_moons_of_gaussians(n: int, *, seed: int) -> Tensor:
    """Unlabelled codes of two clusters, 30 % and 70 %, the smaller one narrow."""
    small = torch.rand(n, generator=generator(seed)) < 0.3
    noise = torch.randn(n, 2, generator=generator(seed + 1))
    return torch.where(small[:, None], torch.tensor([-4.0, 0]) + 0.3 * noise, torch.tensor([2.0, 1]) + noise)


def test_a_trained_network_learns_what_is_not_gaussian() -> None:
    codes = two_moons_of_gaussians(4000, seed=9)
    labels = torch.zeros(4000, dtype=torch.long)
    torch.manual_seed(0)
    axes = measure_codes(codes, labels, classes=0)
    network = CodeDenoiser(CodeDenoiserConfig(width=64, layers=4, embedding=32), size=2)
    sampler = CodeSampler(network, axes, schedule=Schedule())
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for step in range(200):
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * (1 - step / 200)
        rows = torch.randint(4000, (256,))
        learned, gaussian = sampler.errors(
            network, codes[rows], t=torch.randint(1000, (256,)), noise=torch.randn(256, 2), label=labels[rows]
        )
        optimiser.zero_grad()
        learned.mean().backward()
        optimiser.step()
    assert learned.mean() < gaussian.mean()
    drawn = sampler.draw(torch.randn(1500, 2, generator=generator(11)), labels[:1500], steps=50)
    small = drawn[:, 0] < -2
    assert float(small.float().mean()) == pytest.approx(0.3, abs=0.05)
    torch.testing.assert_close(drawn[small].mean(0), torch.tensor([-4.0, 0]), rtol=0, atol=0.2)
    torch.testing.assert_close(drawn[~small].mean(0), torch.tensor([2.0, 1]), rtol=0, atol=0.2)
    assert float(drawn[small].std(0).max()) < 0.6
    torch.testing.assert_close(drawn[~small].std(0), torch.ones(2), rtol=0, atol=0.2)


def test_unknown_class_is_refused(sampler: CodeSampler) -> None:
    assert sampler.label(None) == UNKNOWN
    with pytest.raises(InputError, match="must be one of AD, CN, got 'MCI'"):
        sampler.label("MCI")
    with pytest.raises(InputError, match="must be left out: none was learned, got 'AD'"):
        untrained(torch.randn(9, 3), torch.zeros(9, dtype=torch.long), classes=()).label("AD")


def test_codes_that_say_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="more training codes than classes, got 2"):
        measure_codes(torch.randn(2, 3), torch.tensor([1, 2]), classes=2)
    with pytest.raises(InputError, match="must differ, got equal ones"):
        measure_codes(torch.ones(5, 3), torch.zeros(5, dtype=torch.long), classes=0)
