# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldae.data.nifti import open_scan, read_voxels
from ldae.data.resample import Grid, fit_grid, inside, resample, to_ras, voxels_from_ras, voxels_to_ras
from ldae.data.spec import PreprocessingSpec
from ldae.errors import CheckpointError, InputError

SPEC = PreprocessingSpec(spacing=(5, 5, 5), size=(32, 40, 32))
Blob = Callable[..., Path]


def write(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(voxels, np.diag([5.0, 5.0, 5.0, 1.0]) if affine is None else affine), path)
    return path


def test_dictionary_round_trip_and_hash() -> None:
    assert PreprocessingSpec.from_dict(SPEC.to_dict()) == SPEC
    assert PreprocessingSpec(spacing=[5.0, 5.0, 5.0], size=[32, 40, 32]).sha256 == SPEC.sha256  # type: ignore[arg-type]
    assert PreprocessingSpec().sha256 != SPEC.sha256
    with pytest.raises(CheckpointError, match=r"must have the keys .* got \{'size': \[1, 2, 3\]\}"):
        PreprocessingSpec.from_dict({"size": [1, 2, 3]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spacing": (1.0, 0.0, 1.0)}, "spacing must be three positive lengths"),
        ({"size": (8, 8)}, "size must be three numbers"),
        ({"orientation": "LPS"}, "orientation must be 'RAS', got 'LPS'"),
        ({"upper_percentile": 0.1}, "percentile"),
    ],
)
def test_impossible_specs(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PreprocessingSpec(**arguments)  # type: ignore[arg-type]


def test_intensities_of_a_brain_alone(blob: Blob) -> None:
    """x' = x / hi, hi the 99.5th percentile of voxels > 0 of the source."""
    path = blob(cut=20)
    source = np.asarray(nib.load(path).dataobj)
    scan = SPEC.apply(path)
    assert scan.intensity is not None
    upper = np.percentile(source[source > 0], 99.5)
    assert scan.intensity.brain_extracted
    assert (scan.intensity.lower, scan.intensity.upper) == (0, pytest.approx(upper))
    assert scan.intensity.clipped_share == pytest.approx((source > upper).sum() / (source > 0).sum())
    np.testing.assert_allclose(scan.data[0].numpy(), np.clip(source / upper, 0, 1), atol=1e-6)


def test_intensities_of_a_head_with_background(blob: Blob) -> None:
    path = blob(background=30)
    source = np.asarray(nib.load(path).dataobj)
    source = source + np.random.default_rng(0).uniform(0, 20, source.shape).astype(np.float32)
    scan = SPEC.apply(write(path, source))
    assert scan.intensity is not None
    lower, upper = np.percentile(source, [0.5, 99.5])
    assert not scan.intensity.brain_extracted
    assert (scan.intensity.lower, scan.intensity.upper) == (pytest.approx(lower), pytest.approx(upper))
    assert scan.intensity.clipped_share == pytest.approx(0.01, abs=1e-4)
    np.testing.assert_allclose(
        scan.data[0].numpy(), np.clip((source - lower) / (upper - lower), 0, 1), atol=1e-5
    )


def test_one_bright_voxel_does_not_darken_the_brain(blob: Blob) -> None:
    path = blob(cut=20)
    plain = SPEC.apply(path).data
    source = np.asarray(nib.load(path).dataobj).copy()
    source[16, 20, 16] = 1e6
    spiked = SPEC.apply(write(path, source)).data
    assert float((plain - spiked).abs().max()) < 0.01


def test_slightly_negative_voxels_are_clipped_and_normalised_scans_refused(
    tmp_path: Path, blob: Blob
) -> None:
    source = np.asarray(nib.load(blob(cut=20)).dataobj).copy()
    ringing = source - 5 * (source == 0)
    assert float(SPEC.apply(write(tmp_path / "ringing.nii", ringing)).data.min()) == 0
    brain = source > 0
    within = np.where(brain, (source - source[brain].mean()) / source[brain].std(), 0)
    whole = (source - source.mean()) / source.std()
    for name, voxels in {"within": within, "whole": whole, "minus one": 2 * source / 1000 - 1}.items():
        with pytest.raises(InputError, match=r"must not lie below zero.*looks normalised"):
            SPEC.apply(write(tmp_path / f"{name}.nii", voxels.astype(np.float32)))


@pytest.mark.parametrize(
    ("voxels", "message"),
    [
        (np.zeros((8, 8, 8)), "must hold an image, got the value 0 everywhere"),
        (np.full((8, 8, 8), 7.0), "must hold an image, got the value 7 everywhere"),
        (np.where(np.arange(512).reshape(8, 8, 8) % 2, np.nan, 1), "must be finite, got 256 NaN"),
        (np.where(np.arange(512).reshape(8, 8, 8) == 5, np.inf, 1), "must be finite, got 1 NaN or infinite"),
        (-np.arange(512.0).reshape(8, 8, 8), "must have positive voxels, got none"),
        (np.arange(512).reshape(8, 8, 8) % 2 + 0.0, "must have contrast"),
        (np.random.default_rng(0).random((8, 8, 8, 1)), r"must have 3 dimensions, got 4 \(8, 8, 8, 1\)"),
        (np.random.default_rng(0).random((8, 8)), r"must have 3 dimensions, got 2 \(8, 8\)"),
        (np.random.default_rng(0).random((8, 8, 1)), "at least 2 voxels along each axis"),
        (np.ones((8, 8, 8), dtype=np.complex64), "Voxels must be real numbers, got type complex64"),
    ],
)
def test_volumes_that_are_refused(tmp_path: Path, voxels: np.ndarray, message: str) -> None:
    path = write(
        tmp_path / "scan.nii.gz", voxels if voxels.dtype == np.complex64 else voxels.astype(np.float32)
    )
    with pytest.raises(InputError, match=message) as caught:
        SPEC.apply(path)
    assert "scan.nii.gz" in str(caught.value)


@pytest.mark.parametrize("shape", [(1500, 1500, 1500), (2**31, 2**31, 3), (2**62 + 4, 4, 4)])
def test_more_voxels_than_any_scan_has_are_refused_before_they_are_read(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    header = nib.Nifti2Header()
    header.set_data_dtype(np.uint8)
    header["dim"][:4] = 3, *shape
    header["pixdim"][1:4] = 1
    header.set_sform(np.eye(4), code=1)
    (tmp_path / "scan.nii").write_bytes(header.binaryblock + bytes(1000))
    with pytest.raises(InputError, match="at most 1024 x 1024 x 1024 voxels, got"):
        SPEC.apply(tmp_path / "scan.nii")


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize("keep", [20, 200, 0.5, 0.999])
def test_files_cut_short(blob: Blob, name: str, keep: float) -> None:
    """Cut anywhere, they are refused from the header on, without reading the voxels."""
    path = blob(name)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep > 1 else keep * len(content))])
    with pytest.raises(InputError, match=r"(cut short|readable NIfTI)"):
        open_scan(path)


