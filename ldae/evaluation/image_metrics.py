# SPDX-License-Identifier: Apache-2.0
"""Image metrics of volumes in [0, 1], one value a scan.

SSIM is Wang et al. 2004 with a Gaussian window, computed where the window lies wholly inside the volume:
no padding, so that no made-up border counts. MONAI's `SSIMMetric` gives the same number through a dense 3D
convolution; the window is separable, which saves most of the work.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ldae.errors import InputError

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
LUMINANCE_CONSTANT = 0.01**2
CONTRAST_CONSTANT = 0.03**2
MS_SSIM_WINDOW = 7
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, finest level first
MS_SSIM_LEVELS = {112: 5, 28: 3}  # smallest side in voxels: levels


def mse(image: Tensor, reference: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of each scan [B].

    Args:
        image: Volumes [B, 1, X, Y, Z] in [0, 1].
        reference: Volumes of the same shape.
        mask: Where to average, [B, 1, X, Y, Z], true inside.

    Raises:
        InputError: Shapes differ or are not [B, 1, X, Y, Z], or a mask is empty.
    """
    first, second = _check_pair(image, reference)
    return _mean((first - second).square(), mask)


def psnr(image: Tensor, reference: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio of each scan in dB [B], for a data range of 1; infinite for equal scans.

    Args:
        image: Volumes [B, 1, X, Y, Z] in [0, 1].
        reference: Volumes of the same shape.
        mask: Where to average the squared error, [B, 1, X, Y, Z], true inside.

    Raises:
        InputError: Shapes differ or are not [B, 1, X, Y, Z], or a mask is empty.
    """
    return -10 * torch.log10(mse(image, reference, mask=mask))


def ssim(
    image: Tensor, reference: Tensor, *, mask: Tensor | None = None, window: int = SSIM_WINDOW
) -> Tensor:
    """Structural similarity of each scan [B] (Wang et al. 2004; Gaussian window of sigma 1.5, data range 1).

    Args:
        image: Volumes [B, 1, X, Y, Z] in [0, 1].
        reference: Volumes of the same shape.
        mask: Where to average, [B, 1, X, Y, Z], true inside; windows are centred on these voxels.
        window: Side of the window in voxels, odd.

    Raises:
        InputError: Shapes differ, a side is shorter than the window, or a mask is empty away from the border.
    """
    similarity, _ = ssim_map(image, reference, window=window)
    return _mean(similarity, mask, edge=window // 2)


def ms_ssim_levels(size: tuple[int, ...]) -> int:
    """Levels of MS-SSIM for volumes of this size: 5 where every side has 112 voxels, else 3.

    Raises:
        InputError: A side has fewer than 28 voxels, too few for three levels.
    """
    for side, levels in MS_SSIM_LEVELS.items():
        if min(size) >= side:
            return levels
    raise InputError(f"MS-SSIM must have at least {min(MS_SSIM_LEVELS)} voxels a side, got {size}.")


def ms_ssim(image: Tensor, reference: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Multi-scale structural similarity of each scan [B] (Wang et al. 2003; window 7, sigma 1.5).

    Levels as `ms_ssim_levels` says, their weights rescaled to sum to 1. A negative level counts as 0.

    Args:
        image: Volumes [B, 1, X, Y, Z] in [0, 1].
        reference: Volumes of the same shape.
        mask: Where to average at each level, [B, 1, X, Y, Z], true inside; at the coarser levels a window
            counts by the share of its central voxel that is inside.

    Raises:
        InputError: Shapes differ or are too small, or a mask is empty away from the border.
    """
    first, second = _check_pair(image, reference)
    levels = ms_ssim_levels(tuple(first.shape[2:]))
    weights = torch.tensor(MS_SSIM_WEIGHTS[:levels], device=first.device)
    weights = weights / weights.sum()
    factors = []
    for level in range(levels):
        similarity, contrast = ssim_map(first, second, window=MS_SSIM_WINDOW)
        last = level == levels - 1
        factor = similarity if last else contrast
        factors.append(_mean(factor, mask, edge=MS_SSIM_WINDOW // 2).relu())
        if not last:
            first, second = functional.avg_pool3d(first, 2), functional.avg_pool3d(second, 2)
            mask = None if mask is None else functional.avg_pool3d(mask.float(), 2)
    return (torch.stack(factors, dim=1) ** weights).prod(dim=1)


def ssim_map(image: Tensor, reference: Tensor, *, window: int = SSIM_WINDOW) -> tuple[Tensor, Tensor]:
    """SSIM and its contrast-structure factor at each window that lies inside the volume.

    Args:
        image: Volumes [B, 1, X, Y, Z] in [0, 1].
        reference: Volumes of the same shape.
        window: Side w of the window in voxels, odd.

    Returns:
        Two maps [B, 1, X - w + 1, Y - w + 1, Z - w + 1].

    Raises:
        InputError: Shapes differ, or a side is shorter than the window.
    """
    x, y = _check_pair(image, reference)
    if min(x.shape[2:]) < window:
        raise InputError(f"Volumes must have at least {window} voxels a side, got {tuple(x.shape[2:])}.")
    mean_x, mean_y = _blur(x, window), _blur(y, window)
    variance_x = _blur(x * x, window) - mean_x**2
    variance_y = _blur(y * y, window) - mean_y**2
    covariance = _blur(x * y, window) - mean_x * mean_y
    contrast = (2 * covariance + CONTRAST_CONSTANT) / (variance_x + variance_y + CONTRAST_CONSTANT)
    luminance = (2 * mean_x * mean_y + LUMINANCE_CONSTANT) / (mean_x**2 + mean_y**2 + LUMINANCE_CONSTANT)
    return luminance * contrast, contrast


def _blur(volume: Tensor, window: int) -> Tensor:
    offsets = torch.arange(window, dtype=torch.float64) - window // 2
    kernel = torch.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    weights = (kernel / kernel.sum()).tolist()
    for axis in (2, 3, 4):
        # Shifted sums: for a single channel several times faster than a convolution call.
        inside = volume.shape[axis] - window + 1
        blurred = weights[0] * volume.narrow(axis, 0, inside)
        for offset in range(1, window):
            blurred = blurred.add_(volume.narrow(axis, offset, inside), alpha=weights[offset])
        volume = blurred
    return volume


def _mean(values: Tensor, mask: Tensor | None, *, edge: int = 0) -> Tensor:
    """Mean of each scan [B]; a mask is cropped by `edge` voxels on every side."""
    if mask is None:
        return values.flatten(1).mean(1)
    x, y, z = (slice(edge, side - edge) for side in mask.shape[-3:])
    inside = mask[..., x, y, z].to(values)
    if inside.shape != values.shape:
        raise InputError(f"Mask must have the shape of the volumes, got {tuple(mask.shape)}.")
    count = inside.flatten(1).sum(1)
    if (count == 0).any():
        raise InputError(f"Mask must hold voxels {edge} voxels away from the border, got none.")
    return (values * inside).flatten(1).sum(1) / count


def _check_pair(image: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    if image.ndim != 5 or image.shape[1] != 1 or image.shape != reference.shape:
        raise InputError(
            "Volumes must have one shape [B, 1, X, Y, Z], got "
            f"{tuple(image.shape)} and {tuple(reference.shape)}."
        )
    return image.float(), reference.float()
