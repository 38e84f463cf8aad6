# SPDX-License-Identifier: Apache-2.0
"""Volumes out of DICOM series and NIfTI files.

The converter, dcm2niix, only ever sees de-identified copies; what it makes is checked voxel by voxel.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ldae.data.ingest.choose import BY_HEADER, UNNAMED, choose_file, choose_series, shows_elsewhere
from ldae.data.ingest.deidentify import Pseudonyms, check_burned_in, deidentify_dataset
from ldae.data.ingest.discover import Item, sidecars
from ldae.data.ingest.extras import need
from ldae.data.ingest.headers import series_header
from ldae.data.ingest.manifest import RejectionError
from ldae.data.ingest.slices import Slice, check_converted, check_distance, check_stack, read_slices
from ldae.data.nifti import open_scan, read_voxels
from ldae.errors import InputError

# A series takes seconds; a converter that hangs must not hold up the rest.
LONGEST = 600
IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG = (f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".2"))


@dataclass
class Volume:
    """A scan out of its source.

    Attributes:
        voxels: float32 [X, Y, Z].
        affine: Voxels to world millimetres, RAS+.
        flags: What a person should look at.
    """

    voxels: NDArray[np.float32]
    affine: NDArray[np.float64]
    flags: list[str] = field(default_factory=list)

    def content(self) -> str:
        """sha256 of voxels and place, whatever the order of axes in the file."""
        ras = np.ascontiguousarray(nib.apply_orientation(self.voxels, nib.io_orientation(self.affine)))
        spacing = np.sort(np.linalg.norm(self.affine[:3, :3], axis=0)).round(3)
        digest = hashlib.sha256(repr((ras.shape, spacing.tolist())).encode())
        digest.update(ras.tobytes())
        return digest.hexdigest()

    def spacing(self) -> list[float]:
        """Millimetres along the axes in RAS order."""
        order = nib.io_orientation(self.affine)[:, 0].astype(int)
        sizes = np.linalg.norm(self.affine[:3, :3], axis=0)
        return [round(float(sizes[int(np.flatnonzero(order == axis)[0])]), 4) for axis in range(3)]


def extract_dicom(item: Item, *, names: Pseudonyms, contrast: str, min_slices: int, scratch: Path) -> Volume:
    """The volume of a DICOM series.

    Raises:
        RejectionError: The series is not wanted, not whole, or does not survive the checks.
    """
    pydicom = need("pydicom", package="pydicom", extra="dicom", verb="ldae ingest with DICOM files")
    datasets = _images([_read(pydicom, path) for path in item.paths])
    header = series_header(datasets[0])
    chosen = choose_series(header, contrast=contrast)
    subject = names.subject(subject_of(datasets))
    slices = read_slices(datasets)
    kept, duplicates = check_stack(slices, min_slices=min_slices)
    stack = [slices[index] for index in kept]
    _check_count(datasets[0], stack)
    gaps = check_distance(stack, three_d=header["three_d"])
    declared = "YES" in {str(dataset.get("BurnedInAnnotation", "")).strip().upper() for dataset in datasets}
    volume = _convert(
        [datasets[number] for number in sorted({one.source for one in stack})],
        names=names,
        subject=subject,
        scratch=scratch,
    )
    check_converted(volume.voxels, volume.affine, slices=stack)
    if volume.voxels.min() == volume.voxels.max():
        raise RejectionError("extract", "no image: one value everywhere")
    check_burned_in(volume.voxels, declared=declared)
    volume.flags += gaps
    volume.flags += [f"{duplicates} duplicate slices left out"] if duplicates else []
    volume.flags += [BY_HEADER] if chosen == "header" else []
    volume.flags += ["contrast agent noted in the header"] if header["agent"] else []
    volume.flags += ["lossy compression noted in the header"] if header["lossy"] else []
    volume.flags += ["inverted grey scale (MONOCHROME1)"] if header["inverted"] else []
    volume.flags += ["header names another part of the body"] if shows_elsewhere(header) else []
    return volume


def _read(pydicom: Any, path: Path) -> Any:
    try:
        return _with_syntax(pydicom.dcmread(path, force=True))
    except Exception as error:
        # pydicom fails on damaged bytes in any way that a byte may lead to
        raise RejectionError("extract", "damaged file", detail=f"{path}: {error}") from error


def _images(datasets: Sequence[Any]) -> list[Any]:
    """Those that are images, or damaged ones of them, without the reports that may lie among them.

    Raises:
        RejectionError: There are none.
    """
    kinds = {str(dataset.get("SOPClassUID", "")) for dataset in datasets if is_image(dataset)}
    if not kinds:
        raise RejectionError("extract", "no images")
    # what lost its pixels is still of the images' kind, or of none
    kinds.add("")
    return [dataset for dataset in datasets if is_image(dataset) or dataset.get("SOPClassUID", "") in kinds]


def is_image(dataset: Any) -> bool:
    """Whether a DICOM dataset holds pixels, read or not."""
    return "Rows" in dataset or "PixelData" in dataset


def _with_syntax(dataset: Any) -> Any:
    """Files without a meta header do not name their transfer syntax; how they were read tells it."""
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        uncompressed = {(True, True): IMPLICIT_LITTLE, (False, True): EXPLICIT_LITTLE}
        dataset.file_meta.TransferSyntaxUID = uncompressed.get((implicit, little), EXPLICIT_BIG)
    return dataset


def subject_of(datasets: Sequence[Any]) -> str:
    """The patient's identifier, else name and birth date.

    Raises:
        RejectionError: There are several, or none.
    """
    found = {str(dataset.get("PatientID", "")).strip() for dataset in datasets}
    if found == {""}:
        found = {
            f"{dataset.get('PatientName', '')}|{dataset.get('PatientBirthDate', '')}".strip("|")
            for dataset in datasets
        }
    if len(found) > 1:
        raise RejectionError("extract", "several patients in one series")
    if found == {""}:
        raise RejectionError("analyse", "no patient identifier")
    return found.pop()


def _check_count(dataset: Any, stack: Sequence[Slice]) -> None:
    """Slices missing at an end leave even distances; only the header knows."""
    noted = int(dataset.get("ImagesInAcquisition") or 0)
    if noted > len(stack):
        raise RejectionError("extract", "missing slices: fewer than the header notes")


def _convert(datasets: Sequence[Any], *, names: Pseudonyms, subject: str, scratch: Path) -> Volume:
    """De-identified, uncompressed copies through dcm2niix."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        for number, dataset in enumerate(datasets):
            _stage(dataset, scratch / f"{number:05d}.dcm", names=names, subject=subject)
        return _dcm2niix(scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _stage(dataset: Any, path: Path, *, names: Pseudonyms, subject: str) -> None:
    """Write a de-identified, uncompressed copy; the dataset in memory is used up by it."""
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        dataset.decompress()
    if dataset.file_meta.TransferSyntaxUID.is_deflated:
        dataset.file_meta.TransferSyntaxUID = EXPLICIT_LITTLE
    for tag in [tag for tag in dataset.keys() if tag.group == 0]:  # noqa: SIM118 - a dataset iterates elements
        del dataset[
            tag
        ]  # padding behind the pixels reads as an element of this group, which files may not have
    deidentify_dataset(dataset, names=names, subject=subject)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.preamble = None
    dataset.save_as(path, enforce_file_format=True)


def _dcm2niix(folder: Path) -> Volume:
    tool = need("dcm2niix", package="dcm2niix", extra="dicom", verb="ldae ingest with DICOM files").bin
    command = [tool, "-b", "n", "-z", "n", "-f", "volume", "-p", "n", "-l", "o", "-o", folder, folder]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=False)
    except subprocess.TimeoutExpired as error:
        raise RejectionError("extract", "converter took too long") from error
    made = sorted(folder.glob("*.nii"))
    if len(made) != 1:
        raise RejectionError("extract", f"converter made {len(made)} volumes", detail=done.stdout[-2000:])
    image = nib.load(made[0])
    if not isinstance(image, nib.Nifti1Image) or len(image.shape) != 3:
        raise RejectionError("extract", "converter made no 3D volume")
    return Volume(image.get_fdata(dtype=np.float32), np.asarray(image.affine, dtype=np.float64))