def test_damaged_bytes_inside_gzip(blob: Blob) -> None:
    path = blob()
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
    path.write_bytes(content)
    with pytest.raises(InputError, match="must be a readable NIfTI file"):
        read_voxels(open_scan(path), path)


def test_joined_gzip_members_are_read(blob: Blob) -> None:
    """As bgzip writes them: the length noted at the end is that of the last member."""
    import gzip

    path = blob("plain.nii")
    content = path.read_bytes()
    joined = path.with_name("joined.nii.gz")
    joined.write_bytes(gzip.compress(content[:5000]) + gzip.compress(content[5000:]))
    assert bool((SPEC.apply(joined).data == SPEC.apply(path).data).all())


def test_files_that_are_something_else(tmp_path: Path) -> None:
    (tmp_path / "text.nii").write_text("hello")
    (tmp_path / "text.nii.gz").write_text("hello")
    (tmp_path / "scan.mgz").touch()
    for name in ("text.nii", "text.nii.gz"):
        with pytest.raises(InputError, match=f"must be a readable NIfTI file, got .*{name}"):
            SPEC.apply(tmp_path / name)
    with pytest.raises(InputError, match=r"must end in \.nii or \.nii\.gz, got 'scan\.mgz'"):
        SPEC.apply(tmp_path / "scan.mgz")
    with pytest.raises(FileNotFoundError, match="which does not exist"):
        SPEC.apply(tmp_path / "none.nii")


