# SPDX-License-Identifier: Apache-2.0
"""Heads whose brains are known, and a registration for those that lie in template space already."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.processing import resample_from_to
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ldae.data.ingest.register import Registered, check_mask, dice

EXTENT_MM = (193, 221, 193)
SPACING = 1.15  # of a scan, as a share of the spacing of the template that it is made of
PAD_MM = 24


@lru_cache(maxsize=2)
def template(spacing: int) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """The template and its brain mask."""
    from nilearn import datasets

    return (
        datasets.load_mni152_template(resolution=spacing),
        datasets.load_mni152_brain_mask(resolution=spacing),
    )


def turned() -> NDArray[np.float64]:
    """Where a head may lie: turned, scaled and moved."""
    place = np.eye(4)
    turn = Rotation.from_euler("xyz", [8, -6, 5], degrees=True).as_matrix()
    place[:3, :3], place[:3, 3] = turn * [1.05, 0.97, 1.03], (6, -9, 11)
    return place


def make_head(path: Path, place: NDArray[np.float64], *, seed: int, spacing: int) -> nib.Nifti1Image:
    """Save the template in a skull and scalp, moved, with bias and noise; return where its brain is."""
    image, inside = template(spacing)
    pad, step = PAD_MM // spacing, SPACING * spacing
    mask = np.pad(np.asarray(inside.dataobj) > 0, pad)
    values = np.pad(np.asarray(image.dataobj, dtype=np.float32), pad)
    distance = spacing * ndimage.distance_transform_edt(~mask)
    head = values / values.max() * 700 + 350 * ((distance > 6) & (distance <= 14))
    affine = image.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, float(pad))
    # left is first, as a scanner may have it
    grid = np.array([[-step, 0, 0, 98], [0, step, 0, -125], [0, 0, step, -85], [0, 0, 0, 1]])
    shape = tuple(round(length / step) for length in EXTENT_MM)
    scan = resample_from_to(nib.Nifti1Image(head, place @ affine), (shape, grid), order=1)
    brain = resample_from_to(nib.Nifti1Image(mask.astype(np.uint8), place @ affine), (shape, grid), order=0)
    noise = np.abs(np.random.default_rng(seed).normal(0, 12, shape))
    bias = 1 + 0.35 * np.linspace(-1, 1, shape[0])[:, None, None]
    whole = nib.Nifti1Image((np.asarray(scan.dataobj) * bias + noise).astype(np.float32), grid)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(whole, path)
    return brain


def make_cohort(folder: Path, places: list[NDArray[np.float64]], *, spacing: int = 2) -> Path:
    """A cohort of such heads, with a true mask a scan beside it."""
    rows = []
    for number, place in enumerate(places, start=1):
        brain = make_head(folder / f"scan{number}.nii.gz", place, seed=number, spacing=spacing)
        nib.save(brain, folder / f"mask{number}.nii.gz")
        rows.append(
            {"subject": f"{number}", "session": "1", "path": f"scan{number}.nii.gz"}
            | {"diagnosis": "CN", "age": 70, "sex": "F", "mask": f"mask{number}.nii.gz"}
        )
    pd.DataFrame(rows).to_csv(folder / "cohort.csv", index=False)
    return folder / "cohort.csv"


def in_place(
    scan: Path, *, mask: NDArray[np.bool_] | None, transform: str, spacing: int, scratch: Path
) -> Registered:
    """What a registration returns for a head that lies in template space: all resampled where it is."""
    image, inside = template(spacing)
    head = nib.load(scan)
    (scratch / "transform.mat").write_text("left by a kill")
    if mask is None:
        mask = np.asarray(resample_from_to(inside, head, order=0).dataobj) > 0
    values = head.get_fdata(dtype=np.float32)
    brain = resample_from_to(nib.Nifti1Image(values * mask, head.affine), image, order=1)
    there, known = np.asarray(brain.dataobj, dtype=np.float32), np.asarray(inside.dataobj) > 0
    similarity = float(np.corrcoef(there[known], np.asarray(image.dataobj)[known])[0, 1])
    shown = resample_from_to(nib.Nifti1Image(mask.astype(np.uint8), head.affine), image, order=0)
    checked = check_mask(np.asarray(shown.dataobj) > 0, known, spacing=spacing)
    overlap = dice(there > 0.2 * there.max(), known)
    return Registered(values, mask, there, image.affine, known, overlap, similarity, *checked)
