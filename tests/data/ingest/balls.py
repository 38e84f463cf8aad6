# SPDX-License-Identifier: Apache-2.0
"""NIfTI files that are quickly made and pass for scans."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np


def save_ball(path: Path, seed: int) -> None:
    """A noisy ball, other with each seed, whose header says more than it should."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = np.indices((32, 36, 34)) - 16
    values = 400.0 * ((grid**2).sum(axis=0) < 150) + np.abs(
        np.random.default_rng(seed).normal(0, 9, grid[0].shape)
    )
    image = nib.Nifti1Image(values.astype(np.int16), np.diag([2, 2, 2, 1]))
    image.header["descrip"] = b"Petersen Wilma"
    nib.save(image, path)
