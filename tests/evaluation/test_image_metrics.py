# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from ldae.errors import InputError
from ldae.evaluation.image_metrics import ms_ssim, ms_ssim_levels, mse, psnr, ssim, ssim_map


def volumes(*size: int, noise: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.avg_pool3d(torch.rand(3, 1, *size, generator=generator), 3, 1, 1)
    strength = noise * torch.tensor([0.0, 1.0, 3.0]).view(3, 1, 1, 1, 1)
    return (smooth + strength * torch.randn(smooth.shape, generator=generator)).clamp(0, 1), smooth


@pytest.mark.parametrize("size", [(16, 24, 16), (32, 40, 32)])
def test_ssim_equals_monai(size: tuple[int, ...]) -> None:
    from monai.metrics import SSIMMetric

    image, reference = volumes(*size)
    expected = SSIMMetric(spatial_dims=3, win_size=11, kernel_sigma=1.5, data_range=1.0)(image, reference)
    torch.testing.assert_close(ssim(image, reference), expected[:, 0], atol=2e-5, rtol=0)


def test_ms_ssim_equals_monai() -> None:
    from monai.metrics import MultiScaleSSIMMetric

    weights = torch.tensor([0.0448, 0.2856, 0.3001])
    image, reference = volumes(32, 40, 32)
    expected = MultiScaleSSIMMetric(
        spatial_dims=3, kernel_size=7, kernel_sigma=1.5, weights=(weights / weights.sum()).tolist()
    )(image, reference)
    torch.testing.assert_close(ms_ssim(image, reference), expected[:, 0], atol=2e-5, rtol=0)


def test_ssim_of_constant_volumes_is_the_luminance_term() -> None:
    image, reference = torch.full((1, 1, 12, 12, 12), 0.5), torch.full((1, 1, 12, 12, 12), 0.8)
    expected = (2 * 0.5 * 0.8 + 1e-4) / (0.5**2 + 0.8**2 + 1e-4)
    assert ssim(image, reference).item() == pytest.approx(expected, abs=1e-4)


def test_ssim_of_a_scaled_volume_in_closed_form() -> None:
    # One window over x and a x: means a m and m, covariance a s, variances a^2 s and s.
    x = torch.rand(1, 1, 11, 11, 11, generator=torch.Generator().manual_seed(0))
    offsets = torch.arange(11) - 5
    bell = torch.exp(-(offsets**2) / (2 * 1.5**2))
    weight = torch.einsum("x,y,z->xyz", bell, bell, bell)
    weight = weight / weight.sum()
    mean = (weight * x).sum()
    variance = (weight * x**2).sum() - mean**2
    scale = 0.6
    luminance = (2 * scale * mean**2 + 1e-4) / ((1 + scale**2) * mean**2 + 1e-4)
    contrast = (2 * scale * variance + 9e-4) / ((1 + scale**2) * variance + 9e-4)
    assert ssim(scale * x, x).item() == pytest.approx((luminance * contrast).item(), abs=1e-5)
    assert ssim_map(x, x)[0].shape == (1, 1, 1, 1, 1)


def test_a_scan_scores_the_same_in_any_batch() -> None:
    image, reference = volumes(32, 40, 32)
    for metric in (ssim, ms_ssim, psnr, mse):
        together = metric(image, reference)
        alone = torch.cat([metric(image[i : i + 1], reference[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(together, alone)
        assert together.shape == (3,)


def test_equal_scans_and_growing_noise() -> None:
    image, reference = volumes(32, 40, 32)
    for metric in (ssim, ms_ssim):
        values = metric(image, reference)
        assert values[0].item() == pytest.approx(1, abs=1e-4)
        assert values[0] > values[1] > values[2]
    assert psnr(image, reference)[0] == float("inf")


def test_psnr_and_mse_in_closed_form() -> None:
    reference = torch.rand(2, 1, 4, 4, 4) / 2
    shifted = reference + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1, 1)
    torch.testing.assert_close(mse(shifted, reference), torch.tensor([0.01, 0.0001]), rtol=1e-4, atol=0)
    torch.testing.assert_close(psnr(shifted, reference), torch.tensor([20.0, 40.0]), rtol=1e-4, atol=0)


def test_errors_inside_a_mask_in_closed_form() -> None:
    reference = torch.full((1, 1, 4, 4, 4), 0.5)
    image = reference.clone()
    image[..., :2] += 0.1
    image[..., 2:] += 0.4
    mask = torch.zeros_like(image, dtype=torch.bool)
    mask[..., :2] = True
    assert mse(image, reference, mask=mask).item() == pytest.approx(0.01, rel=1e-4)
    assert psnr(image, reference, mask=mask).item() == pytest.approx(20, rel=1e-4)
    with pytest.raises(InputError, match="Mask must hold voxels"):
        mse(image, reference, mask=torch.zeros_like(mask))


def test_half_precision_is_scored_in_single() -> None:
    image, reference = (x.half() for x in volumes(16, 24, 16))
    torch.testing.assert_close(ssim(image, reference), ssim(image.float(), reference.float()))
    assert psnr(image, reference).dtype == torch.float32


def test_mask_restricts_the_mean() -> None:
    image, reference = volumes(32, 40, 32)
    spoiled = image.clone()
    spoiled[..., :8] = 0
    mask = torch.zeros_like(image, dtype=torch.bool)
    mask[:, :, 10:20, 10:20, 14:24] = True
    torch.testing.assert_close(
        ssim(spoiled, reference, mask=mask), ssim(image, reference, mask=mask), atol=1e-6, rtol=0
    )
    assert (ssim(spoiled, reference) < ssim(image, reference)).all()
    everywhere = torch.ones_like(mask)
    torch.testing.assert_close(ssim(image, reference, mask=everywhere), ssim(image, reference))


def test_masks_of_each_level_restrict_ms_ssim() -> None:
    generator = torch.Generator().manual_seed(0)
    reference = torch.nn.functional.avg_pool3d(torch.rand(2, 1, 48, 48, 48, generator=generator), 3, 1, 1)
    image = (reference + 0.05 * torch.randn(reference.shape, generator=generator)).clamp(0, 1)
    everywhere = torch.ones_like(image, dtype=torch.bool)
    torch.testing.assert_close(ms_ssim(image, reference, mask=everywhere), ms_ssim(image, reference))
    mask = torch.zeros_like(everywhere)
    mask[..., 26:] = True
    spoiled = image.clone()
    spoiled[..., :8] = 0
    inside = ms_ssim(spoiled, reference, mask=mask)
    assert (inside > ms_ssim(spoiled, reference) + 0.05).all()


@pytest.mark.parametrize(
    ("size", "levels"), [((128, 160, 128), 5), ((112, 112, 112), 5), ((111, 160, 128), 3), ((32, 40, 32), 3)]
)
def test_levels_follow_the_shortest_side(size: tuple[int, ...], levels: int) -> None:
    assert ms_ssim_levels(size) == levels


def test_five_levels_run() -> None:
    image = torch.rand(1, 1, 112, 112, 112, generator=torch.Generator().manual_seed(0))
    assert ms_ssim(image, image).item() == pytest.approx(1, abs=1e-4)


def test_faults_are_named() -> None:
    image, reference = volumes(16, 24, 16)
    with pytest.raises(InputError, match=r"one shape \[B, 1, X, Y, Z\], got \(3, 16, 24, 16\)"):
        ssim(image[:, 0], reference)
    with pytest.raises(InputError, match=r"at least 11 voxels a side, got \(10, 24, 16\)"):
        ssim(image[:, :, :10], reference[:, :, :10])
    with pytest.raises(InputError, match=r"at least 28 voxels a side, got \(16, 24, 16\)"):
        ms_ssim(image, reference)
    with pytest.raises(InputError, match="5 voxels away from the border, got none"):
        ssim(image, reference, mask=torch.zeros_like(image))
    with pytest.raises(InputError, match="Mask must have the shape"):
        ssim(image, reference, mask=torch.ones(3, 1, 20, 24, 16))
