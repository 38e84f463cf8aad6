# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from judged_run import SIZE, SPACING

from ldae.errors import InputError
from ldae.evaluation.brain import brain_masks
from ldae.evaluation.material import ScanSet


def write_mask(path: Path, *, size: tuple[int, ...] = SIZE, inside: bool = True) -> Path:
    voxels = np.zeros(size, dtype=np.uint8)
    voxels[3:7, 4:10, 5:8] = inside
    nib.save(nib.Nifti1Image(voxels, np.diag([SPACING, SPACING, SPACING, 1])), path)
    return path


def test_without_a_mask_it_is_what_lies_above_zero(scan_set: ScanSet, tmp_path: Path) -> None:
    rows = scan_set.rows[:2]
    volumes = scan_set.volumes(rows)
    found = brain_masks(scan_set, rows, volumes=volumes, folder=tmp_path)
    assert torch.equal(torch.stack(found), volumes > 0)


def test_a_named_mask_is_brought_onto_the_grid(scan_set: ScanSet, tmp_path: Path) -> None:
    write_mask(tmp_path / "mask.nii.gz")
    rows = scan_set.rows[:2].assign(mask_path=["mask.nii.gz", None])
    volumes = scan_set.volumes(rows)
    named, other = brain_masks(scan_set, rows, volumes=volumes, folder=tmp_path)
    assert named.shape == (1, *SIZE)
    assert named.sum() == 4 * 6 * 3
    assert named[0, 3:7, 4:10, 5:8].all()
    assert torch.equal(other, volumes[1] > 0)


def test_a_head_with_its_skull_has_none(
    scan_set: ScanSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = type(scan_set.cache).source

    def whole_head(cache, path):
        geometry, intensity = source(cache, path)
        return geometry, replace(intensity, brain_extracted=False)

    monkeypatch.setattr(type(scan_set.cache), "source", whole_head)
    rows = scan_set.rows[:2]
    assert brain_masks(scan_set, rows, volumes=scan_set.volumes(rows), folder=tmp_path) == [None, None]


def test_faults_of_masks_are_named(scan_set: ScanSet, tmp_path: Path) -> None:
    rows = scan_set.rows[:1].assign(mask_path="mask.nii.gz")
    volumes = scan_set.volumes(rows)
    write_mask(tmp_path / "mask.nii.gz", size=(12, 24, 16))
    with pytest.raises(InputError, match=r"must lie on the grid of its scan .*mask\.nii\.gz"):
        brain_masks(scan_set, rows, volumes=volumes, folder=tmp_path)
    write_mask(tmp_path / "mask.nii.gz", inside=False)
    with pytest.raises(InputError, match="must hold an image"):
        brain_masks(scan_set, rows, volumes=volumes, folder=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"other\.nii\.gz"):
        brain_masks(scan_set, rows.assign(mask_path="other.nii.gz"), volumes=volumes, folder=tmp_path)