def test_frames_that_say_nothing(blob: Blob) -> None:
    def forget(image: nib.Nifti1Image) -> None:
        image.set_sform(None, code=0)
        image.set_qform(None, code=0)

    def metres(image: nib.Nifti1Image) -> None:
        image.header.set_xyzt_units("meter")

    with pytest.raises(InputError, match="qform and sform codes 0"):
        SPEC.apply(blob(header=forget))
    with pytest.raises(InputError, match="lengths must be in mm, got meter"):
        SPEC.apply(blob(header=metres))
    flat = np.diag([5.0, 5.0, 0.0, 1.0])
    with pytest.raises(InputError, match="affine must be invertible"):
        SPEC.apply(blob(header=lambda image: image.set_sform(flat, code=1)))


def test_real_scans_are_told_apart(real_data: Path) -> None:
    """The first shows a head with skin and skull, the second a brain alone."""
    for name, extracted in {"adult_T1w.nii.gz": False, "icbm152_T1w.nii.gz": True}.items():
        scan = SPEC.apply(real_data / "scans" / name)
        assert scan.intensity is not None
        assert scan.intensity.brain_extracted is extracted
        assert scan.data.shape == (1, 32, 40, 32)
        assert (
            0 == float(scan.data.min()) < 0.2 < float(scan.data.mean()) + 0.15 < float(scan.data.max()) <= 1
        )


