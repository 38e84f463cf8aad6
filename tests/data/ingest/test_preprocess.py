# SPDX-License-Identifier: Apache-2.0
"""A head of known place and bias comes to the template, and the template's mask to the head."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.processing import resample_from_to
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ldae.data.cohort import read_cohort
from ldae.data.ingest.preprocess import preprocess
from ldae.errors import InputError

SHAPE, SPACING = (84, 96, 84), 2.3


def make_head(folder: Path) -> tuple[Path, nib.Nifti1Image]:
    """The template in a skull and scalp, turned and scaled, with bias and noise; and where its brain is."""
    from nilearn import datasets

    template = datasets.load_mni152_template(resolution=2)
    inside = datasets.load_mni152_brain_mask(resolution=2)
    mask = np.pad(np.asarray(inside.dataobj) > 0, 12)
    values = np.pad(np.asarray(template.dataobj, dtype=np.float32), 12)
    distance = 2 * ndimage.distance_transform_edt(~mask)
    head = values / values.max() * 700 + 350 * ((distance > 6) & (distance <= 14))
    affine = template.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, 12.0)
    place = np.eye(4)
    turn = Rotation.from_euler("xyz", [8, -6, 5], degrees=True).as_matrix()
    place[:3, :3], place[:3, 3] = turn * [1.05, 0.97, 1.03], (6, -9, 11)
    grid = np.diag([SPACING, SPACING, SPACING, 1.0])
    grid[:3, 3] = (-95, -125, -85)
    scan = resample_from_to(nib.Nifti1Image(head, place @ affine), (SHAPE, grid), order=1)
    brain = resample_from_to(nib.Nifti1Image(mask.astype(np.uint8), place @ affine), (SHAPE, grid), order=0)
    noise = np.abs(np.random.default_rng(0).normal(0, 12, SHAPE))
    bias = 1 + 0.35 * np.linspace(-1, 1, SHAPE[0])[:, None, None]
    whole = nib.Nifti1Image((np.asarray(scan.dataobj) * bias + noise).astype(np.float32), grid)
    nib.save(whole, folder / "scan.nii.gz")
    row = {"subject": "1", "session": "1", "path": "scan.nii.gz", "diagnosis": "CN", "age": 70}
    pd.DataFrame([row]).to_csv(folder / "cohort.csv", index=False)
    return folder / "cohort.csv", brain


@pytest.mark.slow
def test_the_brain_is_found_and_brought_to_the_template(tmp_path: Path) -> None:
    pytest.importorskip("ants", reason="the extra `prep` is not installed")
    cohort, truth = make_head(tmp_path)
    table = preprocess(cohort, tmp_path / "out", spacing=2)
    assert table["reason"].tolist() == [""]
    assert table["dice"].iloc[0] > 0.95
    (own,) = (tmp_path / "out").rglob("*_desc-brain_mask.nii.gz")
    found = np.asarray(resample_from_to(nib.load(own), truth, order=0).dataobj) > 0
    brain = np.asarray(truth.dataobj) > 0
    assert 2 * (found & brain).sum() / (found.sum() + brain.sum()) > 0.95
    result = Path(read_cohort(tmp_path / "out" / "cohort.csv")["path"].iloc[0])
    assert np.mean(nib.load(result).get_fdata() == 0) > 0.3  # nothing but the brain
    before = result.stat().st_mtime_ns
    preprocess(cohort, tmp_path / "out", spacing=2)
    assert result.stat().st_mtime_ns == before


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ants", None)
    with pytest.raises(InputError, match=r"needs antspyx. Install it with: pip install 'ldae\[prep\]'"):
        preprocess(tmp_path / "cohort.csv", tmp_path / "out")
