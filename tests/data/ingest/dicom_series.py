# SPDX-License-Identifier: Apache-2.0
"""DICOM series out of synthetic volumes, in the habits of several vendors."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
PERSON = {"PatientName": "Meyer^Annemarie", "PatientID": "KH4711-0815", "PatientBirthDate": "19470312"}
IDENTITY = {
    "InstitutionName": "Klinikum Sonnenberg",
    "InstitutionAddress": "Hauptstrasse 12, Musterstadt",
    "ReferringPhysicianName": "Vogel^Hubertus",
    "OperatorsName": "Krause^Ilse",
    "AccessionNumber": "ACC7754321",
    "StationName": "MRRAUM3",
    "DeviceSerialNumber": "SN166077",
    "StudyID": "STU99812",
    "PatientAddress": "Lindenallee 7",
    "PatientTelephoneNumbers": "0301234567",
    "StudyTime": "101530.123",
    "ImageComments": "Frau Meyer unruhig",
    "OtherPatientIDs": "VERS-556677",
}


@dataclass
class Export:
    """What a series says and how it is written.

    Attributes:
        description: Series description.
        date: Study date.
        elements: Further elements, or other values.
        syntax: Transfer syntax.
        compress: Transfer syntax to compress to, by pydicom.
        slope: Rescale slope, with intercept.
        names: "slice" numbers files by slice, "shuffled" does not.
        drop: Slices that are missing.
        repeat: Slices that come twice, under other names and instance UIDs.
        bare: Write no preamble and no meta header.
    """

    description: str = "t1_mprage_sag"
    date: str = "20190614"
    elements: dict[str, Any] = field(default_factory=dict)
    syntax: str = ExplicitVRLittleEndian
    compress: str = ""
    slope: tuple[float, float] | None = None
    names: str = "slice"
    drop: Sequence[int] = ()
    repeat: Sequence[int] = ()
    bare: bool = False


def head(shape: tuple[int, int, int] = (40, 48, 44), seed: int = 0) -> NDArray[np.int16]:
    """An uneven ellipsoid with two tissues and noise; no two of its faces are alike."""
    generator = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    inside = (x / 0.75) ** 2 + (y / 0.8) ** 2 + (z / 0.7) ** 2 + 0.15 * x * y + 0.1 * y * z
    values = 420.0 * (inside < 1) + 300.0 * (inside < 0.55) + 120.0 * ((x - 0.2) ** 2 + y**2 + z**2 < 0.04)
    noise = np.hypot(values + generator.normal(0, 15, shape), generator.normal(0, 15, shape))
    return np.asarray(noise * (1 + 0.2 * z), dtype=np.int16)


def oblique(spacing: Sequence[float] = (1.2, 1.0, 1.1)) -> NDArray[np.float64]:
    """An affine whose axes are turned by 10 to 20 degrees."""
    from scipy.spatial.transform import Rotation

    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [14, -11, 19], degrees=True).as_matrix() * np.asarray(spacing)
    affine[:3, 3] = (-21, -33, -28)
    return affine


def straight(spacing: float = 1.0) -> NDArray[np.float64]:
    """RAS axes."""
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = (-20, -24, -22)
    return affine


def write_series(
    folder: Path, voxels: NDArray[np.int16], affine: NDArray[np.float64], *, export: Export, uid: str = ""
) -> list[Path]:
    """Write voxels [X, Y, Z] as sagittal-like slices along X: rows run along Z downwards, columns along Y."""
    folder.mkdir(parents=True, exist_ok=True)
    uid = uid or generate_uid()
    numbers = [n for n in range(voxels.shape[0]) if n not in export.drop]
    written = []
    for place, number in enumerate([*numbers, *export.repeat]):
        dataset = _classic(voxels, affine, export=export, uid=uid, number=number)
        if export.names == "slice":
            name = f"IM{place:04d}.dcm"
        else:
            name = f"{np.random.default_rng(place).integers(1 << 40):010x}"
        save(dataset, folder / name, bare=export.bare)
        written.append(folder / name)
    return written


def save(dataset: Dataset, path: Path, *, bare: bool) -> None:
    """Write a file, or a dataset alone in implicit little endian."""
    if not bare:
        dataset.save_as(path, enforce_file_format=True)
        return
    del dataset.file_meta
    dataset.save_as(path, implicit_vr=True, little_endian=True)


def amend(paths: Sequence[Path], **elements: Any) -> None:
    """Set elements of written files, or remove those given as None."""
    for path in paths:
        dataset = dcmread(path)
        for name, value in elements.items():
            if value is None:
                delattr(dataset, name)
            else:
                setattr(dataset, name, value)
        dataset.save_as(path)


def write_report(image: Path, path: Path, *, kind: str) -> None:
    """An image's header alone, as an object of its series."""
    dataset = dcmread(image)
    for name in ("PixelData", "Rows", "Columns"):
        delattr(dataset, name)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = kind
    dataset.save_as(path)


