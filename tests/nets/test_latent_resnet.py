# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from ldae.nets.latent_resnet import (
    LatentClassDenoiser,
    LatentResNet,
    LatentResNetConfig,
    Patches,
    patch_sides,
)

SIZE = (8, 10, 6)


@pytest.mark.parametrize(
    ("size", "sides"),
    [((8, 10, 8), (2, 2, 2)), ((16, 20, 16), (4, 4, 4)), ((4, 6, 7), (1, 1, 1)), ((9, 18, 40), (1, 2, 8))],
)
def test_axes_are_halved_while_even_and_longer_than_seven(
    size: tuple[int, int, int], sides: tuple[int, int, int]
) -> None:
    assert patch_sides(size) == sides


def test_patches_hold_their_own_voxels_and_come_back() -> None:
    patches, z = Patches(SIZE), torch.randn(2, 3, *SIZE)
    cut = patches(z)
    assert cut.shape == (2, 3 * 4, 4, 5, 6)
    torch.testing.assert_close(cut[0, :, 1, 2, 3], z[0, :, 2:4, 4:6, 3].flatten(), rtol=0, atol=0)
    assert torch.equal(patches.back(cut), z)


def test_both_start_from_zero_and_keep_their_shapes() -> None:
    z, t, label = torch.randn(2, 3, *SIZE), torch.tensor([0, 999]), torch.tensor([0, 2])
    assert not LatentResNet(LatentResNetConfig(), classes=4, size=SIZE)(z, t).any()
    answer = LatentClassDenoiser(LatentResNetConfig(), classes=2, size=SIZE)(z, t, label)
    assert answer.shape == z.shape
    assert not answer.any()
