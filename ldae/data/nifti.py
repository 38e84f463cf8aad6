# SPDX-License-Identifier: Apache-2.0
"""Reading and writing NIfTI: everything that can be wrong with a file is said here, in one sentence."""

from __future__ import annotations

import base64
import gzip
import io
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from ldae import __version__
from ldae.data.artefact import atomic_path
from ldae.errors import InputError

SUFFIXES = (".nii", ".nii.gz")
MOST_VOXELS = 1024**3
SMALLEST_VOXEL, LARGEST_VOXEL = 0.01, 100.0  # mm
# What nibabel, gzip and zlib raise on files that are damaged, cut short, or something else.
READ_ERRORS = (
    ImageFileError,
    OSError,
    EOFError,
    zlib.error,
    ValueError,
    KeyError,
    OverflowError,
    MemoryError,
    nib.spatialimages.HeaderDataError,
)


@dataclass(frozen=True)
class Geometry:
    """The grid that a scan came on: all that is needed to write something back onto it.

    Attributes:
        shape: Voxels along the three axes of the file.
        affine: Voxel indices to world millimetres (RAS+), [4, 4] float64.
        header: The file's binary NIfTI header, so that qform and sform, their codes and the units survive.
        path: Absolute path of the file.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    header: bytes
    path: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "shape": list(self.shape),
            "affine": self.affine.tolist(),
            "header": base64.b64encode(self.header).decode("ascii"),
            "path": self.path,
        }

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Geometry:
        """Inverse of `to_dict`."""
        first, second, third = document["shape"]
        return cls(
            shape=(first, second, third),
            affine=np.asarray(document["affine"], dtype=np.float64),
            header=base64.b64decode(document["header"]),
            path=document["path"],
        )


def check_suffix(path: Path) -> None:
    """Stop on names that are neither .nii nor .nii.gz."""
    if not path.name.lower().endswith(SUFFIXES):
        raise InputError(
            f"A scan's name must end in .nii or .nii.gz, got {path.name!r} in {path.parent}. "
            "Convert other formats to NIfTI first, for instance with dcm2niix or nibabel."
        )


def load_image(path: str | Path) -> nib.Nifti1Image:
    """Open a NIfTI file without reading its voxels.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: It is not NIfTI, or damaged.
    """
    path = Path(path)
    check_suffix(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"A scan must be a file, got {path}, which does not exist. Check the path.")
    try:
        image = nib.load(path)
    except READ_ERRORS as error:
        raise _unreadable(path, error) from error
    if not isinstance(image, nib.Nifti1Image):
        raise InputError(
            f"A scan must be a NIfTI file, got {type(image).__name__} in {path}. Convert it to NIfTI."
        )
    return image


def open_scan(path: str | Path) -> nib.Nifti1Image:
    """Open a 3D scan and check its header: dimensions, voxel type, orientation, length of the file.

    A fourth axis is refused even when its length is 1: which volume is meant is the user's to say.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: The header says that it is no 3D scan in known millimetres, or the file is cut short.
    """
    path = Path(path)
    image = load_image(path)
    try:
        _check_header(image, path)
    except InputError:
        raise
    except READ_ERRORS as error:
        raise _unreadable(path, error) from error
    return image


def _check_header(image: nib.Nifti1Image, path: Path) -> None:
    if len(image.shape) != 3:
        raise InputError(
            f"A scan must have 3 dimensions, got {len(image.shape)} {tuple(image.shape)} in {path}. "
            "Save the one volume that is meant as a 3D file."
        )
    if min(image.shape) < 2:
        raise InputError(f"A scan must have at least 2 voxels along each axis, got {image.shape} in {path}.")
    if math.prod(map(int, image.shape)) > MOST_VOXELS:
        raise InputError(
            f"A scan must have at most 1024 x 1024 x 1024 voxels, got {' x '.join(map(str, image.shape))} in "
            f"{path}. Resample it, or correct its header."
        )
    kind = image.get_data_dtype()
    if kind.kind not in "iuf":
        raise InputError(
            f"Voxels must be real numbers, got type {kind} in {path}. Save it as a magnitude image."
        )
    _check_frame(image, path)
    _check_length(image, path)


def _check_frame(image: nib.Nifti1Image, path: Path) -> None:
    header = image.header
    if header["qform_code"] == 0 and header["sform_code"] == 0:
        raise InputError(
            f"A scan must say where its voxels lie, got qform and sform codes 0 in {path}. "
            "Convert it anew from DICOM, or set the sform if you know left from right."
        )
    frame = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(frame).all() or abs(np.linalg.det(frame[:3, :3])) < 1e-9:
        raise InputError(
            f"A scan's affine must be invertible, got {frame[:3].tolist()} in {path}. Correct its header."
        )
    sizes = np.linalg.norm(frame[:3, :3], axis=0)
    if sizes.min() < SMALLEST_VOXEL or sizes.max() > LARGEST_VOXEL:
        raise InputError(
            f"A scan's voxels must be {SMALLEST_VOXEL} to {LARGEST_VOXEL} mm wide, got "
            f"{' x '.join(f'{size:.3g}' for size in sizes)} in {path}. Correct its header."
        )
    unit = header.get_xyzt_units()[0]
    if unit not in ("mm", "unknown"):
        raise InputError(f"A scan's lengths must be in mm, got {unit} in {path}. Rescale its affine to mm.")


def _check_length(image: nib.Nifti1Image, path: Path) -> None:
    """Find files cut short without unpacking them: by size, or by the length that gzip notes at its end."""
    voxels = math.prod(map(int, image.shape)) * image.get_data_dtype().itemsize
    proxy: Any = image.dataobj
    expected = int(proxy.offset) + voxels
    if path.name.lower().endswith(".gz"):
        with open(path, "rb") as stream:
            stream.seek(-4, os.SEEK_END)
            noted = int.from_bytes(stream.read(4), "little")
        # Joined gzip members note the length of the last one only, so a mismatch is a suspicion.
        length = expected if noted == expected % 2**32 else _unpacked_length(path)
    else:
        length = path.stat().st_size
    if length < expected:
        raise InputError(
            f"A NIfTI file must hold all voxels of its header ({expected} bytes), got {length} bytes "
            f"in {path}. It is cut short: copy or convert it again."
        )


def _unpacked_length(path: Path) -> int:
    length = 0
    try:
        with gzip.open(path) as stream:
            while block := stream.read(1 << 20):
                length += len(block)
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from error
    return length


def _unreadable(path: Path, error: BaseException) -> InputError:
    reason = str(error).strip().splitlines()
    return InputError(
        f"A scan must be a readable NIfTI file, got {path}: {reason[0] if reason else type(error).__name__}. "
        "It is damaged or cut short: copy or convert it again."
    )


def read_voxels(image: nib.Nifti1Image, path: str | Path) -> NDArray[np.float32]:
    """The voxels with the header's scaling applied, float32 [X, Y, Z] on the file's own axes.

    Raises:
        InputError: They cannot be read, are not all finite, or are all the same.
    """
    try:
        voxels: NDArray[np.float32] = image.get_fdata(dtype=np.float32, caching="unchanged")
    except READ_ERRORS as error:
        raise _unreadable(Path(path), error) from error
    low, high = float(voxels.min()), float(voxels.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        count = int((~np.isfinite(voxels)).sum())
        raise InputError(
            f"Voxels must be finite, got {count} NaN or infinite ones in {path}. "
            "Replace them (by 0 outside of the head), or leave the scan out."
        )
    if low == high:
        raise InputError(
            f"A scan must hold an image, got the value {low:g} everywhere in {path}. Leave it out."
        )
    return voxels


def read_geometry(image: nib.Nifti1Image, path: str | Path) -> Geometry:
    """The grid of an opened 3D scan."""
    first, second, third = image.shape
    return Geometry(
        shape=(int(first), int(second), int(third)),
        affine=np.asarray(image.affine, dtype=np.float64),
        header=bytes(image.header.binaryblock),
        path=os.path.abspath(path),
    )


def write_on_geometry(voxels: NDArray[np.float32], geometry: Geometry, path: Path) -> None:
    """Write voxels [X, Y, Z] with the geometry's header: its frames, codes, zooms and units, as float32."""
    kind = nib.Nifti2Header if len(geometry.header) == nib.Nifti2Header.sizeof_hdr else nib.Nifti1Header
    header = kind.from_fileobj(io.BytesIO(geometry.header + b"\0\0\0\0"), check=False)
    header.set_data_dtype(np.float32)
    header.set_slope_inter(1, 0)
    header["cal_max"] = header["cal_min"] = 0
    image: Any = nib.Nifti2Image if kind is nib.Nifti2Header else nib.Nifti1Image
    # Without an affine of its own the image keeps the header's two frames as they are.
    _write(image(voxels, None, header), path)


def write_on_affine(voxels: NDArray[np.float32], affine: NDArray[np.float64], path: Path) -> None:
    """Write voxels [X, Y, Z] in world millimetres, as float32."""
    image = nib.Nifti1Image(voxels, affine)
    image.set_data_dtype(np.float32)
    image.set_qform(affine, code="aligned")
    image.set_sform(affine, code="aligned")
    image.header.set_xyzt_units("mm", "sec")
    _write(image, path)


def _write(image: nib.Nifti1Image, path: Path) -> None:
    check_suffix(path)
    image.header["descrip"] = f"ldae {__version__}".encode()
    with atomic_path(path) as temporary:
        nib.save(image, temporary)