def transcode(path: Path, syntax: int) -> None:
    """Compress a file in place as archives do, by GDCM, to one of its transfer syntaxes."""
    import gdcm

    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def _base(export: Export, uid: str, kind: str) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = export.syntax
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = kind
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID = uid, generate_uid(entropy_srcs=[uid, "study"])
    dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=[uid, "frame"])
    dataset.Modality, dataset.Manufacturer, dataset.MagneticFieldStrength = "MR", "SIEMENS", "3"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "NORM"]
    dataset.SeriesDescription, dataset.StudyDate = export.description, export.date
    dataset.PatientAge, dataset.PatientSex, dataset.SeriesNumber = "072Y", "F", "4"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    for name, value in (PERSON | IDENTITY | export.elements).items():
        setattr(dataset, name, value)
    block = dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "LO", "Meyer privat")
    return dataset


def _classic(
    voxels: NDArray[np.int16], affine: NDArray[np.float64], *, export: Export, uid: str, number: int
) -> Dataset:
    dataset = _base(export, uid, MRImageStorage)
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.MRAcquisitionType = ["GR", "IR"], "SK", "3D"
    dataset.RepetitionTime, dataset.EchoTime, dataset.InversionTime = "2300", "2.98", "900"
    dataset.InstanceNumber = number + 1
    orientation, spacing, position = plane(voxels, affine, number)
    dataset.ImageOrientationPatient, dataset.PixelSpacing = orientation, spacing
    dataset.ImagePositionPatient = position
    dataset.SliceThickness = f"{np.linalg.norm(affine[:3, 0]):.6f}"
    picture = np.ascontiguousarray(voxels[number].T[::-1])  # [Z downwards, Y]
    dataset.Rows, dataset.Columns = picture.shape
    if export.slope:
        dataset.RescaleSlope, dataset.RescaleIntercept = map(str, export.slope)
    order = ">" if export.syntax == ExplicitVRBigEndian else "<"
    dataset.PixelData = picture.astype(f"{order}i2").tobytes()
    dataset["PixelData"].VR = "OW"
    if export.compress:
        dataset.compress(export.compress, generate_instance_uid=False)
    return dataset


def plane(
    voxels: NDArray[np.int16], affine: NDArray[np.float64], number: int
) -> tuple[list[float], list[float], list[float]]:
    """Orientation, pixel spacing and position of a slice, as DICOM tells them (LPS)."""
    axes = RAS_TO_LPS @ affine[:3, :3]
    sizes = np.linalg.norm(axes, axis=0)
    along_row, along_column = axes[:, 1] / sizes[1], -axes[:, 2] / sizes[2]
    corner = RAS_TO_LPS @ (affine @ np.array([number, 0, voxels.shape[2] - 1, 1.0]))[:3]
    orientation = [round(float(value), 9) for value in (*along_row, *along_column)]
    spacing = [round(float(sizes[2]), 9), round(float(sizes[1]), 9)]
    return orientation, spacing, [round(float(value), 6) for value in corner]


def write_enhanced(
    path: Path, voxels: NDArray[np.int16], affine: NDArray[np.float64], *, export: Export
) -> Path:
    """Write voxels as one enhanced multi-frame file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = _base(export, generate_uid(), EnhancedMRImageStorage)
    dataset.NumberOfFrames, dataset.MRAcquisitionType = voxels.shape[0], "3D"
    dataset.EchoPulseSequence, dataset.InstanceNumber = "GRADIENT", 1
    shared, frames = Dataset(), []
    measures, orientation = Dataset(), Dataset()
    orientation.ImageOrientationPatient, measures.PixelSpacing, _ = plane(voxels, affine, 0)
    measures.SliceThickness = measures.SpacingBetweenSlices = f"{np.linalg.norm(affine[:3, 0]):.6f}"
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Items([measures]), Items([orientation])
    timing, echo = Dataset(), Dataset()
    timing.RepetitionTime, timing.FlipAngle, echo.EffectiveEchoTime = 2300.0, 9.0, 2.98
    shared.MRTimingAndRelatedParametersSequence, shared.MREchoSequence = Items([timing]), Items([echo])
    for number in range(voxels.shape[0]):
        frame, content, position = Dataset(), Dataset(), Dataset()
        content.StackID, content.InStackPositionNumber, content.DimensionIndexValues = (
            "1",
            number + 1,
            [1, number + 1],
        )
        content.FrameAcquisitionDateTime = f"{export.date}101530.123"
        position.ImagePositionPatient = plane(voxels, affine, number)[2]
        frame.FrameContentSequence, frame.PlanePositionSequence = Items([content]), Items([position])
        frames.append(frame)
    dataset.SharedFunctionalGroupsSequence = Items([shared])
    dataset.PerFrameFunctionalGroupsSequence = Items(deepcopy(frames))
    picture = np.ascontiguousarray(voxels.transpose(0, 2, 1)[:, ::-1])
    dataset.Rows, dataset.Columns = picture.shape[1:]
    dataset.PixelData = picture.astype("<i2").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.save_as(path, enforce_file_format=True)
    return path


IMPLICIT = ImplicitVRLittleEndian
