# SPDX-License-Identifier: Apache-2.0
"""Series of every habit come out as the volume that went in, in world coordinates, or with a reason."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

pytest.importorskip("pydicom", reason="the extra `dicom` is not installed")

from dicom_series import (
    IMPLICIT,
    Export,
    amend,
    head,
    oblique,
    plane,
    straight,
    transcode,
    write_enhanced,
    write_report,
    write_series,
)
from pydicom.uid import (
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)

from ldae.data.ingest import ingest
from ldae.data.ingest.convert import Volume, extract_dicom, extract_nifti
from ldae.data.ingest.deidentify import Pseudonyms
from ldae.data.ingest.discover import discover
from ldae.data.ingest.manifest import RejectionError
from ldae.data.ingest.slices import UPRIGHT

NAMES = Pseudonyms(b"a key for tests")
VOXELS = head()


def extracted(folder: Path, *, min_slices: int = 20) -> Volume:
    (item,) = discover(folder, names=NAMES).items
    scratch = folder.with_name("scratch")
    return extract_dicom(item, names=NAMES, contrast="T1w", min_slices=min_slices, scratch=scratch)


def assert_same_place(
    volume: Volume,
    voxels: NDArray[np.int16],
    affine: NDArray[np.float64],
    *,
    slope: float = 1,
    shift: float = 0,
) -> None:
    """Every voxel that went in stands at its own millimetres in what came out."""
    grid = np.indices(voxels.shape).reshape(3, -1)
    world = affine[:3, :3] @ grid + affine[:3, 3:]
    back = np.linalg.inv(volume.affine)
    found = back[:3, :3] @ world + back[:3, 3:]
    np.testing.assert_allclose(found, np.rint(found), atol=2e-3)
    np.testing.assert_allclose(
        volume.voxels[tuple(np.rint(found).astype(int))],
        slope * voxels.ravel().astype(np.float32) + shift,
        rtol=1e-5,
        atol=1e-3,
    )


@pytest.mark.parametrize(
    "export",
    [
        pytest.param(Export(), id="one-file-a-slice"),
        pytest.param(Export(names="shuffled"), id="shuffled-names"),
        pytest.param(Export(syntax=IMPLICIT), id="implicit-vr"),
        pytest.param(Export(syntax=ExplicitVRBigEndian), id="big-endian"),
        pytest.param(Export(syntax=DeflatedExplicitVRLittleEndian), id="deflated"),
        pytest.param(Export(bare=True), id="no-preamble"),
        pytest.param(Export(compress=RLELossless), id="rle"),
        pytest.param(Export(compress=JPEGLSLossless), id="jpeg-ls"),
        pytest.param(Export(elements={"Manufacturer": "GE MEDICAL SYSTEMS"}), id="ge"),
        pytest.param(Export(elements={"Manufacturer": "Philips Medical Systems"}), id="philips"),
    ],
)
def test_a_series_keeps_every_voxel_in_its_place(tmp_path: Path, export: Export) -> None:
    write_series(tmp_path / "in", VOXELS, oblique(), export=export)
    assert_same_place(extracted(tmp_path / "in"), VOXELS, oblique())


@pytest.mark.parametrize("name", ["JPEGLosslessProcess14_1", "JPEG2000Lossless"])
def test_an_archives_compression_keeps_every_voxel(tmp_path: Path, name: str) -> None:
    gdcm = pytest.importorskip("gdcm", reason="python-gdcm is not installed")
    for path in write_series(tmp_path / "in", VOXELS, oblique(), export=Export()):
        transcode(path, getattr(gdcm.TransferSyntax, name))
    assert_same_place(extracted(tmp_path / "in"), VOXELS, oblique())


@pytest.mark.parametrize(
    ("elements", "flag"),
    [
        ({"BodyPartExamined": "CSPINE"}, "header names another part of the body"),
        ({"LossyImageCompression": "01"}, "lossy compression noted in the header"),
        ({"ContrastBolusAgent": "Gadovist"}, "contrast agent noted in the header"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "inverted grey scale (MONOCHROME1)"),
    ],
)
def test_what_a_person_should_look_at_is_told(tmp_path: Path, elements: dict[str, str], flag: str) -> None:
    write_series(tmp_path / "in", VOXELS, straight(), export=Export(elements=elements))
    assert extracted(tmp_path / "in").flags == [flag]


def test_two_series_in_one_folder_keep_their_own_voxels(tmp_path: Path) -> None:
    for name, seed in (("shuffled", 1), ("slice", 2)):
        export = Export(names=name, description=f"t1 {seed}", elements={"PatientID": f"patient {seed}"})
        write_series(tmp_path / "in", head(seed=seed), straight(), export=export)
    summary = ingest(tmp_path / "in", tmp_path / "out", min_slices=20)
    assert summary.accepted == 2
    ours = {volume_sum(path) for path in (tmp_path / "out").rglob("*_T1w.nii.gz")}
    assert ours == {float(head(seed=seed).sum()) for seed in (1, 2)}


def volume_sum(path: Path) -> float:
    return float(nib.load(path).get_fdata().sum())


def test_rescaled_values_come_out_rescaled(tmp_path: Path) -> None:
    write_series(tmp_path / "in", VOXELS, straight(), export=Export(slope=(0.25, -7.0)))
    assert_same_place(extracted(tmp_path / "in"), VOXELS, straight(), slope=0.25, shift=-7)


def test_an_enhanced_file_keeps_every_voxel_in_its_place(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "in" / "enhanced", VOXELS, oblique(), export=Export())
    assert_same_place(extracted(tmp_path / "in"), VOXELS, oblique())


def test_two_series_in_one_folder_are_two_items(tmp_path: Path) -> None:
    for name, seed in (("shuffled", 1), ("slice", 2)):
        write_series(tmp_path / "in", head(seed=seed), straight(), export=Export(names=name))
    found = discover(tmp_path / "in", names=NAMES).items
    assert [len(item.paths) for item in found] == [40, 40]


def test_a_repeated_slice_is_left_out_and_told(tmp_path: Path) -> None:
    write_series(tmp_path / "in", VOXELS, oblique(), export=Export(repeat=[7, 12]))
    volume = extracted(tmp_path / "in")
    assert_same_place(volume, VOXELS, oblique())
    assert volume.flags == ["2 duplicate slices left out"]


@pytest.mark.parametrize(
    ("export", "reason"),
    [
        (Export(drop=[11]), "missing slices"),
        (Export(drop=[0], elements={"ImagesInAcquisition": 40}), "missing slices"),
        (Export(drop=range(15, 40)), "too few slices"),
        (Export(drop=range(1, 40, 2)), "missing slices: wider apart than the header notes"),
        (Export(description="t1_mprage_sag_KM"), "with contrast agent"),
        (Export(description="localizer"), "localiser"),
        (Export(elements={"ImageType": ["DERIVED", "PRIMARY", "MPR"]}), "derived"),
        (Export(description="t2_space_sag"), "not T1w"),
        (Export(elements={"Modality": "CT"}), "not MR"),
        (Export(description="t1_mp2rage_sag_INV2"), "not T1w"),
        (Export(description="t1_mp2rage_sag_T1_Images"), "not T1w"),
        (Export(elements={"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}), "phase image"),
        (Export(elements={"BurnedInAnnotation": "YES"}), "burned-in text"),
        (
            Export(elements={"PatientID": "", "PatientName": "", "PatientBirthDate": ""}),
            "no patient identifier",
        ),
    ],
)
def test_unwanted_or_broken_series_have_a_reason(tmp_path: Path, export: Export, reason: str) -> None:
    write_series(tmp_path / "in", VOXELS, straight(), export=export)
    with pytest.raises(RejectionError, match=reason):
        extracted(tmp_path / "in")


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"SpacingBetweenSlices": "1"}, "missing slices: wider apart than the header notes"),
        ({"SpacingBetweenSlices": "-1"}, "missing slices: wider apart than the header notes"),
        ({"SliceThickness": None}, ""),
        ({"MRAcquisitionType": "2D"}, ""),
    ],
)
def test_every_second_slice_missing_is_told(tmp_path: Path, elements: dict[str, str], reason: str) -> None:
    paths = write_series(tmp_path / "in", VOXELS, straight(), export=Export(drop=range(1, 40, 2)))
    amend(paths, **elements)
    if reason:
        with pytest.raises(RejectionError, match=reason):
            extracted(tmp_path / "in")
    else:
        assert extracted(tmp_path / "in").flags == ["instance numbers leave gaps: slices may be missing"]


@pytest.mark.parametrize(
    "elements",
    [
        {"SliceThickness": "2"},
        {"SliceThickness": "0.5", "SpacingBetweenSlices": "1"},
        {"SliceThickness": "0"},
    ],
    ids=["overlapping", "distance-noted", "no-thickness"],
)
def test_whole_stacks_of_any_thickness_are_taken(tmp_path: Path, elements: dict[str, str]) -> None:
    amend(write_series(tmp_path / "in", VOXELS, straight(), export=Export()), **elements)
    assert extracted(tmp_path / "in").flags == []


def test_slices_missing_at_the_start_are_told(tmp_path: Path) -> None:
    write_series(tmp_path / "in", VOXELS, straight(), export=Export(drop=range(3)))
    assert extracted(tmp_path / "in").flags == ["instance numbers do not begin at 1: slices may be missing"]


def test_rounded_directions_are_no_tilt(tmp_path: Path) -> None:
    """Of 3 digits; their length is not quite 1, and so is that of their cross product."""
    paths = write_series(tmp_path / "in", VOXELS, oblique(), export=Export())
    rounded = np.round(plane(VOXELS, oblique(), 0)[0], 3)
    amend(paths, ImageOrientationPatient=rounded.tolist())
    assert np.linalg.norm(np.cross(rounded[:3], rounded[3:])) < UPRIGHT
    assert extracted(tmp_path / "in").flags == []


def test_padding_behind_the_pixels_does_no_harm(tmp_path: Path) -> None:
    for path in write_series(tmp_path / "in", VOXELS, oblique(), export=Export()):
        path.write_bytes(path.read_bytes() + bytes(16))
    assert_same_place(extracted(tmp_path / "in"), VOXELS, oblique())


def test_files_are_known_by_their_content(tmp_path: Path) -> None:
    """As DICOM, though the name says NIfTI, and though the preamble is missing before the meta header."""
    for number, path in enumerate(write_series(tmp_path / "in", VOXELS, oblique(), export=Export())):
        if number % 2:
            path.rename(path.with_suffix(".nii"))
        else:
            path.write_bytes(path.read_bytes()[132:])
    assert_same_place(extracted(tmp_path / "in"), VOXELS, oblique())


def test_slices_may_be_numbered_either_way(tmp_path: Path) -> None:
    for number, path in enumerate(write_series(tmp_path / "in", VOXELS, straight(), export=Export())):
        amend([path], InstanceNumber=40 - number)
    assert extracted(tmp_path / "in").flags == []


def test_one_slice_with_burned_in_text_is_enough(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in", VOXELS, straight(), export=Export())
    amend(paths[7:8], BurnedInAnnotation="YES")
    with pytest.raises(RejectionError, match="burned-in text"):
        extracted(tmp_path / "in")


def test_a_report_among_the_images_is_left_out(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in", VOXELS, straight(), export=Export(drop=[39]))
    write_report(paths[0], tmp_path / "in" / "A first", kind=BasicTextSRStorage)
    volume = extracted(tmp_path / "in")
    assert_same_place(volume, VOXELS[:39], straight())
    assert volume.flags == []


def test_an_image_without_pixels_is_no_report(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in", VOXELS, straight(), export=Export(drop=[39]))
    write_report(paths[0], tmp_path / "in" / "last", kind=MRImageStorage)
    with pytest.raises(RejectionError, match="damaged pixel data"):
        extracted(tmp_path / "in")


def test_dates_that_databases_write_for_none_stop_nothing(tmp_path: Path) -> None:
    write_series(tmp_path / "in", VOXELS, straight(), export=Export(date="00010101"))
    assert extracted(tmp_path / "in").flags == []


def test_an_empty_image_has_a_reason(tmp_path: Path) -> None:
    write_series(tmp_path / "in", 0 * VOXELS, straight(), export=Export())
    with pytest.raises(RejectionError, match="one value everywhere"):
        extracted(tmp_path / "in")


def test_a_tilted_stack_is_refused(tmp_path: Path) -> None:
    sheared = straight()
    sheared[:3, 0] += (0, 0.1, 0)
    write_series(tmp_path / "in", VOXELS, sheared, export=Export())
    with pytest.raises(RejectionError, match="tilted stack"):
        extracted(tmp_path / "in")


def test_two_volumes_in_one_series_are_refused(tmp_path: Path) -> None:
    for seed in (1, 2):
        export = Export(names="slice" if seed == 1 else "shuffled")
        write_series(tmp_path / "in", head(seed=seed), straight(), export=export, uid="2.25.77")
    with pytest.raises(RejectionError, match="several slices at one position"):
        extracted(tmp_path / "in")


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in", VOXELS, straight(), export=Export())
    paths[5].write_bytes(paths[5].read_bytes()[:-900])
    with pytest.raises(RejectionError, match="damaged"):
        extracted(tmp_path / "in")


@pytest.mark.parametrize("value", [4095, 500], ids=["brightest", "grey"])
def test_letters_in_the_pixels_are_found(tmp_path: Path, value: int) -> None:
    letters = Image.new("L", (VOXELS.shape[1], VOXELS.shape[2]))
    ImageDraw.Draw(letters).text((1, 1), "MEYER 47", fill=255)
    marked = VOXELS.copy()
    marked[10][np.asarray(letters).T[:, ::-1] > 200] = value
    write_series(tmp_path / "in", marked, straight(), export=Export())
    with pytest.raises(RejectionError, match="burned-in text suspected"):
        extracted(tmp_path / "in")


def test_contrast_is_told_by_the_header_where_no_word_tells_it(tmp_path: Path) -> None:
    write_series(tmp_path / "in", VOXELS, straight(), export=Export(description="Kopf nativ"))
    assert extracted(tmp_path / "in").flags == ["contrast told by header values only"]


def test_content_does_not_depend_on_the_order_of_axes(tmp_path: Path) -> None:
    turned = nib.as_closest_canonical(nib.Nifti1Image(VOXELS, straight())).as_reoriented(
        np.array([[1, -1], [2, 1], [0, 1]])
    )
    volumes = [
        Volume(np.asarray(image.dataobj, dtype=np.float32), image.affine)
        for image in (nib.Nifti1Image(VOXELS, straight()), turned)
    ]
    assert volumes[0].content() == volumes[1].content()
    changed = dataclasses.replace(volumes[0], voxels=volumes[0].voxels + 1)
    assert changed.content() != volumes[0].content()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sub-1_T2w.nii.gz", "not T1w"),
        ("sub-1_FLAIR.nii.gz", "not T1w"),
        ("sub-1_part-phase_T1w.nii.gz", "phase image"),
    ],
)
def test_other_contrasts_are_known_by_the_files_name(tmp_path: Path, name: str, reason: str) -> None:
    nib.save(nib.Nifti1Image(VOXELS, straight()), tmp_path / name)
    (item,) = discover(tmp_path, names=NAMES).items
    with pytest.raises(RejectionError, match=reason):
        extract_nifti(item, contrast="T1w", min_slices=20)
