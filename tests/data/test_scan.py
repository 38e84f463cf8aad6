# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import aff2axcodes

from ldae import __version__
from ldae.data.nifti import Geometry
from ldae.data.scan import Scan
from ldae.data.spec import Intensity, PreprocessingSpec
from ldae.errors import InputError

SPEC = PreprocessingSpec(spacing=(5, 5, 5), size=(32, 40, 32))
Blob = Callable[..., Path]


def oblique(spacing: tuple[float, float, float], codes: str = "RAS") -> np.ndarray:
    """Axes named by `codes`, tilted by 20 and 10 degrees."""
    c, s, k, m = np.cos(np.pi / 9), np.sin(np.pi / 9), np.cos(np.pi / 18), np.sin(np.pi / 18)
    tilt = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, k, -m], [0, m, k]])
    return turned(spacing, codes, tilt)


def turned(spacing: tuple[float, float, float], codes: str, tilt: np.ndarray | None = None) -> np.ndarray:
    affine = np.eye(4)
    for column, (code, edge) in enumerate(zip(codes, spacing, strict=True)):
        axis = next(index for index, pair in enumerate(("LR", "PA", "IS")) if code in pair)
        affine[:3, column] = 0
        affine[axis, column] = edge if code in "RAS" else -edge
    if tilt is not None:
        affine[:3, :3] = tilt @ affine[:3, :3]
    affine[:3, 3] = [-41.5, 17.25, 63.125]
    return affine


FRAMES = {
    "RAS": turned((4, 5, 6), "RAS"),
    "LPS": turned((5, 5, 5), "LPS"),
    "LIA": turned((3, 3, 3), "LIA"),
    "ASL": turned((4, 3.5, 5.5), "ASL"),
    "oblique": oblique((4, 4.5, 5)),
    "oblique LIA": oblique((4, 4, 4), "LIA"),
}
SHAPE = (36, 33, 38)


def qform_only(image: nib.Nifti1Image) -> None:
    image.set_qform(image.affine, code=3)
    image.set_sform(None, code=0)


def sform_only(image: nib.Nifti1Image) -> None:
    image.set_qform(None, code=0)
    image.set_sform(image.affine, code=4)


def two_frames(image: nib.Nifti1Image) -> None:
    """A qform that says something else than the sform; both must come back."""
    image.set_sform(image.affine, code=2)
    image.set_qform(np.diag([2.0, 2.0, 2.0, 1.0]), code=1)
    image.header.set_xyzt_units("mm", "msec")


def scaled(image: nib.Nifti1Image) -> None:
    image.set_data_dtype(np.int16)
    image.header.set_slope_inter(0.25, -3)


HEADERS = {"qform": qform_only, "sform": sform_only, "both": two_frames, "scaled": scaled}


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("header", HEADERS)
def test_affine_and_header_come_back(blob: Blob, tmp_path: Path, name: str, frame: str, header: str) -> None:
    path = blob(name, affine=FRAMES[frame], shape=SHAPE, header=HEADERS[header])
    source = nib.load(path)
    result = nib.load(SPEC.apply(path).save(tmp_path / f"out-{name}"))
    assert result.shape == source.shape
    np.testing.assert_allclose(result.affine, source.affine, atol=1e-4)
    for field in ("qform_code", "sform_code", "xyzt_units"):
        assert result.header[field] == source.header[field], field
    for field in ("srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d", "qoffset_x"):
        np.testing.assert_array_equal(result.header[field], source.header[field], err_msg=field)
    np.testing.assert_array_equal(result.header["pixdim"][:4], source.header["pixdim"][:4])
    assert result.get_data_dtype() == np.float32
    assert result.header["descrip"].item().decode() == f"ldae {__version__}"