def extract_nifti(item: Item, *, contrast: str, min_slices: int) -> Volume:
    """The volume of a NIfTI file.

    Raises:
        RejectionError: The file is not wanted or not readable.
    """
    path = item.paths[0]
    chosen = choose_file(path.name, contrast=contrast, bids=item.kind == "bids")
    try:
        image = open_scan(path)
        voxels = read_voxels(image, path)
    except (InputError, FileNotFoundError) as error:
        raise RejectionError("extract", "not a whole, readable 3D scan", detail=str(error)) from error
    if min(voxels.shape) < min_slices:
        raise RejectionError("extract", "too few slices")
    flags = [] if chosen else [UNNAMED]
    flags += ["sform and qform differ in left and right: the sform counts"] if _mirrored(image) else []
    check_burned_in(voxels)
    return Volume(voxels, np.asarray(image.affine, dtype=np.float64), flags)


def _mirrored(image: nib.Nifti1Image) -> bool:
    """Whether both transforms of the header hold, and one is the other's mirror image."""
    forms = [form for form, code in (image.get_sform(coded=True), image.get_qform(coded=True)) if code]
    signs = {np.sign(np.linalg.det(form[:3, :3])) for form in forms}
    return len(signs) > 1


def read_sidecar(path: Path) -> dict[str, Any]:
    """What the JSON files of a NIfTI file tell, nearer ones overriding; empty where there is none."""
    told: dict[str, Any] = {}
    for sidecar in sidecars(path):
        try:
            document = json.loads(sidecar.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RejectionError("analyse", "sidecar is not JSON", detail=str(sidecar)) from error
        told |= document if isinstance(document, dict) else {}
    return told
