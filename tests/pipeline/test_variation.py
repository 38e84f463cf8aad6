# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from ldae.data.scan import Scan
from ldae.errors import InputError
from ldae.pipeline import LDAEPipeline, variation_maps
from ldae.pipeline.scan_jobs import Sampling, gather_scans
from ldae.pipeline.variation import vary_scans

FAST = Sampling(steps=2, decode_steps=2)


@pytest.fixture(scope="module")
def varied(pipe: LDAEPipeline, scans: list[str]) -> list[Scan]:
    return pipe.vary(scans[0], n=4, seed=3, steps=2)


def test_maps_are_those_of_numpy(varied: list[Scan]) -> None:
    maps = variation_maps(varied)
    stacked = np.stack([scan.data.double().numpy() for scan in varied])
    np.testing.assert_allclose(maps.mean.data.numpy(), stacked.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(maps.std.data.numpy(), stacked.std(axis=0, ddof=1), atol=1e-6)
    assert maps.mean.geometry is varied[0].geometry
    assert float(maps.std.data.max()) > 0


def test_equal_scans_leave_nothing_open(varied: list[Scan]) -> None:
    maps = variation_maps([varied[0]] * 3)
    assert not maps.std.data.any()
    torch.testing.assert_close(maps.mean.data, varied[0].data)


def test_one_scan_has_no_spread(varied: list[Scan]) -> None:
    with pytest.raises(InputError, match="over 2 variations or more, got 1"):
        variation_maps(varied[:1])


def test_a_variation_does_not_depend_on_how_many_there_are(
    pipe: LDAEPipeline, scans: list[str], varied: list[Scan]
) -> None:
    fewer = pipe.vary(scans[0], n=2, seed=3, steps=2)
    for scan, other in zip(fewer, varied[:2], strict=True):
        # float32 rounds otherwise in a batch of another size: 1.06e-5 of [0, 1] at most with torch 2.8
        torch.testing.assert_close(scan.data, other.data, rtol=1e-4, atol=2e-5)
    assert not torch.allclose(varied[0].data, varied[1].data, atol=1e-3)


def test_files(pipe: LDAEPipeline, scans: list[str], tmp_path: Path) -> None:
    result = vary_scans(pipe, gather_scans(scans[:1]), out=tmp_path, n=3, seed=4, sampling=FAST)
    names = [path.name.split("desc-")[1] for path in result.paths]
    assert names == [f"variation{number}_T1w.nii.gz" for number in (1, 2, 3)]
    assert [path.name.split("desc-")[1] for path in result.maps] == [
        "variationMean_T1w.nii.gz",
        "variationStd_T1w.nii.gz",
    ]
    voxels = np.stack([nib.load(path).get_fdata() for path in result.paths])
    mean, std = (nib.load(path) for path in result.maps)
    source = nib.load(scans[0])
    assert std.shape == source.shape
    np.testing.assert_allclose(std.affine, source.affine, atol=1e-4)
    np.testing.assert_allclose(mean.get_fdata(), voxels.mean(axis=0), atol=0.5)
    # The spread is taken before the way back to the source's grid, which averages neighbours.
    inside = voxels.std(axis=0, ddof=1) > 1
    ratio = std.get_fdata()[inside] / voxels.std(axis=0, ddof=1)[inside]
    assert 0.95 < np.median(ratio) < 1.5
    document = json.loads(result.result.read_text())
    assert [(item["Seed"], item["Variation"]) for item in document["outputs"]] == [(4, 1), (4, 2), (4, 3)]
    assert [(item["Statistic"], item["Variations"]) for item in document["maps"]] == [("mean", 3), ("std", 3)]
    assert [tmp_path / item["path"] for item in document["maps"]] == result.maps


def test_one_variation_writes_no_maps(pipe: LDAEPipeline, scans: list[str], tmp_path: Path) -> None:
    result = vary_scans(pipe, gather_scans(scans[:1]), out=tmp_path, n=1, sampling=FAST)
    assert (len(result.paths), result.maps) == (1, [])