def rotation(degrees: float, axis: int) -> np.ndarray:
    angle = np.deg2rad(degrees)
    first, second = [index for index in range(3) if index != axis]
    result = np.eye(3)
    result[first, first] = result[second, second] = np.cos(angle)
    result[first, second], result[second, first] = -np.sin(angle), np.sin(angle)
    return result


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(2, 40)] * 3),
    zooms=st.tuples(*[st.floats(0.4, 6)] * 3),
    angles=st.tuples(*[st.floats(-180, 180, allow_subnormal=False)] * 3),
    signs=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    same=st.tuples(*[st.booleans()] * 3),
)
def test_grid_lies_about_the_centre_with_the_same_axes(
    shape: tuple[int, int, int],
    zooms: tuple[float, float, float],
    angles: tuple[float, float, float],
    signs: tuple[int, int, int],
    same: tuple[bool, bool, bool],
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = rotation(angles[0], 0) @ rotation(angles[1], 1) @ rotation(angles[2], 2) * zooms * signs
    affine[:3, 3] = [12, -30, 7]
    source = to_ras(Grid(shape, affine))
    directions = source.affine[:3, :3] / source.spacing
    spacing = tuple(np.where(same, source.spacing, 1.5).tolist())
    grid, where = fit_grid(source, spacing=spacing, size=(8, 9, 10))
    np.testing.assert_allclose(grid.spacing, spacing, rtol=1e-9)
    np.testing.assert_allclose(grid.affine[:3, :3] / grid.spacing, directions, atol=1e-9)
    index = np.array([3.0, 1.0, 4.0])
    world = grid.affine[:3, :3] @ index + grid.affine[:3, 3]
    there = source.affine[:3, :3] @ (where.step * index + where.start) + source.affine[:3, 3]
    np.testing.assert_allclose(world, there, atol=1e-8)
    np.testing.assert_allclose(
        where.inverse.step * (where.step * index + where.start) + where.inverse.start, index
    )
    offset = (np.array(source.shape) - 1) / 2 - (where.step * (np.array([8, 9, 10]) - 1) / 2 + where.start)
    assert (np.abs(offset) <= 0.5 + 1e-9).all()
    voxels = np.random.default_rng(0).random(shape, dtype=np.float32)
    np.testing.assert_array_equal(voxels_from_ras(voxels_to_ras(voxels, affine), affine), voxels)
    assert voxels_to_ras(voxels, affine).shape == source.shape


def test_right_spacing_is_cropped_and_padded_without_interpolation() -> None:
    voxels = np.random.default_rng(0).random((31, 40, 9), dtype=np.float32)
    source = Grid(voxels.shape, np.diag([1.5, 1.5, 1.5, 1.0]))
    grid, where = fit_grid(source, spacing=(1.5, 1.5, 1.5), size=(16, 40, 12))
    result = resample(voxels, where, shape=grid.shape, outside=-1)
    np.testing.assert_array_equal(result[:, :, 2:11], voxels[7:23])
    assert (result[:, :, [0, 1, 11]] == -1).all()
    back = resample(result, where.inverse, shape=voxels.shape, outside=0)
    np.testing.assert_array_equal(back[7:23], voxels[7:23])
    assert not back[:7].any()
    assert not back[23:].any()
    assert inside(where, source=voxels.shape, shape=grid.shape) == (slice(7, 23), slice(0, 40), slice(0, 9))


def test_a_ramp_is_resampled_exactly_and_stripes_do_not_alias() -> None:
    """Linear interpolation keeps what is linear; one-voxel stripes become grey on a coarser grid."""
    source = Grid((60, 60, 60), np.eye(4))
    ramp = np.broadcast_to(np.arange(60, dtype=np.float32)[:, None, None], (60, 60, 60)).copy()
    grid, where = fit_grid(source, spacing=(2.5, 2.5, 2.5), size=(20, 20, 20))
    expected = grid.affine[0, 0] * np.arange(20) + grid.affine[0, 3]
    np.testing.assert_allclose(
        resample(ramp, where, shape=grid.shape, outside=0)[:, 9, 9], expected, atol=1e-4
    )
    stripes = (ramp % 2).astype(np.float32)
    grey = resample(stripes, where, shape=grid.shape, outside=0.5)
    assert float(np.abs(grey - 0.5).max()) < 0.05


def items(path: Path) -> dict[str, object]:
    return {item.item: item for item in SPEC.differences(path)}


def test_differences_of_a_scan_that_fits(blob: Blob) -> None:
    found = SPEC.differences(blob())
    assert [item.item for item in found if item.differs] == ["intensity range"]
    assert all(item.handled for item in found)
    assert {item.to_dict()["item"] for item in found} == {
        "dimensions", "orientation", "spacing", "data type", "field of view", "intensity range",
        "brain extraction",
    }  # fmt: skip


def test_differences_are_named_with_what_is_done(blob: Blob) -> None:
    affine = np.diag([-1.0, -1.0, 3.0, 1.0])
    path = blob(affine=affine, shape=(200, 200, 20), kind=np.int16, centre=(0, -100, 30))
    found = {item.item: item for item in SPEC.differences(path)}
    assert found["orientation"].scan == "LPS"
    assert "permuted and flipped" in found["orientation"].action
    assert found["spacing"].scan == "1 x 1 x 3 mm"
    assert "anti-alias" in found["spacing"].action
    assert found["data type"].scan == "int16"
    assert "cropped and padded" in found["field of view"].action
    assert "voxels with signal" in found["field of view"].action
    assert not found["field of view"].handled


def test_differences_say_oblique_and_coarser(blob: Blob) -> None:
    affine = np.eye(4)
    affine[:3, :3] = rotation(20, 2) * 8
    found = {item.item: item for item in SPEC.differences(blob(affine=affine, shape=(20, 24, 20)))}
    assert "(20.0 degrees) is kept" in found["orientation"].action
    assert "detail is not added" in found["spacing"].action


def test_differences_of_scans_that_are_refused(tmp_path: Path) -> None:
    (four,) = SPEC.differences(write(tmp_path / "4d.nii", np.ones((4, 4, 4, 3), dtype=np.float32)))
    assert (four.item, four.scan, four.handled) == ("dimensions", "4D 4 x 4 x 4 x 3", False)
    normal = np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32)
    last = SPEC.differences(write(tmp_path / "z.nii", normal))[-1]
    assert (last.item, last.handled) == ("intensity range", False)
    assert "refused" in last.action
