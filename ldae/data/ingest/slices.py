# SPDX-License-Identifier: Apache-2.0
"""The slices of a DICOM series and whether they make up one whole volume.

Nothing is sorted into a volume here: that is the converter's work, and `check_converted` holds its result
against every slice's own position and pixels (DICOM PS3.3 C.7.6.2.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldae.data.ingest.headers import number
from ldae.data.ingest.manifest import RejectionError

# How far slices may lie from an even row of positions, as a share of their distance.
UNEVEN = 0.02
# Cosine of the angle between the slices' normal and the row of their positions: 0.5 degrees of tilt.
UPRIGHT = 0.99996
# How far apart slices may lie, as a share of what the header notes; every second one missing makes it 2.
WIDER = 1.5
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Slice:
    """One frame.

    Attributes:
        affine: (row, column, 0) to world millimetres, RAS+, [4, 4]; the third column is the normal.
        pixels: Rescaled, float32 [rows, columns].
        source: Which dataset it came from.
        echo: Echo time in ms, or None.
        thickness: Noted thickness in mm, or None.
        distance: Noted distance to the next slice in mm, or None.
        instance: Instance number of a file with one frame, or None.
    """

    affine: NDArray[np.float64]
    pixels: NDArray[np.float32]
    source: int
    echo: float | None
    thickness: float | None
    distance: float | None
    instance: float | None

    @property
    def height(self) -> float:
        """Position along the normal, in mm."""
        return float(self.affine[:3, 2] @ self.affine[:3, 3])


def read_slices(datasets: Sequence[Any]) -> list[Slice]:
    """Every frame of a series; classic files have one, enhanced files many.

    Raises:
        RejectionError: Pixels or geometry are missing or damaged.
    """
    frames: list[Slice] = []
    for source, dataset in enumerate(datasets):
        try:
            pixels = np.asarray(dataset.pixel_array)
        except Exception as error:
            # so do the decoders behind pydicom: ValueError, RuntimeError and their own kinds
            raise RejectionError("extract", "damaged pixel data", detail=str(error)) from error
        shared = _first(dataset, "SharedFunctionalGroupsSequence")
        groups = dataset.get("PerFrameFunctionalGroupsSequence") or [None]
        stack = pixels[None] if pixels.ndim == 2 else pixels
        if stack.ndim != 3 or len(stack) != len(groups):
            raise RejectionError("extract", "pixels are no grey-scale slices")
        for picture, own in zip(stack, groups, strict=True):
            frames.append(_frame(dataset, picture, levels=(own, shared), source=source))
    return frames


def _frame(dataset: Any, picture: NDArray[Any], *, levels: tuple[Any, ...], source: int) -> Slice:
    measures = _group(dataset, levels, "PixelMeasuresSequence")
    plane = _group(dataset, levels, "PlaneOrientationSequence")
    position = _group(dataset, levels, "PlanePositionSequence")
    values = _group(dataset, levels, "PixelValueTransformationSequence")
    timing = _group(dataset, levels, "MREchoSequence")
    try:
        along_row = np.asarray(plane.ImageOrientationPatient[:3], dtype=float)
        along_column = np.asarray(plane.ImageOrientationPatient[3:], dtype=float)
        down, right = (float(value) for value in measures.PixelSpacing)
        corner = np.asarray(position.ImagePositionPatient, dtype=float)
    except (AttributeError, TypeError, ValueError) as error:
        raise RejectionError("extract", "slices without position, orientation or spacing") from error
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = along_column * down, along_row * right
    # rounded directions have not quite the length 1
    normal = np.cross(along_row, along_column)
    if not np.linalg.norm(normal) > UNEVEN:
        raise RejectionError("extract", "slices without position, orientation or spacing")
    affine[:3, 2], affine[:3, 3] = normal / np.linalg.norm(normal), corner
    try:
        slope, intercept = float(values.get("RescaleSlope", 1)), float(values.get("RescaleIntercept", 0))
    except (TypeError, ValueError) as error:
        raise RejectionError("extract", "slope or intercept of the values is no number") from error
    pixels = (picture.astype(np.float64) * slope + intercept).astype(np.float32)
    echo = timing.get("EffectiveEchoTime", timing.get("EchoTime"))
    return Slice(
        LPS_TO_RAS @ affine,
        pixels,
        source,
        echo=None if echo is None else float(echo),
        thickness=number(measures.get("SliceThickness")),
        distance=number(measures.get("SpacingBetweenSlices")),
        instance=None if "NumberOfFrames" in dataset else number(dataset.get("InstanceNumber")),
    )


def _first(dataset: Any, name: str) -> Any:
    sequence = dataset.get(name)
    return sequence[0] if sequence else None


def _group(dataset: Any, levels: tuple[Any, ...], name: str) -> Any:
    """Where a group of elements stands: per frame, shared, or in a classic dataset itself."""
    for level in levels:
        if level is not None and level.get(name):
            return level.get(name)[0]
    return dataset


def check_stack(slices: Sequence[Slice], *, min_slices: int) -> tuple[list[int], int]:
    """Check that slices fill one regular grid.

    Returns:
        Indices of the slices to keep, and how many were exact duplicates of kept ones.

    Raises:
        RejectionError: Too few, of several geometries or echoes, repeated, missing, or tilted.
    """
    first = slices[0]
    for one in slices[1:]:
        same = one.pixels.shape == first.pixels.shape and one.echo == first.echo
        if not same or np.abs(one.affine[:3, :3] - first.affine[:3, :3]).max() > 1e-3:
            raise RejectionError("extract", "slices of several geometries or echoes in one series")
    order = sorted(range(len(slices)), key=lambda index: slices[index].height)
    kept = [order[0]]
    for index in order[1:]:
        if slices[index].height - slices[kept[-1]].height > 1e-3:
            kept.append(index)
        elif not np.array_equal(slices[index].pixels, slices[kept[-1]].pixels):
            raise RejectionError("extract", "several slices at one position")
    if len(kept) < min_slices:
        raise RejectionError("extract", "too few slices")
    corners = np.stack([slices[index].affine[:3, 3] for index in kept])
    steps = np.diff(corners, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    typical = float(np.median(lengths))
    if np.abs(lengths - typical).max() > UNEVEN * typical + 1e-3:
        raise RejectionError("extract", "missing slices: distances between slices differ")
    row = corners[-1] - corners[0]
    if abs(float(row @ first.affine[:3, 2])) < UPRIGHT * float(np.linalg.norm(row)):
        raise RejectionError("extract", "tilted stack: slices are not stacked along their normal")
    return kept, len(slices) - len(kept)


def check_distance(stack: Sequence[Slice], *, three_d: bool) -> list[str]:
    """Check a regular stack against what its headers note, as slices missing by turns leave it regular.

    Args:
        stack: Kept slices in their order.
        three_d: Whether the acquisition is three-dimensional, and so without gaps between slices.

    Returns:
        Flags.

    Raises:
        RejectionError: The slices lie wider apart than noted.
    """
    found = float(np.median(np.diff([one.height for one in stack])))
    noted = abs(stack[0].distance or 0) or (stack[0].thickness or 0 if three_d else 0)
    if 0 < WIDER * noted < found:
        raise RejectionError("extract", "missing slices: wider apart than the header notes")
    numbers = [one.instance for one in stack if one.instance is not None]
    steps = set(np.abs(np.diff(numbers)).tolist())
    gaps = len(numbers) == len(stack) and len(steps) == 1 and steps.pop() > 1
    late = len(numbers) == len(stack) and min(numbers) > 1
    flags = ["instance numbers leave gaps: slices may be missing"] if gaps else []
    return flags + (["instance numbers do not begin at 1: slices may be missing"] if late else [])


def check_converted(
    voxels: NDArray[np.float32], affine: NDArray[np.float64], *, slices: Sequence[Slice]
) -> None:
    """Hold a converted volume against the slices: every pixel must stand where its slice says.

    Raises:
        RejectionError: A slice lies elsewhere or has other values.
    """
    if voxels.size != sum(one.pixels.size for one in slices):
        raise RejectionError("extract", "conversion lost or added voxels")
    back = np.linalg.inv(affine)
    for one in slices:
        to_voxel = back @ one.affine
        rows, columns = np.indices(one.pixels.shape)
        points = to_voxel[:3, [0, 1]] @ np.stack([rows.ravel(), columns.ravel()]) + to_voxel[:3, 3:]
        nearest = np.rint(points).astype(int)
        if np.abs(points - nearest).max() > 0.05 or (nearest < 0).any():
            raise RejectionError("extract", "conversion moved voxels")
        if (nearest >= np.array(voxels.shape)[:, None]).any():
            raise RejectionError("extract", "conversion moved voxels")
        found = voxels[tuple(nearest)].reshape(one.pixels.shape)
        if not np.allclose(found, one.pixels, rtol=1e-4, atol=1e-3 * float(np.ptp(one.pixels)) + 1e-6):
            raise RejectionError("extract", "conversion changed values")
