# SPDX-License-Identifier: Apache-2.0
"""True scans of a synthetic cohort on the pipeline's grid, and how near an image comes to them, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldae.data.phantom_factors import Factors
from ldae.data.phantom_truth import KnownCohort
from ldae.evaluation.image_metrics import SSIM_WINDOW, ssim_map
from ldae.evaluation.material import ScanSet

CHANGED = 0.05  # of the intensity range: more than noise and interpolation, less than any edge that moves


@dataclass(frozen=True)
class Truth:
    """What some scans would have been.

    Attributes:
        volumes: [N, 1, X, Y, Z] in [0, 1], each with the intensity scale of the scan that it belongs to.
        ventricle_ml: Their known ventricle volumes [N].
    """

    volumes: Tensor
    ventricle_ml: NDArray[np.float64]


@dataclass(frozen=True)
class Regions:
    """Where to look, [N, 1, X, Y, Z] of bool each.

    Attributes:
        changed: Voxels that truly differ between the scan and what it would have been.
        rest: The rest of the brain.
    """

    changed: Tensor
    rest: Tensor

    @classmethod
    def between(cls, scans: Tensor, truth: Tensor) -> Regions:
        """From scans and true scans with the same noise [N, 1, X, Y, Z]."""
        changed = (truth - scans).abs() > CHANGED
        return cls(changed, ((scans > 0) | (truth > 0)) & ~changed)


def render_truth(
    scans: ScanSet,
    known: KnownCohort,
    *,
    rows: pd.DataFrame,
    factors: Sequence[Factors],
    same_scale: bool = True,
) -> Truth:
    """Scans with other factors, preprocessed as the scans in these rows.

    Args:
        scans: The opened material.
        known: The cohort behind it.
        rows: A scan of the same subject for each.
        factors: What to render.
        same_scale: Take the intensity scale of these scans, rather than one from the new voxels: right where
            the acquisition is the same.
    """
    rendered = known.render(factors)
    volumes = []
    for path, made in zip(rows["path"], rendered, strict=True):
        geometry, intensity = scans.cache.source(path)
        if not same_scale:
            voxel_ml = abs(float(np.linalg.det(geometry.affine[:3, :3]))) / 1000
            intensity = scans.pipeline.spec.intensity(made.voxels, path=path, voxel_ml=voxel_ml)
        placed, _ = scans.pipeline.spec.place(made.voxels, geometry, intensity=intensity)
        # Rounded as the cache rounds, so that a scan rendered again is the very same.
        volumes.append(torch.from_numpy(placed.astype(np.float16).astype(np.float32))[None])
    return Truth(torch.stack(volumes), np.array([made.ventricle_ml for made in rendered]))


def compare(image: Tensor, truth: Tensor, *, unchanged: Tensor, regions: Regions) -> dict[str, NDArray[Any]]:
    """Likeness to the truth, in the changed region and as a whole, and movement elsewhere; [N] each.

    Args:
        image: Volumes [N, 1, X, Y, Z] in [0, 1].
        truth: What they should be.
        unchanged: The same rendering before anything was changed.
        regions: Where the truth changed.
    """
    similarity, _ = ssim_map(image, truth)
    edge = SSIM_WINDOW // 2
    inner = regions.changed[..., edge:-edge, edge:-edge, edge:-edge]
    error = (image - truth).square()
    found = {
        "ssim": similarity.flatten(1).mean(1),
        "mse": error.flatten(1).mean(1),
        "ssim_changed": mean_within(similarity, inner),
        "mse_changed": mean_within(error, regions.changed),
        "mse_rest": mean_within(error, regions.rest),
        "moved_rest": mean_within((image - unchanged).abs(), regions.rest),
    }
    return {name: value.double().numpy() for name, value in found.items()}


def mean_within(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over a mask, per scan [N]; 0 where the mask is empty."""
    inside = mask.to(values).flatten(1)
    total: Tensor = (values.flatten(1) * inside).sum(1) / inside.sum(1).clamp(min=1)
    return total