@pytest.mark.parametrize("frame", FRAMES)
def test_the_blob_stays_where_it_is_in_the_world(blob: Blob, tmp_path: Path, frame: str) -> None:
    affine = FRAMES[frame]
    middle = affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2) + affine[:3, 3]
    place = middle + np.array([11, -8, 6])
    path = blob(affine=affine, shape=SHAPE, centre=tuple(place), cut=100)
    scan = SPEC.apply(path)
    assert "".join(aff2axcodes(scan.affine)) == "RAS"
    np.testing.assert_allclose(centroid(scan.data[0].numpy(), scan.affine), place, atol=0.5)
    result = nib.load(scan.save(tmp_path / "out.nii"))
    np.testing.assert_allclose(centroid(np.asarray(result.dataobj), result.affine), place, atol=0.5)


def centroid(voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Centre of mass in the world, from the sums along the axes."""
    sums = [voxels.sum(axis=tuple({0, 1, 2} - {axis}), dtype=float) for axis in range(3)]
    index = [float(np.arange(len(values)) @ values / values.sum()) for values in sums]
    return affine[:3, :3] @ index + affine[:3, 3]


@pytest.mark.parametrize("frame", FRAMES)
def test_smooth_content_survives_the_round_trip(blob: Blob, tmp_path: Path, frame: str) -> None:
    """Blob of 20 mm sigma through 5 mm voxels: within 8 % of the range, 1 % on average."""
    path = blob(affine=FRAMES[frame], shape=SHAPE)
    scan = SPEC.apply(path)
    assert scan.intensity is not None
    source = np.asarray(nib.load(path).dataobj).clip(0, scan.intensity.upper)
    result = np.asarray(nib.load(scan.save(tmp_path / "out.nii.gz")).dataobj)
    assert np.abs(result - source).max() < 0.08 * scan.intensity.upper
    assert np.abs(result - source).mean() < 0.01 * scan.intensity.upper


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LIA"])
def test_voxels_of_the_right_spacing_come_back_exactly(blob: Blob, tmp_path: Path, codes: str) -> None:
    path = blob(affine=turned((5, 5, 5), codes), shape=(31, 33, 28), kind=np.int16, background=11)
    scan = SPEC.apply(path)
    assert scan.intensity is not None
    source = np.asarray(nib.load(path).dataobj).astype(np.float32)
    result = np.asarray(nib.load(scan.save(tmp_path / "out.nii")).dataobj)
    expected = source.clip(scan.intensity.lower, scan.intensity.upper)
    np.testing.assert_allclose(result, expected, atol=1e-3)


@pytest.mark.parametrize("cut", [5.0, 0.0])
def test_beyond_the_field_of_view_lies_the_background(blob: Blob, tmp_path: Path, cut: float) -> None:
    """A head (cut 0) has a background above 0, a brain alone one of exactly 0."""
    path = blob(shape=(60, 60, 60), cut=cut, background=0.0 if cut else 7.0)
    scan = SPEC.apply(path)
    assert scan.intensity is not None
    assert scan.intensity.brain_extracted is bool(cut)
    assert scan.intensity.lower == (0 if cut else pytest.approx(7, abs=0.1))
    ones = np.asarray(nib.load(scan.like(torch.ones_like(scan.data)).save(tmp_path / "out.nii")).dataobj)
    seen = np.zeros(ones.shape, dtype=bool)
    seen[14:46, 10:50, 14:46] = True
    np.testing.assert_allclose(ones[seen], scan.intensity.upper, rtol=1e-6)
    np.testing.assert_allclose(ones[~seen], scan.intensity.lower, rtol=1e-6)


def test_pipeline_grid_and_scans_without_a_source(blob: Blob, tmp_path: Path) -> None:
    scan = SPEC.apply(blob(affine=FRAMES["oblique LIA"], shape=SHAPE))
    result = nib.load(scan.save(tmp_path / "grid.nii.gz", on="pipeline"))
    np.testing.assert_allclose(result.affine, scan.affine, atol=1e-4)
    assert scan.intensity is not None
    np.testing.assert_allclose(
        np.asarray(result.dataobj), scan.data[0].numpy() * scan.intensity.upper, rtol=1e-5
    )
    assert (int(result.header["qform_code"]), int(result.header["sform_code"])) == (2, 2)
    free = Scan(data=scan.data, affine=scan.affine, spec=SPEC)
    values = np.asarray(nib.load(free.save(tmp_path / "free.nii")).dataobj)
    np.testing.assert_array_equal(values, scan.data[0].numpy())


@pytest.mark.parametrize("kind", ["big endian", "NIfTI-2"])
def test_other_headers(blob: Blob, tmp_path: Path, kind: str) -> None:
    path = blob(
        "scan.nii", affine=FRAMES["LPS"], image=nib.Nifti2Image if kind == "NIfTI-2" else nib.Nifti1Image
    )
    if kind == "big endian":
        image = nib.load(path)
        header = image.header.as_byteswapped(">")
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj).copy(), image.affine, header), path)
        assert nib.load(path).header.endianness == ">"
    result = nib.load(SPEC.apply(path).save(tmp_path / "out.nii"))
    assert type(result) is type(nib.load(path))
    np.testing.assert_allclose(result.affine, FRAMES["LPS"], atol=1e-4)
    assert np.asarray(result.dataobj).max() > 800


def test_geometry_and_intensity_as_json(blob: Blob) -> None:
    import json

    scan = SPEC.apply(blob(affine=FRAMES["oblique"]))
    assert scan.geometry is not None
    assert scan.intensity is not None
    document = json.loads(json.dumps([scan.geometry.to_dict(), scan.intensity.to_dict()]))
    geometry = Geometry.from_dict(document[0])
    assert (geometry.shape, geometry.header, geometry.path) == (
        scan.geometry.shape,
        scan.geometry.header,
        scan.geometry.path,
    )
    np.testing.assert_array_equal(geometry.affine, scan.geometry.affine)
    assert Intensity.from_dict(document[1]) == scan.intensity


def test_like_keeps_the_way_back(blob: Blob) -> None:
    scan = SPEC.apply(blob())
    other = scan.like(torch.zeros(32, 40, 32))
    assert other.data.shape == scan.data.shape
    assert other.geometry is scan.geometry
    with pytest.raises(InputError, match=r"shape \(1, 32, 40, 32\), got \(1, 2, 2, 2\)"):
        scan.like(torch.zeros(1, 2, 2, 2))


def test_outputs_that_are_refused(blob: Blob, tmp_path: Path) -> None:
    path = blob()
    before = path.read_bytes()
    scan = SPEC.apply(path)
    with pytest.raises(InputError, match="must not replace its source"):
        scan.save(path)
    assert path.read_bytes() == before
    with pytest.raises(InputError, match=r"must end in \.nii or \.nii\.gz, got 'out\.png'"):
        scan.save(tmp_path / "out.png")
    with pytest.raises(InputError, match="on must be 'source' or 'pipeline', got 'atlas'"):
        scan.save(tmp_path / "out.nii", on="atlas")  # type: ignore[arg-type]


def test_real_label_map_keeps_left_and_right(real_data: Path, tmp_path: Path) -> None:
    """Left lateral ventricle (label 4) of an L-I-A file lies at negative world x, before and after."""
    path = real_data / "label_maps" / "training_seg_01.nii.gz"
    labels = nib.load(path)
    voxels = np.asarray(labels.dataobj).astype(np.uint8)[64:192, 64:192, 64:192]
    affine = labels.slicer[64:192, 64:192, 64:192].affine
    left = (voxels == 4) * np.uint8(100)
    nib.save(nib.Nifti1Image(left, affine), tmp_path / "left.nii.gz")
    place = centroid(left, affine)
    assert place[0] < centroid(voxels == 43, affine)[0]
    scan = PreprocessingSpec(spacing=(2, 2, 2), size=(64, 64, 64)).apply(tmp_path / "left.nii.gz")
    np.testing.assert_allclose(centroid(scan.data[0].numpy(), scan.affine), place, atol=0.2)
    result = nib.load(scan.save(tmp_path / "out.nii.gz"))
    np.testing.assert_allclose(centroid(np.asarray(result.dataobj), result.affine), place, atol=0.2)
    np.testing.assert_array_equal(result.affine, affine)
