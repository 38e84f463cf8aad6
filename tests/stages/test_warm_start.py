# SPDX-License-Identifier: Apache-2.0
"""The regression begins as the best linear decoder of its size, and keeps distances."""

from __future__ import annotations

import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn

from ldae.stages.warm_start import MOST_SCANS, start_at_components


def started(latents: Tensor, *, size: int) -> nn.Linear:
    layer = nn.Linear(size, latents[0].numel())
    start_at_components(layer, latents, generator=torch.Generator().manual_seed(3))
    return layer


def some_latents(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(30, 2 * 3 * 4 * 5, generator=generator) * torch.logspace(0, -2, 30)[:, None]
    return (torch.randn(count, 30, generator=generator) @ mixing).reshape(count, 2, 3, 4, 5)


def codes(layer: nn.Linear, latents: Tensor) -> Tensor:
    """What the layer wants to be given for these latents, [N, D]."""
    rows = latents.flatten(1) - latents.flatten(1).mean(0)
    return rows @ torch.linalg.pinv(layer.weight.detach()).T


@pytest.mark.parametrize("count", [50, 400])
def test_it_decodes_as_principal_components_do_from_numbers_of_unit_variance(count: int) -> None:
    """With fewer scans than a latent has numbers, and with more."""
    latents = some_latents(count)
    layer = started(latents, size=8)
    y = codes(layer, latents)
    rows = latents.flatten(1).numpy()
    pca = PCA(8, svd_solver="full").fit(rows)
    expected = torch.from_numpy(pca.inverse_transform(pca.transform(rows)) - rows.mean(0))
    torch.testing.assert_close(layer(y).detach(), expected, rtol=0, atol=2e-4)
    torch.testing.assert_close(y.std(0, correction=0), torch.ones(8), rtol=1e-3, atol=0)


@pytest.mark.parametrize("count", [50, 400])
def test_codes_differ_as_much_as_the_latents_do(count: int) -> None:
    latents = some_latents(count)
    layer = started(latents, size=8)
    y = codes(layer, latents)
    scaled = y * layer.weight.detach().norm(dim=0)
    torch.testing.assert_close(torch.pdist(scaled), torch.pdist(layer(y).detach()), rtol=1e-3, atol=1e-4)


def test_no_number_is_a_single_component() -> None:
    """Each number of the code mixes many components, the strong ones most."""
    latents = some_latents(400)
    y = codes(started(latents, size=8), latents)
    scores = torch.from_numpy(PCA(8).fit_transform(latents.flatten(1).numpy()))
    correlation = torch.corrcoef(torch.cat([y, scores], dim=1).T)[:8, 8:].square()
    assert correlation.sum(1) == pytest.approx(torch.ones(8), abs=1e-3)
    assert correlation.max() < 0.95
    assert correlation.mean(0)[0] > correlation.mean(0)[-1] * 2


def test_fewer_scans_than_numbers_are_decoded_exactly() -> None:
    latents = some_latents(6)
    layer = started(latents, size=16)
    rows = latents.flatten(1) - latents.flatten(1).mean(0)
    torch.testing.assert_close(layer(codes(layer, latents)).detach(), rows, rtol=0, atol=2e-4)


def test_of_many_scans_evenly_spaced_ones_are_used() -> None:
    latents = torch.randn(MOST_SCANS + 2, 1, 1, 1, 2)
    torch.testing.assert_close(started(latents, size=2).weight, started(latents[::2], size=2).weight)
