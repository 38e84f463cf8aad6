# SPDX-License-Identifier: Apache-2.0
"""Scans with known content, written wherever a test wants them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
Blob = Callable[..., Path]


@pytest.fixture
def real_data() -> Path:
    """The folder of real scans and label maps that some machines have."""
    folder = Path(os.environ.get("LDAE_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real scans in {folder}; set LDAE_TEST_DATA")
    return folder


@pytest.fixture
def blob(tmp_path: Path) -> Blob:
    """Writes a Gaussian blob (sigma 20 mm, height 1000, 0 below `cut`) at a place in the world."""

    def write(
        name: str = "scan.nii.gz",
        *,
        affine: np.ndarray | None = None,
        shape: tuple[int, int, int] = (32, 40, 32),
        centre: tuple[float, float, float] | None = None,
        background: float = 0.0,
        cut: float = 5.0,
        kind: type = np.float32,
        header: Callable[[nib.Nifti1Image], None] | None = None,
        image: type = nib.Nifti1Image,
    ) -> Path:
        affine = np.diag([5.0, 5.0, 5.0, 1.0]) if affine is None else affine
        middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
        place = middle if centre is None else np.asarray(centre)
        index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
        world = index @ affine[:3, :3].T + affine[:3, 3]
        value = 1000 * np.exp(-((world - place) ** 2).sum(-1) / (2 * 20.0**2))
        value = np.where(value > cut, value, 0) + background
        result = image(value.astype(kind), affine)
        if header is not None:
            header(result)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(result, path)
        return path

    return write
