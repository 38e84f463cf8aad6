# SPDX-License-Identifier: Apache-2.0
"""Where the brain is: a mask that the cohort names, else the voxels above 0 of a scan without a skull."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ldae.data.nifti import open_scan, read_geometry, read_voxels
from ldae.data.spec import Intensity
from ldae.errors import InputError
from ldae.evaluation.material import ScanSet

MASK_COLUMN = "mask_path"
SAME_PLACE = 1e-3  # mm or mm a voxel; files of one scan differ by the rounding of float32


def brain_masks(scans: ScanSet, rows: pd.DataFrame, *, volumes: Tensor, folder: Path) -> list[Tensor | None]:
    """The brain of each scan on the pipeline's grid, bool [1, X, Y, Z]; None where nothing tells it.

    Args:
        scans: The opened material.
        rows: The scans; a column `mask_path` may name masks, NIfTI on the scans' own grids, above 0 inside.
        volumes: The same scans, preprocessed [N, 1, X, Y, Z].
        folder: What relative paths of masks are relative to.

    Raises:
        FileNotFoundError: There is no such mask.
        InputError: A mask lies on another grid than its scan, or is empty there.
    """
    named = rows[MASK_COLUMN] if MASK_COLUMN in rows.columns else [None] * len(rows)
    return [
        _brain(scans, scan, mask=None if pd.isna(mask) else folder / str(mask), volume=volume)
        for scan, mask, volume in zip(rows["path"], named, volumes, strict=True)
    ]


def _brain(scans: ScanSet, scan: str, *, mask: Path | None, volume: Tensor) -> Tensor | None:
    geometry, intensity = scans.cache.source(scan)
    if mask is None:
        return volume > 0 if intensity.brain_extracted else None
    image = open_scan(mask)
    found = read_geometry(image, mask)
    if found.shape != geometry.shape or not np.allclose(found.affine, geometry.affine, atol=SAME_PLACE):
        raise InputError(
            f"A mask must lie on the grid of its scan {scan}, got another shape or affine in {mask}. "
            "Resample the mask to the scan."
        )
    inside = (read_voxels(image, mask) > 0).astype(np.float32)
    plain = Intensity(lower=0, upper=1, clipped_share=0, brain_extracted=True)
    placed, _ = scans.pipeline.spec.place(inside, geometry, intensity=plain)
    brain = torch.from_numpy(placed > 0.5)[None]
    if not brain.any():
        raise InputError(f"A mask must hold voxels of the brain, got none on the pipeline's grid in {mask}.")
    return brain
